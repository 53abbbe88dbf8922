"""Does a base read who stands where: `python -m world.judges.places --base A [--page]`.

Two subjects in every sentence of the second grammar (`world.drawing.captions`), without regions. Where the sentence
says a place, both have to stand there; where it says none, both have to be there. The class of a half is the nearest of
43 (42 things, person) among real composites seen through the base's autoencoder; a person is right with the named hair
colour, as `face_reader` sees it. "Real" draws the same scenes from real pictures: the ceiling.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from ..drawing import build
from ..drawing.captions import BESIDE, IN_A_ROW, IN_A_STACK, Scene
from . import evaluator, face_reader
from .scores import SUFFIX, Case, judge_half, load_base, name_half, paint, plan_doubles

PAGE = evaluator.ROOT / "docs" / "evidence" / "world.md"
BEGIN, END = "<!-- begin: python -m world.judges.places --page -->\n", "<!-- end of places -->"
UNPLACED = (*BESIDE, "{a} and {b}", "{b} and {a}")


@dataclass(frozen=True)
class Group:
    """Sentences that ask for the same thing."""

    title: str
    forms: tuple[str, ...]
    placed: bool = True
    stacked: bool = False


def names_first(form: str) -> bool:
    """Whether the left or upper subject is named first."""
    return form.index("{a}") < form.index("{b}")


GROUPS = (
    Group("side by side, the left one named first", tuple(f for f in IN_A_ROW if names_first(f))),
    Group("side by side, the right one named first", tuple(f for f in IN_A_ROW if not names_first(f))),
    Group("no place said: both there", UNPLACED, placed=False),
    Group(
        "one above the other, the upper one named first", tuple(f for f in IN_A_STACK if names_first(f)), stacked=True
    ),
    Group(
        "one above the other, the lower one named first",
        tuple(f for f in IN_A_STACK if not names_first(f)),
        stacked=True,
    ),
)


def plan(group: Group, pairs: Sequence[Case]) -> list[Case]:
    """Every sentence of a group with every pair."""
    out = []
    for form in group.forms:
        for pair in pairs:
            a, b = (name_half(subject) for subject in pair.scene.subjects)
            prompt = f"{form.format(a=a, b=b)}, {pair.scene.background} background"
            out.append(
                Case(prompt, pair.fields, Scene(pair.scene.subjects, pair.scene.background, prompt, group.stacked))
            )
    return out


def verdict(halves: Sequence[dict[str, str]], fields: Sequence[dict[str, str]], placed: bool) -> str:
    """ "right", "swapped" (each stands where the other should) or "other"; without a place swapped is right, too."""
    both = {judge_half(said, fields[i], fields[1 - i]) for i, said in enumerate(halves)}
    if both == {"right"} or both == {"swapped"} and not placed:
        return "right"
    return "swapped" if both == {"swapped"} else "other"


class Eyes:
    """What a field of 64 x 64 pixels shows: its class, and the hair of a person."""

    def __init__(self, copies: int = 3, people: int = 60) -> None:
        build.load_sprites()
        rng = random.Random(17)
        subjects = build._emoji * copies + [build._people[i] for i in range(0, 6 * people, 6)]
        pictures = [
            Image.fromarray(build.draw(Scene((s,), rng.choice(list(build.BACKGROUNDS)), ""), rng)) for s in subjects
        ]
        words = [s.what if isinstance(s.what, str) else "person" for s in subjects]
        self.net, self.reader = evaluator.load_evaluator(), face_reader.load()
        rows = evaluator.features(self.net, evaluator.see_through_base(pictures))
        self.identity = evaluator.load_identity()
        self.gallery = self.identity.Gallery(
            {w: rows[[i for i, word in enumerate(words) if word == w]] for w in dict.fromkeys(words)}
        )

    def read(self, fields: list[Image.Image]) -> list[dict[str, str]]:
        found = self.identity.nearest_identity(evaluator.features(self.net, fields), self.gallery)
        hair = self.reader.answer(evaluator.to_pixels(fields))["hair"]
        return [{"class": match.nearest, "hair": colour} for match, colour in zip(found, hair, strict=True)]


def cut(picture: Image.Image) -> list[Image.Image]:
    """Two fields, from left to right or from top to bottom."""
    step = (0, 64) if picture.height > 64 else (64, 0)
    return [picture.crop((i * step[0], i * step[1], i * step[0] + 64, i * step[1] + 64)) for i in (0, 1)]


def judge(eyes: Eyes, group: Group, cases: Sequence[Case], pictures: Sequence[Image.Image]) -> list[str]:
    said = eyes.read([half for picture in pictures for half in cut(picture)])
    return [verdict(said[2 * i : 2 * i + 2], case.fields, group.placed) for i, case in enumerate(cases)]


def build_table(which: str, count: int, seed: int) -> list[str]:
    """Lines: group; right, swapped and other of what the base paints; right of real pictures; pictures."""
    base, eyes, rng = load_base(which), Eyes(), random.Random(6)
    interval = evaluator.load_identity().bootstrap_interval
    lines = ["| Sentence | Right | Swapped | Other | Real, right | Pictures |", "|---|---|---|---|---|---|"]
    for number, group in enumerate(GROUPS):
        cases = plan(group, plan_doubles(count))
        size = (64, 128) if group.stacked else (128, 64)
        painted = paint(base, [case.prompt for case in cases], size[0], seed + 1000 * number, size[1])
        drawn = evaluator.see_through_base([Image.fromarray(build.draw(case.scene, rng)) for case in cases])
        found, real = (judge(eyes, group, cases, pictures) for pictures in (painted, drawn))
        cells = [interval([float(v == word) for v in found]) for word in ("right", "swapped", "other")]
        cells.append(interval([float(v == "right") for v in real]))
        shares = " | ".join(f"{mean:.0%} [{low:.0%}, {high:.0%}]" for mean, low, high in cells)
        lines.append(f"| base {which}: {group.title} | {shares} | {len(cases)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=sorted(SUFFIX), default="A")
    parser.add_argument("--count", type=int, default=10, help="pairs of subjects per sentence")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="write the table of docs/evidence/world.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = "\n".join(build_table(options.base, options.count, options.seed))
    if options.page:
        text = PAGE.read_text(encoding="utf-8")
        if BEGIN not in text:
            raise SystemExit(f"{PAGE.name} lacks the line {BEGIN.strip()!r} under which the table belongs.")
        before, rest = text.split(BEGIN, 1)
        PAGE.write_text(before + BEGIN + "\n" + table + "\n\n" + END + rest.split(END, 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
