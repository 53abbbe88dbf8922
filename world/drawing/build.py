"""Draws the training canvases: `python -m world.drawing.build` writes
.cache/world/{single,double,triple,tall,wide,wider}.npz (pixels, captions).

"tall" has two subjects, one above the other. "wide" and "wider" have two and three fields, and in each of them the one
subject that the caption names: a region's own prompt says no place, so its text has to paint its subject wherever it is
read, whatever stands beside it. Behind one canvas in six (not the tall ones) is scenery, at times with nobody there.
"""

from __future__ import annotations

import json
import random
import sys
from multiprocessing import Pool

import numpy as np
from PIL import Image

from .captions import BACKGROUNDS, EMOJI, SCENERY, STYLES, Scene, Subject, make_scene
from .people import Person
from .scenery import draw_scenery
from .sprites import CACHE, ensure, scaled

COUNTS = {
    "single": (1, 56000),
    "double": (2, 28000),
    "triple": (3, 6000),
    "tall": (2, 10000),
    "wide": (2, 6000),
    "wider": (3, 1500),
}
IN_SCENERY, NOBODY = 1 / 6, 0.15  # shares: of canvases, and of those
TEST = 512
PEOPLE_SHARE = 0.5
SIDES = {"person": (56, 64), "thing": (48, 54), "small": (30, 38), "big": (60, 64)}  # of a sprite, in pixels
_sprites: list[Image.Image] = []
_people: list[Subject] = []
_emoji: list[Subject] = []


def load_sprites() -> None:
    """Read every trained sprite once per process (held-out people are left out here, at the door)."""
    if _people:
        return
    ensure()
    for line in (CACHE / "people.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["who"]:
            continue
        _people.append(Subject(len(_sprites), Person(**row["person"])))
        _sprites.append(Image.open(CACHE / "people" / row["file"]).convert("RGBA"))
    modules = CACHE / "node" / "node_modules"
    for style, vendor in STYLES.items():
        for word, code in EMOJI.items():
            path = modules / f"emoji-datasource-{vendor}" / "img" / vendor / "64" / f"{code}.png"
            if vendor == "fluent":
                path = modules / "@lobehub" / "fluent-emoji-3d" / "assets" / f"{code}.webp"
            _emoji.append(Subject(len(_sprites), word, style))
            _sprites.append(Image.open(path).convert("RGBA").resize((64, 64), Image.Resampling.LANCZOS))


def paste(canvas: Image.Image, subject: Subject, left: int, rng: random.Random, top: int = 0, size: str = "") -> None:
    """Put one subject into the 64 x 64 field that starts at `left` and `top`; people stand on its lower edge."""
    sprite = _sprites[subject.sprite]
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    person = isinstance(subject.what, Person)
    side = rng.randint(*SIDES[size or ("person" if person else "thing")])
    x = left + (64 - side) // 2 + rng.randint(-2, 2)
    y = top + (64 - side if person else (64 - side) // 2 + rng.randint(-2, 2))
    sprite = sprite.resize((side, side), Image.Resampling.LANCZOS)
    canvas.paste(sprite, (x, y), sprite)


def draw(scene: Scene, rng: random.Random, copies: int = 1, fields: int = 0) -> np.ndarray:
    """uint8 [64, 64 to 192, 3], or [128, 64, 3] if stacked: one subject per field, each `copies` times; of a scene with
    nobody there are ``fields`` fields."""
    length = 64 * (fields or len(scene.subjects) * copies)
    if scene.background == SCENERY:
        canvas = draw_scenery(length, rng)
    else:
        colour = tuple(max(0, min(255, c + rng.randint(-8, 8))) for c in BACKGROUNDS[scene.background])
        canvas = Image.new("RGB", (64, length) if scene.stacked else (length, 64), colour)
    sizes = scene.sizes or ("",) * len(scene.subjects)
    for i, (subject, size) in enumerate(zip(scene.subjects * copies, sizes * copies, strict=True)):
        left, top = (0, 64 * i) if scene.stacked else (64 * i, 0)
        paste(canvas, subject, left, rng, top, size)
    return np.asarray(canvas)


def make(job: tuple[int, int, int, int, bool]) -> tuple[np.ndarray, list[str]]:
    """One portion of canvases: (seed, how many, subjects per canvas, how often each stands there, stacked)."""
    seed, count, fields, copies, stacked = job
    rng = random.Random(seed)
    pixels, captions = [], []
    for _ in range(count):
        scenery = not stacked and rng.random() < IN_SCENERY
        there = 0 if scenery and rng.random() < NOBODY else fields
        subjects = tuple(rng.choice(_people if rng.random() < PEOPLE_SHARE else _emoji) for _ in range(there))
        scene = make_scene(subjects, rng, stacked, scenery)
        pixels.append(draw(scene, rng, copies, fields * copies))
        captions.append(scene.caption)
    return np.stack(pixels), captions


def main() -> None:
    ensure()  # here, or both workers would fetch
    portion = 500
    for label, (fields, trained) in COUNTS.items():
        count, copies = scaled(trained, 200) + TEST, fields if label in ("wide", "wider") else 1
        stacked = label == "tall"
        seed = 10_000 * (10 * (copies - 1) + fields) + 5_000 * stacked
        jobs = [
            (seed + i, min(portion, count - i), fields // copies, copies, stacked) for i in range(0, count, portion)
        ]
        with Pool(2, initializer=load_sprites) as pool:
            parts = pool.map(make, jobs, chunksize=4)
        np.savez(
            CACHE / f"{label}.npz",
            pixels=np.concatenate([p for p, _ in parts]),
            captions=np.array([c for _, part in parts for c in part]),
        )
        print(label, count, file=sys.stderr)


if __name__ == "__main__":
    main()
