"""What single parts of a training are worth: each switched on or off in Custom Diffusion and in ED-LoRA."""

from __future__ import annotations

from collections import defaultdict

from .crossed import group_of
from .judge import Judge, interval
from .lab import Cell, Job, Lab
from .methods import COLUMNS, cell_of, score_one
from .page import Row, Table
from .plan import Plan, the_base

PRIOR, NO_PRIOR = (("prior_weight", 1.0),), (("prior_weight", 0.0),)
# Smaller and at other places on the canvas; on a base of 64 pixels a training leaves pictures whole.
PLACED = (("scale_min", 0.7),)
PARTS: dict[str, dict[str, tuple[tuple[str, object], ...]]] = {
    "Custom Diffusion": {
        "as it is": (),
        "no prior pictures": NO_PRIOR,
        "pictures placed smaller": PLACED,
        "pictures mirrored": (("flip", "on"),),
        "word from its class": (("word_start", "class"),),
        "word from noise": (("word_start", "random"),),
    },
    "ED-LoRA": {
        "as it is": (),
        "with prior pictures": PRIOR,
        "pictures placed smaller": PLACED,
        "pictures mirrored": (("flip", "on"),),
        "words from their class": (("word_start", "class"),),
        "words from noise": (("word_start", "random"),),
        "attention held to masks": (("attention_weight", 0.0025),),
        "loss in masks only": (("loss_mask", "object"),),
    },
}
SHOWN = ("nearest", "similarity", "text", "background", "noun", "compound", "leak")


def part_cell(plan: Plan, name: str, preset: str, part: str) -> Cell:
    return cell_of(plan, plan.concept(name, preset, changes=PARTS[preset][part]), (name, preset, part))


def jobs(plan: Plan) -> list[Job]:
    found = [Job("parts", "base", (the_base(plan),))]
    for name in group_of(plan):
        for preset, parts in PARTS.items():
            found.append(Job("parts", f"{name}, {preset}", tuple(part_cell(plan, name, preset, p) for p in parts)))
    return found


def table(lab: Lab, judge: Judge, plan: Plan) -> list[Table]:
    base, rows, done, total = lab.look(the_base(plan)), [], 0, 0
    for preset, parts in PARTS.items():
        for part in parts:
            scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            for name in group_of(plan):
                total += 1
                found = lab.look(part_cell(plan, name, preset, part)) if base else None
                if found is None:
                    continue
                done += 1
                for key, values in score_one(judge, name, found[0], base[0]).items():
                    scores[key][name] += values
            if scores:
                figures = {key: interval(scores[key]) for key in SHOWN}
                rows.append(Row((preset, part, str(len(scores["nearest"]))), preset, figures))
    columns = tuple(column for column in COLUMNS if column.key in SHOWN)
    notes = (
        "Each line changes one thing in the first line of its method; the same steps, pictures and seed. "
        "Intervals: 95 %, by drawing concepts.",
    )
    heads = ("method", "part", "concepts")
    return [Table("parts", "Parts of a training, on and off", heads, columns, tuple(rows), done, total, notes)]
