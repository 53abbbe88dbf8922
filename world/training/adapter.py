"""Trains the small bases' sketch adapter: `python -m world.training.adapter --minutes 8`; again to go on.

The condition is a line drawing of the canvas, the shipped base A stays as it is, the loss is the base's own. Part of a
drawing is left empty now and then, so that empty paper asks for nothing. Writes small_sketch_adapter.safetensors into
assets/demo.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time

import numpy as np
import torch
from safetensors.torch import save_file

from .. import autoencoders
from ..drawing.sprites import CACHE
from ..host import small_base
from .base import TEST, loss_of
from .keep import keep
from .latents import alphas

SNAPSHOT = CACHE / "adapter.pt"
PEAK = 1e-3
BATCH = 16  # singles; doubles count as two
LIMITS = (0.04, 0.12)  # smallest slope that makes a line


class Guided:
    """The frozen base with an adapter in front, in the form that `loss_of` asks for."""

    def __init__(self) -> None:
        model, clip, _ = small_base().load_small_base()
        from mos_pack.nodes.bridge.demo.adapter import SmallAdapter

        self.unet, self.text, self.adapter = model.model.diffusion_model, clip.cond_stage_model.clip_l, SmallAdapter()

    def conditions(self, tokens: torch.Tensor, height: int, width: int, sketch: torch.Tensor) -> dict:
        with torch.no_grad():
            context = self.text(tokens.tolist())[0]
        return {"context": context, "control": self.adapter(sketch)}


def load_pictures() -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Per label: pixels uint8 [N, H, W, 3], latents [N, C, h, w], token ids [N, 77]."""
    cache, tokens = torch.load(CACHE / "latents.pt", mmap=True), torch.load(CACHE / "tokens.pt", mmap=True)
    found = {}
    for label in ("single", "double"):
        with np.load(CACHE / f"{label}.npz") as data:
            found[label] = torch.from_numpy(data["pixels"]), cache["latents"][label], tokens[label]
    found["empty"] = tokens["empty"]
    return found


def draw_batch(pictures: dict, label: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, token ids and line drawings; one caption in ten and one drawing in eight are emptied."""
    from mos_pack.mixofshow_core.regional.lines import draw_lines

    pixels, latents, tokens = pictures[label]
    pick = torch.randint(len(pixels) - TEST, (BATCH if label == "single" else BATCH // 2,))
    rows = tokens[pick].clone()
    rows[torch.rand(len(pick)) < 0.1] = pictures["empty"][0]
    limit = float(torch.empty(1).uniform_(*LIMITS))
    sketch = draw_lines(pixels[pick].permute(0, 3, 1, 2).float() / 255, limit)
    for field in sketch.split(64, 3):
        field[torch.rand(len(pick)) < 0.125] = 0
    return latents[pick].float(), rows, sketch


def write_adapter(adapter: torch.nn.Module, record: dict) -> None:
    from mos_pack.nodes.bridge.demo.adapter import SKETCH

    save_file(
        autoencoders.demo_module("rows").packed(adapter.state_dict()),
        str(SKETCH) + ".tmp",
        metadata={"mixofshow.sketch_adapter": json.dumps(record)},
    )
    os.replace(str(SKETCH) + ".tmp", SKETCH)
    print(f"{SKETCH.name}: {SKETCH.stat().st_size / 2**10:.0f} KiB, {record}", flush=True)


def train(minutes: float) -> None:
    torch.manual_seed(0)
    net, pictures, schedule = Guided(), load_pictures(), alphas()
    parameters = list(net.adapter.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.01)
    step, elapsed, seen = 0, 0.0, 0
    if SNAPSHOT.exists():
        saved = torch.load(SNAPSHOT)
        net.adapter.load_state_dict(saved["adapter"])
        optimiser.load_state_dict(saved["optimiser"])
        step, elapsed, seen = saved["step"], saved["elapsed"], saved["seen"]
        torch.manual_seed(step)
    losses, shown, clock = [], time.time(), time.time() - elapsed
    while (elapsed := time.time() - clock) < 60 * minutes:
        done = elapsed / (60 * minutes)
        for group in optimiser.param_groups:
            group["lr"] = PEAK * min(1.0, (step + 1) / 100) * max(0.03, 0.5 * (1 + math.cos(math.pi * done)))
        x, rows, sketch = draw_batch(pictures, "double" if step % 3 == 2 else "single")
        loss = loss_of(net, x, rows, schedule, sketch=sketch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        step, seen = step + 1, seen + BATCH
        if time.time() - shown > 30:
            shown = time.time()
            print(f"step {step} canvases {seen} {100 * done:.0f} % loss {np.mean(losses[-200:]):.4f}", flush=True)
            save(net, optimiser, step, elapsed, seen)
    save(net, optimiser, step, elapsed, seen)
    write_adapter(net.adapter, {"steps": step, "canvases": seen, "minutes": round(elapsed / 60, 1)})


def save(net: Guided, optimiser, step: int, elapsed: float, seen: int) -> None:
    state = {"adapter": net.adapter.state_dict(), "optimiser": optimiser.state_dict()}
    keep(state | {"step": step, "elapsed": elapsed, "seen": seen}, SNAPSHOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="whole length of training, earlier runs included")
    torch.set_num_threads(1)
    train(parser.parse_args().minutes)


if __name__ == "__main__":
    main()
