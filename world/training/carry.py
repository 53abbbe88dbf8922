"""Begins a base from a shipped one whose latents may be those of another autoencoder.

Both codes of a picture stand for the same 8 x 8 pixels, so the old one is nearly a linear function of the new one; the
first and the last convolution take that function in, and everything between them stays what was learned.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from .. import autoencoders
from .latents import CACHE, load_pixels

ENTRANCE, EXIT = "unet.input_blocks.0.0.weight", "unet.out.2"
PICTURES = 3000


def read_shipped(path: Path) -> dict:
    """A file of assets/demo as a snapshot of training has it ("ema", "ids"), in the latents of CACHE/latents.pt."""
    with safe_open(path, framework="pt") as file:
        tensors = autoencoders.demo_module("rows").unpack({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("unet.")}
    weights |= {f"text.model.{name[16:]}": t for name, t in tensors.items() if name.startswith("text.text_model.")}
    weights["text.table.weight"] = tensors["text.vocabulary.rows"]
    cache = torch.load(CACHE / "latents.pt", mmap=True)
    latents = cache["latents"]["single"][:PICTURES].float()
    pixels = load_pixels("single")[0][:PICTURES]
    net = autoencoders.of_base(path)
    mean, std = (tensors[f"latent.{key}"].view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        older = torch.cat([(net.encode(autoencoders.to_float(p)) - mean) / std for p in pixels.split(256)])
    return {"ema": change_latents(weights, fit_map(latents, older)), "ids": tensors["text.vocabulary.ids"].long()}


def fit_map(latents: torch.Tensor, older: torch.Tensor) -> torch.Tensor:
    """[C, D]: the least-squares map from new codes [N, D, h, w] to old ones [N, C, h, w] of the same pictures."""
    new, old = (z.movedim(1, -1).reshape(-1, z.shape[1]) for z in (latents, older))
    solution = torch.linalg.lstsq(new, old).solution
    print(f"the old latents, from the new ones: {float((new @ solution).var() / old.var()):.0%} of their variance")
    return solution.T


def change_latents(weights: dict[str, torch.Tensor], change: torch.Tensor) -> dict[str, torch.Tensor]:
    """``weights`` of a UNet for new latents; ``change`` [C, D] turns those into the ones that it was trained on."""
    back = torch.linalg.pinv(change)
    return weights | {
        ENTRANCE: torch.einsum("ocij,cd->odij", weights[ENTRANCE], change),
        f"{EXIT}.weight": torch.einsum("dc,cnij->dnij", back, weights[f"{EXIT}.weight"]),
        f"{EXIT}.bias": back @ weights[f"{EXIT}.bias"],
    }
