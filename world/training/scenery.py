"""Trains the scenery add-on, a LoRA of the shipped base A: `python -m world.training.scenery --minutes 10`; resumable.

The base has seen its subjects on flat colours only. The add-on shows it the same subjects in front of skies, hills and
shapes drawn at random here, which are in no learned scene, so that a scene concept has something to stand on. The
base stays as it is. Writes small_scenery_addon.safetensors into assets/demo, a file as LoRA trainers write them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn

from ..drawing import build
from ..drawing.captions import Scene, make_scene
from ..drawing.sprites import CACHE, scaled
from ..host import small_base
from .autoencoder import load_autoencoder, to_float
from .base import loss_of
from .keep import keep
from .latents import alphas, tokenize

SNAPSHOT, DRAWN = CACHE / "scenery.pt", CACHE / "scenery-latents.pt"
FILE = Path(__file__).resolve().parents[2] / "assets" / "demo" / "small_scenery_addon.safetensors"
COUNTS = {"single": (1, 5000), "double": (2, 2500), "triple": (3, 800), "wide": (2, 1500), "wider": (3, 700)}
SHARES = {"single": 0.45, "double": 0.2, "triple": 0.1, "wide": 0.15, "wider": 0.1}
RANK, PEAK, BATCH = 16, 2e-3, 16
WORDS = " in a background"  # words that the base's vocabulary has
FLAT = 0.25  # share of batches from the base's own canvases, so that a colour asked for stays flat
EMPTY = 0.15  # share of scenery without anybody, and of texts that are emptied


def draw_scenery(width: int, rng: random.Random) -> Image.Image:
    """RGB [64, width]: a sky, one to three grounds, a few shapes; drawn four times as large."""
    wide, high = 4 * width, 256

    def colour() -> tuple[int, int, int]:
        return tuple(rng.randint(20, 250) for _ in range(3))

    top, bottom = np.asarray(colour()), np.asarray(colour())
    steps = np.linspace(0, 1, high)[:, None, None]
    rows = np.broadcast_to(top * (1 - steps) + bottom * steps, (high, wide, 3))
    picture = Image.fromarray(rows.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    horizon = rng.randint(70, 190)
    _shapes(draw, rng, wide, (0, horizon), colour)
    for _ in range(rng.randint(1, 3)):
        wave, height, phase = rng.uniform(30, 200), rng.uniform(0, 22), rng.uniform(0, 6)
        line = [(x, horizon + height * math.sin(x / wave + phase)) for x in range(-8, wide + 9, 8)]
        draw.polygon([*line, (wide, high), (0, high)], fill=colour())
        horizon += rng.randint(18, 70)
    _shapes(draw, rng, wide, (min(horizon - 60, high), high), colour)
    return picture.resize((width, 64), Image.Resampling.LANCZOS)


def _shapes(draw: ImageDraw.ImageDraw, rng: random.Random, wide: int, rows: tuple[int, int], colour) -> None:
    """Discs, peaks, houses, trunks and stripes, more on a wider canvas."""
    for _ in range(rng.randint(0, 4) * wide // 256):
        x, y, a, b = rng.randint(0, wide), rng.randint(*rows), rng.randint(8, 60), rng.randint(8, 60)
        kind = rng.randrange(4)
        if kind == 0:
            draw.ellipse((x - a, y - a, x + a, y + a), fill=colour())
        elif kind == 1:
            draw.polygon(((x - a, y + b), (x, y - b), (x + a, y + b)), fill=colour())
        elif kind == 2:
            draw.rectangle((x - a, y - b, x + a, y + b), fill=colour(), outline=colour(), width=rng.choice((0, 6)))
        else:
            draw.line((x, y - b, x + rng.randint(-20, 20), y + b), fill=colour(), width=rng.randint(4, 14))


def draw_one(fields: int, copies: int, rng: random.Random) -> tuple[np.ndarray, str]:
    """One canvas and its caption; `copies` of one subject where the caption names no place."""
    subjects = tuple(rng.choice(build._people if rng.random() < 0.6 else build._emoji) for _ in range(fields))
    scene: Scene = make_scene(subjects, rng)
    canvas = draw_scenery(64 * fields * copies, rng)
    if rng.random() < EMPTY:
        return np.asarray(canvas), "a background"
    for i, subject in enumerate(subjects * copies):
        build.paste(canvas, subject, 64 * i, rng)
    return np.asarray(canvas), scene.caption.removesuffix(f", {scene.background} background") + WORDS


def load_scenery() -> dict:
    """label -> (standardised latents [N, C, 8, 8 to 24], token ids [N, 77]); drawn and encoded once."""
    if not DRAWN.exists():
        build.load_sprites()
        net, rng, record = load_autoencoder(), random.Random(7), torch.load(CACHE / "latents.pt", mmap=True)
        mean, std = (record[key].view(1, -1, 1, 1) for key in ("mean", "std"))
        found = {}
        for label, (fields, count) in COUNTS.items():
            copies = fields if label in ("wide", "wider") else 1
            drawn = [draw_one(fields // copies, copies, rng) for _ in range(scaled(count, 40))]
            pixels = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
            with torch.inference_mode():
                latents = torch.cat([net.encode(to_float(part)) for part in pixels.split(256)])
            found[label] = ((latents - mean) / std).half(), tokenize([caption for _, caption in drawn])
        torch.save(found, DRAWN)
    found = torch.load(DRAWN)
    flat, tokens = torch.load(CACHE / "latents.pt", mmap=True)["latents"], torch.load(CACHE / "tokens.pt", mmap=True)
    return {
        "scenery": found,
        "flat": {label: (flat[label], tokens[label]) for label in COUNTS},
        "empty": tokens["empty"],
    }


class Adapted(nn.Module):
    """A linear or convolution layer and its low-rank change: down and up as LoRA files have them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, weight = layer, layer.weight
        self.convolves = weight.dim() == 4
        rank = min(RANK, *weight.shape[:2])
        self.down = nn.Parameter(torch.randn(rank, *weight.shape[1:]) / math.sqrt(weight[0].numel()))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, *[1] * (weight.dim() - 2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.convolves:
            return self.layer(x) + x @ self.down.T @ self.up.T
        low = nn.functional.conv2d(x, self.down, None, self.layer.stride, self.layer.padding)
        return self.layer(x) + nn.functional.conv2d(low, self.up)


class Net(nn.Module):
    """The frozen base with the change beside every layer of its blocks, in the form that `loss_of` asks for."""

    def __init__(self) -> None:
        super().__init__()
        model, clip, _ = small_base().load_small_base()
        self.unet, self.text = model.model.diffusion_model, clip.cond_stage_model.clip_l
        self.requires_grad_(False)
        self.adapted: dict[str, Adapted] = {}
        for name, module in list(self.unet.named_modules()):
            if isinstance(module, nn.Linear | nn.Conv2d) and "emb" not in name and name.count(".") > 1:
                parent, _, last = name.rpartition(".")
                self.adapted[name] = Adapted(module)
                setattr(self.unet.get_submodule(parent), last, self.adapted[name])

    def conditions(self, tokens: torch.Tensor, height: int, width: int) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {"context": self.text(tokens.tolist())[0]}


def pack(net: Net) -> dict[str, torch.Tensor]:
    """lora_unet_<layer>.lora_down.weight, .lora_up.weight and .alpha in fp16."""
    tensors = {}
    for name, layer in net.adapted.items():
        key = "lora_unet_" + name.replace(".", "_")
        tensors |= {
            f"{key}.lora_down.weight": layer.down.detach().half().contiguous(),
            f"{key}.lora_up.weight": layer.up.detach().half().contiguous(),
            f"{key}.alpha": torch.tensor(float(len(layer.down))).half(),
        }
    return tensors


def draw_batch(data: dict, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    label = rng.choices(list(SHARES), list(SHARES.values()))[0]
    latents, tokens = data["flat" if rng.random() < FLAT else "scenery"][label]
    count = BATCH * 8 // latents.shape[-1]
    pick = torch.randint(len(latents), (count,))
    rows = tokens[pick].clone()
    rows[torch.rand(count) < EMPTY] = data["empty"][0]
    return latents[pick].float(), rows


def train(minutes: float) -> None:
    torch.manual_seed(0)
    data, net, schedule = load_scenery(), Net(), alphas()
    parameters = [p for p in net.parameters() if p.requires_grad]
    print(f"{sum(p.numel() for p in parameters) / 1e6:.2f} M numbers beside {len(net.adapted)} layers", flush=True)
    optimiser = torch.optim.AdamW(parameters, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.01)
    step, elapsed, seen = 0, 0.0, 0
    if SNAPSHOT.exists():
        saved = torch.load(SNAPSHOT)
        for p, value in zip(parameters, saved["parameters"], strict=True):
            p.data.copy_(value)
        optimiser.load_state_dict(saved["optimiser"])
        step, elapsed, seen = saved["step"], saved["elapsed"], saved["seen"]
    torch.manual_seed(step)
    rng, losses, shown, clock = random.Random(step), [], time.time(), time.time() - elapsed
    while (elapsed := time.time() - clock) < 60 * minutes:
        done = elapsed / (60 * minutes)
        for group in optimiser.param_groups:
            group["lr"] = PEAK * min(1.0, (step + 1) / 100) * max(0.03, 0.5 * (1 + math.cos(math.pi * done)))
        x, rows = draw_batch(data, rng)
        loss = loss_of(net, x, rows, schedule)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        step, seen = step + 1, seen + BATCH
        if time.time() - shown > 30:
            shown = time.time()
            print(f"step {step} pictures {seen} {100 * done:.0f} % loss {np.mean(losses[-200:]):.4f}", flush=True)
            save(parameters, optimiser, step, elapsed, seen)
    save(parameters, optimiser, step, elapsed, seen)
    record = {"steps": step, "pictures": seen, "minutes": round(elapsed / 60, 1)}
    save_file(pack(net), str(FILE) + ".tmp", metadata={"mixofshow.scenery_addon": json.dumps(record)})
    os.replace(str(FILE) + ".tmp", FILE)
    print(f"{FILE.name}: {FILE.stat().st_size / 2**10:.0f} KiB, {record}", flush=True)


def save(parameters: list, optimiser: torch.optim.Optimizer, step: int, elapsed: float, seen: int) -> None:
    state = {"parameters": [p.detach() for p in parameters], "optimiser": optimiser.state_dict()}
    keep(state | {"step": step, "elapsed": elapsed, "seen": seen}, SNAPSHOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="whole length of training, earlier runs included")
    torch.set_num_threads(1)
    train(parser.parse_args().minutes)


if __name__ == "__main__":
    main()
