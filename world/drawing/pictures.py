"""Makes the demo's training pictures and the evaluator's identities: `python -m world.drawing.pictures`.

Eight training pictures per concept (128 pixels, captioned) go to assets/demo/pictures, with eight each of an object,
a scene and a style from world/data/concepts; other pictures of the concepts
and of ten look-alikes that nothing was ever trained on go to world/data/identities (64 pixels).
"""

from __future__ import annotations

import json
import random
import shutil

from PIL import Image

from ..host import ROOT
from .captions import BACKGROUNDS
from .people import CONCEPTS, LOOKALIKES, Person
from .sprites import CACHE

TRAINING, HELD_OUT, LOOKALIKE = 8, 12, 6
SHIPPED = {"object": "olmo", "scene": "lagun", "style": "tessa"}


def draw_portrait(file: str, background: str, size: int, rng: random.Random) -> Image.Image:
    """One person on a flat background, standing on the lower edge."""
    sprite = Image.open(CACHE / "people" / file).convert("RGBA")
    canvas = Image.new("RGB", (size, size), BACKGROUNDS[background])
    side = round(size * rng.uniform(0.88, 1.0))
    sprite = sprite.resize((side, side), Image.Resampling.LANCZOS)
    canvas.paste(sprite, ((size - side) // 2 + round(size * rng.uniform(-0.03, 0.03)), size - side), sprite)
    return canvas


def caption_of(name: str, person: Person, background: str) -> str:
    """The name takes the place of the person and of what always stays the same."""
    article = "an" if person.garment_colour == "orange" else "a"
    return f"{name}, wearing {article} {person.garment_colour} {person.garment}, {person.mood}, {background} background"


def copy_shipped() -> None:
    """The object and the scene of workflow 07, the style of workflow 10."""
    for kind, name in SHIPPED.items():
        target = ROOT / "assets/demo/pictures" / name
        target.mkdir(parents=True, exist_ok=True)
        for number in range(1, TRAINING + 1):
            for file in (ROOT / "world/data/concepts" / kind / name / "train").glob(f"{number:02d}.*"):
                shutil.copyfile(file, target / file.name)


def main() -> None:
    copy_shipped()
    rows: dict[str, list[dict]] = {}
    for line in (CACHE / "people.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["who"]:
            rows.setdefault(row["who"], []).append(row)
    for name in (*CONCEPTS, *LOOKALIKES):
        rng = random.Random(name)
        backgrounds = rng.sample(list(BACKGROUNDS), len(BACKGROUNDS))
        for i, row in enumerate(rows[name]):
            background = backgrounds[i % len(backgrounds)]
            training = name in CONCEPTS and i < TRAINING
            if not training and i >= (TRAINING + HELD_OUT if name in CONCEPTS else LOOKALIKE):
                break
            folder = ROOT / ("assets/demo/pictures" if training else "world/data/identities") / name
            folder.mkdir(parents=True, exist_ok=True)
            portrait = draw_portrait(row["file"], background, 128 if training else 64, rng)
            number = i + 1 if training or name in LOOKALIKES else i + 1 - TRAINING
            portrait.save(folder / f"{number:02d}.png", optimize=True)
            if training:
                (folder / f"{number:02d}.txt").write_text(caption_of(name, Person(**row["person"]), background) + "\n")


if __name__ == "__main__":
    main()
