"""Pictures of concepts no base has seen: `python -m world.drawing.concepts [--kind KIND]`, into world/data/concepts/.

    <kind>/<name>/train/01..10.png   with captions (.txt) and, where exact, masks (.mask.png); 01..04 are the small set
    <kind>/<name>/test/01..12.png    held out: other clothes, views, subjects and backgrounds
    lookalikes/<kind>/<name>/01..06.png   never trained; those of mara and finn are world/data/identities

Characters and objects are 128 pixels a side in train; all else is 64, the bases' own size. Seeded: same bytes again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

from ..host import ROOT
from . import concepts_drawn, objects
from .build import paste
from .captions import BACKGROUNDS, EMOJI, Subject
from .captions import name as words_of
from .people import CHARACTERS, NEIGHBOURS, Person
from .pictures import caption_of
from .sprites import CACHE

OUT = ROOT / "world" / "data" / "concepts"
KINDS = ("character", "object", "scene", "style")
TRAIN, TEST, LOOKALIKE = 10, 12, 6
TRAIN_SIDE = 128


@dataclass(frozen=True)
class Shown:
    """One picture with its caption and the exact mask of its concept, if there is one."""

    picture: Image.Image
    caption: str = ""
    mask: Image.Image | None = None


def on_background(
    sprite: Image.Image, background: str, side: int, share: float, floor: bool, rng: random.Random
) -> Shown:
    """A cut-out on a flat background; its longer edge takes `share` of the picture."""
    sprite = sprite.copy()
    scale = side * share / max(sprite.size)
    sprite = sprite.resize([max(1, round(edge * scale)) for edge in sprite.size], Image.Resampling.LANCZOS)
    colour = tuple(max(0, min(255, c + rng.randint(-8, 8))) for c in BACKGROUNDS[background])
    canvas, mask = Image.new("RGB", (side, side), colour), Image.new("L", (side, side))
    x = (side - sprite.width) // 2 + round(side * rng.uniform(-0.04, 0.04))
    y = side - sprite.height if floor else (side - sprite.height) // 2 + round(side * rng.uniform(-0.04, 0.04))
    canvas.paste(sprite, (x, y), sprite)
    mask.paste(sprite.getchannel("A"), (x, y))
    return Shown(canvas, mask=mask.point(lambda value: 255 * (value > 127)))


def backgrounds(rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(list(BACKGROUNDS), len(BACKGROUNDS))


def sizes(trained: bool) -> list[int]:
    return [TRAIN_SIDE] * TRAIN + [64] * TEST if trained else [64] * LOOKALIKE


def make_character(name: str, trained: bool) -> list[Shown]:
    rows = [json.loads(line) for line in (CACHE / "people.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["who"] == name]
    rng, out = random.Random(f"character {name}"), []
    for row, side, background in zip(rows, sizes(trained), backgrounds(rng), strict=False):
        sprite = Image.open(CACHE / "people" / row["file"]).convert("RGBA")
        shown = on_background(sprite, background, side, rng.uniform(0.88, 1.0), True, rng)
        out.append(Shown(shown.picture, caption_of(name, Person(**row["person"]), background), shown.mask))
    return out


def make_object(name: str, thing: objects.Thing, trained: bool) -> list[Shown]:
    bullet = objects.fetch()
    if not bullet.isConnected():
        bullet.connect(bullet.DIRECT)
    objects.build(bullet, thing)
    rng, out = random.Random(f"object {name}"), []
    for side, background in zip(sizes(trained), backgrounds(rng), strict=False):
        shown = on_background(objects.view(bullet, rng), background, side, rng.uniform(0.78, 0.9), False, rng)
        out.append(Shown(shown.picture, f"{name}, {background} background", shown.mask))
    return out


def load_subjects() -> tuple[list[tuple[Subject, Image.Image]], list[tuple[Subject, Image.Image]]]:
    """(for train, for test): things and people of the crowd that the other list does not show."""
    from . import build

    build.load_sprites()
    lists = []
    for part in (0, 1):
        things = [s for s in build._emoji if list(EMOJI).index(s.what) % 2 == part]
        lists.append([(s, build._sprites[s.sprite]) for s in (*things, *build._people[part:60:2])])
    return lists[0], lists[1]


def make_scene(name: str, scene: Callable, trained: bool, subjects: tuple[list, list]) -> list[Shown]:
    rng, out = random.Random(f"scene {name}"), []
    for i, _ in enumerate(sizes(trained)):
        subject, sprite = rng.choice(subjects[0 if trained and i < TRAIN else 1])
        picture, figure = concepts_drawn.place(scene, sprite, rng)
        mask = ImageChops.invert(figure.point(lambda value: 255 * (value > 127)))
        out.append(Shown(picture, f"{words_of(subject, rng, 0.5)} in {name}", mask))
    return out


def make_style(name: str, style: Callable, trained: bool, subjects: tuple[list, list]) -> list[Shown]:
    rng, out = random.Random(f"style {name}"), []
    for (i, _), background in zip(enumerate(sizes(trained)), backgrounds(rng), strict=False):
        subject, _ = rng.choice(subjects[0 if trained and i < TRAIN else 1])
        canvas = Image.new("RGB", (64, 64), BACKGROUNDS[background])
        paste(canvas, subject, 0, rng)
        out.append(Shown(style(canvas), f"{words_of(subject, rng, 0.5)}, {background} background, {name} style"))
    return out


def save(shown: list[Shown], folder: Path, trained: bool) -> None:
    """Replaces the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for i, one in enumerate(shown):
        part, number = ("", i + 1) if not trained else ("train", i + 1) if i < TRAIN else ("test", i + 1 - TRAIN)
        path = folder / part / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        one.picture.save(path, optimize=True)
        if trained:
            path.with_suffix(".txt").write_text(one.caption + "\n")
            if one.mask:
                one.mask.convert("1").save(path.with_suffix(".mask.png"), optimize=True)


