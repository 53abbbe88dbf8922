"""Skies, hills and shapes drawn at random, so that a learned scene has something to stand on."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw


def draw_scenery(width: int, rng: random.Random) -> Image.Image:
    """RGB [64, width]: a sky, one to three grounds, a few shapes; drawn four times as large. In no learned scene."""
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
