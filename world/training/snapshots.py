"""A base's newest snapshot: `python -m world.training.snapshots [--raw] [--base b|c] OUT.png` draws its sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from . import base as base_a
from . import base_b, base_c
from .latents import load_data
from .sheets import draw_sheet


def recipe_of(name: str):
    """The training recipe of base "a" (SD1.5's kind), "b" (SDXL's kind) or "c" (Cosmos-Predict2's kind)."""
    return {"a": base_a.BASE_A, "b": base_b.BASE_B, "c": base_c.BASE_C}[name]


def load_snapshot(raw: bool = False, base: str = "a"):
    """(net, data, snapshot) of the newest snapshot, EMA weights unless `raw`."""
    data, recipe = load_data(), recipe_of(base)
    snapshot = torch.load(recipe.snapshot)
    net = recipe.build(data.ids, data.channels)
    net.load_state_dict(snapshot["net" if raw else "ema"])
    return net.requires_grad_(False), data, snapshot


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--base", choices=("a", "b", "c"), default="a", help="of which kind")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    net, data, snapshot = load_snapshot(arguments.raw, arguments.base)
    draw_sheet(net, data, arguments.out, recipe_of(arguments.base).sample)
    print(f"step {snapshot['step']}, {snapshot['seen']} images -> {arguments.out}")


if __name__ == "__main__":
    main()