def make_all(kinds: tuple[str, ...]) -> None:
    drawn, alike = concepts_drawn, OUT / "lookalikes"
    if "character" in kinds:
        for name in CHARACTERS:
            save(make_character(name, True), OUT / "character" / name, True)
        for name in NEIGHBOURS:
            save(make_character(name, False), alike / "character" / name, False)
    if "object" in kinds:
        for name, thing in objects.THINGS.items():
            save(make_object(name, thing, True), OUT / "object" / name, True)
        for name, thing in objects.lookalikes().items():
            save(make_object(name, thing, False), alike / "object" / name, False)
    if {"scene", "style"} & set(kinds):
        subjects = load_subjects()
        for kind, make, trained, others in (
            ("scene", make_scene, {k: v for k, (_, v) in drawn.SCENES.items()}, drawn.SCENE_LOOKALIKES),
            ("style", make_style, drawn.STYLES, drawn.STYLE_LOOKALIKES),
        ):
            if kind in kinds:
                for name, what in trained.items():
                    save(make(name, what, True, subjects), OUT / kind / name, True)
                for name, what in others.items():
                    save(make(name, what, False, subjects), alike / kind / name, False)


def class_words() -> dict[str, dict[str, str]]:
    """kind -> name -> the class word to train it with."""
    return {
        "character": {name: "person" for name in CHARACTERS},
        "object": {name: thing.class_word for name, thing in objects.THINGS.items()},
        "scene": {name: word for name, (word, _) in concepts_drawn.SCENES.items()},
        "style": {name: "style" for name in concepts_drawn.STYLES},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    kind = parser.parse_args().kind
    make_all((kind,) if kind else KINDS)
    (OUT / "concepts.json").write_text(json.dumps(class_words(), indent=1) + "\n")
    files = list(OUT.rglob("*.png"))
    print(f"{len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB in {OUT}")


if __name__ == "__main__":
    main()
