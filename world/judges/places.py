"""Does a base read who stands where: `python -m world.judges.places --base A [--page]`.

Two subjects in every sentence of the second grammar (`world.drawing.captions`), without regions. Where the sentence
says a place, both have to stand there; where it says none, both have to be there. What a half shows is read by the
probes of `scores`: one of 42 things, or a person with the named hair colour. "Real" draws the same scenes from real
pictures: the ceiling. Intervals are over pairs of subjects, for all sentences of a pair fail together.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..drawing import build
from ..drawing.captions import BESIDE, IN_A_ROW, IN_A_STACK, Scene
from ..host import MODULES
from . import composites, evaluator, probes
from .scores import Case, judge_half, load_base, name_half, paint, plan_doubles

PAGE = evaluator.ROOT / "docs" / "evidence" / "world.md"
BEGIN, END = "<!-- begin: python -m world.judges.places --page -->\n", "<!-- end of places -->"
UNPLACED = (*BESIDE, "{a} and {b}", "{b} and {a}")
Reader = Callable[[list[Image.Image]], list[dict[str, str]]]  # fields of 64 x 64 pixels: question -> answer


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


def cut(picture: Image.Image) -> list[Image.Image]:
    """Two fields, from left to right or from top to bottom."""
    step = (0, 64) if picture.height > 64 else (64, 0)
    return [picture.crop((i * step[0], i * step[1], i * step[0] + 64, i * step[1] + 64)) for i in (0, 1)]


def judge(read: Reader, group: Group, cases: Sequence[Case], pictures: Sequence[Image.Image]) -> list[str]:
    said = read([half for picture in pictures for half in cut(picture)])
    return [verdict(said[2 * i : 2 * i + 2], case.fields, group.placed) for i, case in enumerate(cases)]


def shares(verdicts: Sequence[str], word: str, pairs: int) -> list[float]:
    """Per pair of subjects, the share of its sentences with this verdict; verdicts as `plan` orders them."""
    return [sum(v == word for v in verdicts[i::pairs]) / (len(verdicts) // pairs) for i in range(pairs)]


def build_table(which: str, count: int, seed: int) -> list[str]:
    """Lines: group; right, swapped and other of what the base paints; right of real pictures; pictures."""
    base, net, rng = load_base(which), evaluator.load_evaluator(), random.Random(6)
    fitted, interval = probes.load_probes(composites.load_composites()), evaluator.load_identity().bootstrap_interval

    def read(fields: list[Image.Image]) -> list[dict[str, str]]:
        return probes.answer_all(fitted, net, fields)[0]

    lines = ["| Sentence | Right | Swapped | Other | Real, right | Pictures |", "|---|---|---|---|---|---|"]
    for number, group in enumerate(GROUPS):
        cases = plan(group, plan_doubles(count))
        size = (64, 128) if group.stacked else (128, 64)
        painted = paint(base, [case.prompt for case in cases], size[0], seed + 1000 * number, size[1])
        drawn = evaluator.see_through_base([Image.fromarray(build.draw(case.scene, rng)) for case in cases])
        found, real = (judge(read, group, cases, pictures) for pictures in (painted, drawn))
        cells = [interval(shares(found, word, count)) for word in ("right", "swapped", "other")]
        cells.append(interval(shares(real, "right", count)))
        text = " | ".join(f"{mean:.0%} [{low:.0%}, {high:.0%}]" for mean, low, high in cells)
        lines.append(f"| base {which}: {group.title} | {text} | {len(cases)} |")
        print(lines[-1], flush=True)
    return lines


def write_page(page: Path, which: str, table: Sequence[str]) -> None:
    """The rows of this base between the marks of the page; those of another base stay."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text:
        raise SystemExit(f"{page.name} lacks the line {BEGIN.strip()!r} under which the table belongs.")
    before, rest = text.split(BEGIN, 1)
    old, after = rest.split(END, 1)
    others = [row for row in old.splitlines() if row.startswith("| base ") and not row.startswith(f"| base {which}:")]
    rows = sorted([*table[2:], *others], key=lambda row: row.split(":")[0])
    page.write_text(before + BEGIN + "\n".join(["", *table[:2], *rows, "", END]) + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=sorted(MODULES), default="A")
    parser.add_argument("--count", type=int, default=10, help="pairs of subjects per sentence")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="write the table of docs/evidence/world.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = build_table(options.base, options.count, options.seed)
    if options.page:
        write_page(PAGE, options.base, table)


if __name__ == "__main__":
    main()
