"""Writes assets/demo/small_base*.safetensors from a snapshot: `python -m world.training.export [--raw] [--base b|c]`.

Base C's file holds its net alone: its text tower and its autoencoder are read from base A's.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file

from .. import autoencoders
from ..drawing.sprites import CACHE
from ..host import small_base, small_base_dit, small_base_xl
from .base import TextTower
from .base_b import second_ids
from .base_c import NetC
from .snapshots import load_snapshot

FILES = {"a": small_base, "b": small_base_xl, "c": small_base_dit}


def rows() -> ModuleType:
    return autoencoders.demo_module("rows")


def tower(text: TextTower, ids: torch.Tensor, prefix: str) -> dict[str, torch.Tensor]:
    """A text tower's tensors: fp16, and the ids of the rows that it was trained on."""
    tensors = {f"{prefix}text_model.{k}": v.half() for k, v in text.model.state_dict().items()}
    if hasattr(text, "projection"):
        tensors[f"{prefix}text_projection.weight"] = text.projection.weight.data.half()
    return tensors | {
        f"{prefix}vocabulary.rows": text.table.weight.data.half(),
        f"{prefix}vocabulary.ids": ids.to(torch.int32),
    }


def net_tensors(net: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The net as it is stored, and base A's text tower (text.) or base B's (clip_l., clip_g.)."""
    unet = rows().packed({f"unet.{k}": v for k, v in net.unet.state_dict().items()})
    if isinstance(net, NetC):
        return unet
    if hasattr(net, "second"):
        return unet | tower(net.text, ids, "clip_l.") | tower(net.second, second_ids(ids), "clip_g.")
    return unet | tower(net.text, ids, "text.")


def vae_tensors(autoencoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The decoder as 8-bit rows, which costs 0.01 dB; the encoder in fp16, where they would cost a decibel."""
    weights = {f"vae.{k}": v for k, v in autoencoder.state_dict().items()}
    decoder = {k: v for k, v in weights.items() if k.startswith("vae.decoder.") and not k.startswith("vae.decoder.0.")}
    return {k: v.half() for k, v in weights.items() if k not in decoder} | rows().packed(decoder)


def collect(raw: bool, base: str = "a") -> tuple[dict[str, torch.Tensor], dict]:
    """All tensors of the file, with those under vae. and latent., and a small record of the training."""
    net, data, snapshot = load_snapshot(raw, base)
    tensors = net_tensors(net, data.ids)
    if base != "c":
        cache = torch.load(CACHE / "latents.pt", mmap=True)
        tensors |= vae_tensors(autoencoders.load())
        tensors |= {f"latent.{k}": cache[k].half() for k in ("mean", "std", "rgb", "rgb_bias")}
    hours = round(snapshot["elapsed"] / 3600, 2)
    record = {"steps": snapshot["step"], "images": snapshot["seen"], "hours": hours, "average": not raw}
    return {k: v.contiguous() for k, v in tensors.items()}, record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", action="store_true", help="raw weights instead of their moving average")
    parser.add_argument("--base", choices=tuple(FILES), default="a", help="of which kind")
    parser.add_argument("--out", type=Path, help="another file than the one in assets/demo, for weights on trial")
    options = parser.parse_args()
    tensors, record = collect(options.raw, options.base)
    out = options.out or FILES[options.base]().WEIGHTS
    temporary = out.with_suffix(".tmp")
    save_file(tensors, str(temporary), metadata={"format": "pt", "mixofshow.small_base": json.dumps(record)})
    os.replace(temporary, out)
    print(f"{out.name}: {out.stat().st_size / 2**20:.1f} MiB, {record}")


if __name__ == "__main__":
    main()
