"""Writes assets/demo/small_base.safetensors from the newest snapshot: `python -m world.export [--raw]`."""
from __future__ import annotations

import argparse
import json
import os

import torch
from safetensors.torch import save_file

from .host import ROOT
from .sheets import load_snapshot
from .sprites import CACHE

OUT = ROOT / "assets" / "demo" / "small_base.safetensors"


def collect(raw: bool) -> tuple[dict[str, torch.Tensor], dict]:
    """fp16 tensors under unet., text., vae. and latent., and a small record of the training."""
    net, data, snapshot = load_snapshot(raw)
    cache = torch.load(CACHE / "latents.pt", mmap=True)
    tensors = {f"unet.{k}": v for k, v in net.unet.state_dict().items()}
    tensors |= {f"text.text_model.{k}": v for k, v in net.text.model.state_dict().items()}
    tensors |= {f"vae.{k}": v for k, v in torch.load(CACHE / "autoencoder.pt").items()}
    tensors["text.vocabulary.rows"] = net.text.table.weight.data
    tensors |= {f"latent.{k}": cache[k] for k in ("mean", "std", "rgb", "rgb_bias")}
    tensors = {k: v.half().contiguous() for k, v in tensors.items()}
    tensors["text.vocabulary.ids"] = data.ids.to(torch.int32)
    hours = round(snapshot["elapsed"] / 3600, 2)
    return tensors, {"steps": snapshot["step"], "images": snapshot["seen"], "hours": hours, "average": not raw}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", action="store_true", help="raw weights instead of their moving average")
    tensors, record = collect(parser.parse_args().raw)
    temporary = OUT.with_suffix(".tmp")
    save_file(tensors, str(temporary), metadata={"format": "pt", "mixofshow.small_base": json.dumps(record)})
    os.replace(temporary, OUT)
    print(f"{OUT.name}: {OUT.stat().st_size / 2**20:.1f} MiB, {record}")


if __name__ == "__main__":
    main()
