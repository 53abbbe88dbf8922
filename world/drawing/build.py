"""Draws the training canvases: `python -m world.drawing.build` writes
.cache/world/{single,double,triple,wide,wider}.npz (pixels, captions).

"wide" and "wider" have two and three fields, and in each of them the one subject that the caption names: a region's own
prompt says no place, so its text has to paint its subject wherever it is read, whatever stands beside it.
"""
from __future__ import annotations

import json
import random
import sys
from multiprocessing import Pool

import numpy as np
from PIL import Image

from .captions import BACKGROUNDS, EMOJI, STYLES, Scene, Subject, make_scene
from .people import Person
from .sprites import CACHE, ensure, scaled

COUNTS = {"single": (1, 56000), "double": (2, 16000), "triple": (3, 3000), "wide": (2, 6000), "wider": (3, 1500)}
TEST = 512
PEOPLE_SHARE = 0.5
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


def paste(canvas: Image.Image, subject: Subject, left: int, rng: random.Random) -> None:
    """Put one subject into the 64 x 64 field that starts at `left`; people stand on the lower edge."""
    sprite = _sprites[subject.sprite]
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if isinstance(subject.what, Person):
        size = rng.randint(56, 64)
        x, y = left + (64 - size) // 2 + rng.randint(-2, 2), 64 - size
    else:
        size = rng.randint(48, 54)
        x, y = left + (64 - size) // 2 + rng.randint(-2, 2), (64 - size) // 2 + rng.randint(-2, 2)
    sprite = sprite.resize((size, size), Image.Resampling.LANCZOS)
    canvas.paste(sprite, (x, y), sprite)


def draw(scene: Scene, rng: random.Random, copies: int = 1) -> np.ndarray:
    """uint8 [64, 64 to 192, 3]: the subjects side by side, each `copies` times."""
    colour = tuple(max(0, min(255, c + rng.randint(-8, 8))) for c in BACKGROUNDS[scene.background])
    canvas = Image.new("RGB", (64 * len(scene.subjects) * copies, 64), colour)
    for i, subject in enumerate(scene.subjects * copies):
        paste(canvas, subject, 64 * i, rng)
    return np.asarray(canvas)


def make(job: tuple[int, int, int, int]) -> tuple[np.ndarray, list[str]]:
    """One portion of canvases: (seed, how many, subjects per canvas, how often each stands there)."""
    seed, count, fields, copies = job
    rng = random.Random(seed)
    pixels, captions = [], []
    for _ in range(count):
        subjects = tuple(rng.choice(_people if rng.random() < PEOPLE_SHARE else _emoji) for _ in range(fields))
        scene = make_scene(subjects, rng)
        pixels.append(draw(scene, rng, copies))
        captions.append(scene.caption)
    return np.stack(pixels), captions


def main() -> None:
    ensure()  # here, or both workers would fetch
    portion = 500
    for label, (fields, trained) in COUNTS.items():
        count, copies = scaled(trained, 200) + TEST, fields if label in ("wide", "wider") else 1
        seed = 10_000 * (10 * (copies - 1) + fields)
        jobs = [(seed + i, min(portion, count - i), fields // copies, copies) for i in range(0, count, portion)]
        with Pool(2, initializer=load_sprites) as pool:
            parts = pool.map(make, jobs, chunksize=4)
        np.savez(CACHE / f"{label}.npz", pixels=np.concatenate([p for p, _ in parts]),
                 captions=np.array([c for _, part in parts for c in part]))
        print(label, count, file=sys.stderr)


if __name__ == "__main__":
    main()
