"""What the evaluators can tell of real pictures, and chance, as one table: `python -m world.judges.ceilings`.

Writes the table between the two marks in docs/evidence/world.md.
"""

from __future__ import annotations

import torch

from . import bridge_score, evaluator, evaluator_kinds, probes
from .composites import TESTS, load_composites

PAGE = evaluator.ROOT / "docs" / "evidence" / "world.md"
BEGIN, END = "<!-- begin: python -m world.judges.ceilings -->\n", "<!-- end -->"
QUESTIONS = {
    "class": "class (42 things, person)",
    "background": "background colour",
    "hair": "hair colour",
    "glasses": "none, glasses or sunglasses",
}
MATCHES = {
    "first": "text match: right caption first of {}",
    "five": "text match: right caption among five of {}",
    "beats": "text match: right caption beats another",
}
KINDS = {
    "nearest": "nearest of {} known",
    "right_crowd": 'nearest and not "none", crowd\'s threshold',
    "refused_crowd": 'crowd called "none"',
    "right_alike": 'nearest and not "none", look-alikes\' threshold',
    "refused_alike": 'left-out look-alikes called "none"',
}


def share(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.0%} [{values[1]:.0%}, {values[2]:.0%}]"


def line(title: str, cells: list[str], chance: str, count: int | str) -> str:
    return f"| {title} | {' | '.join(cells)} | {chance} | {count} |"


def build_table() -> list[str]:
    """Lines of the table: question; as drawn, soft, worn; chance; pictures."""
    sets, net = load_composites(), evaluator.load_evaluator()
    lines = ["| Question | As drawn | Soft | Worn | Chance | Pictures |", "|---|---|---|---|---|---|"]
    for row in probes.report(probes.load_probes(sets), sets):
        lines.append(
            line(
                QUESTIONS[row["question"]], [share(row[label]) for label in TESTS], f"{row['chance']:.0%}", row["count"]
            )
        )
    bridge = bridge_score.load_bridge(sets)
    matches = [bridge_score.report(bridge, sets[label]) for label in TESTS]
    known = matches[0]["captions"]
    for (key, title), chance in zip(MATCHES.items(), (1 / known, 5 / known, 0.5), strict=True):
        lines.append(
            line(
                title.format(known),
                [share(found[key]) for found in matches],
                f"{chance:.1%}",
                len(sets["test"].captions),
            )
        )
    for kind in evaluator_kinds.KINDS:
        views = [evaluator_kinds.build_kind_gallery(kind, view, net)[1] for view in evaluator_kinds.VIEWS]
        for key, title in KINDS.items():
            chance = f"{views[0]['chance']:.0%}" if key == "nearest" else ""
            words = f"{kind}: {title.format(views[0]['identities'])}"
            lines.append(
                line(
                    words,
                    [*(share(found[key]) for found in views), "-"],
                    chance,
                    "" if key.startswith("refused") else views[0]["count"],
                )
            )
    return lines


def main() -> None:
    torch.set_num_threads(1)
    table = "\n".join(build_table())
    text = PAGE.read_text()
    if BEGIN not in text:
        raise SystemExit(f"{PAGE.name} lacks the line {BEGIN.strip()!r} under which the table belongs.")
    before, rest = text.split(BEGIN, 1)
    PAGE.write_text(before + BEGIN + "\n" + table + "\n\n" + END + rest.split(END, 1)[1])
    print(table)


if __name__ == "__main__":
    main()
