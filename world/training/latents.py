"""What all training of the small world reads: cached latents, tokenised captions, and the noise schedule.

`python -m world.training.latents` encodes the canvases by the newest autoencoder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .. import autoencoders
from ..drawing.build import COUNTS
from ..drawing.sprites import CACHE
from ..host import small_base


@dataclass
class Data:
    """Latents [N, C, 8 or 16, 8 to 24], caption rows [N, 77] and the vocabulary ids [V]."""

    latents: dict[str, torch.Tensor]
    rows: dict[str, torch.Tensor]
    ids: torch.Tensor
    empty: torch.Tensor

    def to(self, device: str) -> Data:
        latents, rows = ({k: v.to(device) for k, v in part.items()} for part in (self.latents, self.rows))
        return Data(latents, rows, self.ids, self.empty.to(device))

    @property
    def channels(self) -> int:
        return self.latents["single"].shape[1]


def tokenize(captions: list[str]) -> torch.Tensor:
    """Token ids [N, 77] by the host's own tokenizer, with its padding."""
    tokenizer = small_base().comfy.sd1_clip.SD1Tokenizer()
    known: dict[str, list[int]] = {}
    out = []
    for caption in captions:
        if caption not in known:
            known[caption] = [t for t, _ in tokenizer.tokenize_with_weights(caption)["l"][0]]
        out.append(known[caption])
    return torch.tensor(out)


def load_data() -> Data:
    """Read the cached latents; tokenised captions are cached beside them."""
    cache = torch.load(CACHE / "latents.pt")
    path = CACHE / "tokens.pt"
    if not path.exists():
        tokens = {label: tokenize(c) for label, c in cache["captions"].items()}
        torch.save({**tokens, "empty": tokenize([""])}, path)
    tokens = torch.load(path)
    ids = torch.cat([t.reshape(-1) for t in tokens.values()]).unique()
    rows = {k: torch.searchsorted(ids, t) for k, t in tokens.items()}
    return Data(cache["latents"], rows, ids, rows.pop("empty"))


def alphas() -> torch.Tensor:
    """Cumulative alphas of SD's schedule (scaled linear, 1000 steps)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def load_pixels(label: str) -> tuple[torch.Tensor, np.ndarray]:
    """uint8 [N, H, W, 3] and captions."""
    with np.load(CACHE / f"{label}.npz") as data:
        return torch.from_numpy(data["pixels"]), data["captions"]


@torch.inference_mode()
def cache_latents(net: torch.nn.Module) -> None:
    """Write standardised fp16 latents and captions, with the statistics that undo the standardisation."""
    encoded = {}
    for label in COUNTS:
        pixels, captions = load_pixels(label)
        parts = [net.encode(autoencoders.to_float(part)) for part in pixels.split(256)]
        encoded[label] = torch.cat(parts), list(map(str, captions))
    record = measure_latents(net, encoded)
    mean, std = record["mean"].view(1, -1, 1, 1), record["std"].view(1, -1, 1, 1)
    out = {label: ((z - mean) / std).half() for label, (z, _) in encoded.items()}
    captions = {label: words for label, (_, words) in encoded.items()}
    torch.save({**record, "latents": out, "captions": captions}, CACHE / "latents.pt.new")
    os.replace(CACHE / "latents.pt.new", CACHE / "latents.pt")
    (CACHE / "tokens.pt").unlink(missing_ok=True)


def measure_latents(net: torch.nn.Module, encoded: dict) -> dict[str, torch.Tensor]:
    """Mean and deviation per channel, and the linear map from standardised latents to colours, for previews."""
    both = torch.cat([z.movedim(1, -1).reshape(-1, net.channels) for z, _ in encoded.values()])
    mean, std = both.mean(0), both.std(0)
    colours = F.avg_pool2d(autoencoders.to_float(load_pixels("single")[0][:2000]), 8).movedim(1, -1).reshape(-1, 3)
    codes = (encoded["single"][0][:2000] - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    codes = F.pad(codes.movedim(1, -1).reshape(-1, net.channels), (0, 1), value=1.0)
    rgb = torch.linalg.lstsq(codes, colours).solution
    print("latent deviations before standardising:", [round(float(s), 2) for s in std], flush=True)
    return {"mean": mean, "std": std, "rgb": rgb[:-1], "rgb_bias": rgb[-1]}


if __name__ == "__main__":
    cache_latents(autoencoders.load())
