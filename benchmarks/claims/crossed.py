"""Concepts learned in each way, merged in each way (Mix-of-Show's table 1 in kind), and pairs of concepts learned
together, one after the other, or apart and merged (Custom Diffusion's comparison)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from . import graphs as graphs
from .fusing import floor_of, other_prompts
from .graphs import EXACT, SUM, Arm
from .judge import Figure, Judge, interval
from .lab import Cell, Job, Lab, Painted, Training
from .methods import cells_of
from .page import Column, Row, Table
from .plan import SEED, Plan, fused_cell, fused_prompts, kind_of, the_base

PRESETS = ("LoRA", "LoRA with a word", "Custom Diffusion", "DreamBooth", "ED-LoRA")
ARMS = (EXACT, SUM, Arm("average", "average"))
PAIR_PRESETS = ("Custom Diffusion", "ED-LoRA")
TOGETHER, IN_TURN = "in one run", "one after the other"
COLUMNS = (
    Column("alone", "alone: nearest is right", ".0%"),
    Column("nearest", "merged: nearest is right", ".0%", True),
    Column("kept", "identity kept", ".0%", True),
    Column("drift", "drift of other prompts", ".3f", True),
)


def group_of(plan: Plan) -> tuple[str, ...]:
    """Everybody and everything of the table of methods, at most four."""
    return tuple(name for name in plan.chosen if kind_of(name) in ("character", "object"))[:4]


def cell_of(plan: Plan, preset: str, arm: Arm) -> Cell:
    names = group_of(plan)
    label = ("crossed", preset, arm.title)
    return fused_cell(plan, names, arm, plan.pictures, label, len(names) if arm == EXACT else 0, preset)


def jobs(plan: Plan) -> list[Job]:
    found = [Job("crossed", "base", (the_base(plan),))]
    for preset in PRESETS:
        alone = [cells_of(plan, name, preset, plan.small_sets[0])[0] for name in group_of(plan)]
        found.append(Job("crossed", preset, (*alone, *(cell_of(plan, preset, arm) for arm in ARMS))))
    return found + pair_jobs(plan)


def pairs_of(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """Two characters, two objects, as far as there are any."""
    kinds = [[name for name in group_of(plan) if kind_of(name) == kind] for kind in ("character", "object")]
    return tuple(tuple(names[:2]) for names in kinds if len(names) > 1)


def pair_cells(plan: Plan, names: Sequence[str], preset: str) -> dict[str, Cell]:
    """way -> cell. All ways take as many steps for each concept; in turn, the second name is learned last."""
    first, second = (plan.concept(name, preset) for name in names)
    joint = replace(first, steps=2 * plan.steps, every=0, changes=((graphs.BESIDE, second.whole),))
    later = replace(second, every=0, changes=((graphs.AFTER, first.whole),))
    prompts = fused_prompts(names, plan.pictures)

    def cell(way: str, arm: Arm, trainings: tuple[Training, ...]) -> Cell:
        build = partial(_build, arm=arm, prompts=prompts)
        calibrations = len(names) if arm == EXACT else 0
        return Cell(("pair", preset, way, *names), trainings, build, sum(n for _, n in prompts.values()), calibrations)

    ways = {f"apart, {arm.title}": cell(arm.title, arm, (first, second)) for arm in ARMS}
    return ways | {TOGETHER: cell(TOGETHER, SUM, (joint,)), IN_TURN: cell(IN_TURN, SUM, (first, later))}


def _build(studio: graphs.Studio, files: Mapping[str, str], arm: Arm, prompts: Mapping[str, tuple[str, int]]) -> dict:
    return graphs.painted(studio, files, arm, prompts, SEED)


def pair_jobs(plan: Plan) -> list[Job]:
    return [
        Job(
            "crossed",
            f"{preset}: {' and '.join(names)}",
            (
                *(cells_of(plan, name, preset, plan.small_sets[0])[0] for name in names),
                *pair_cells(plan, names, preset).values(),
            ),
        )
        for names in pairs_of(plan)
        for preset in PAIR_PRESETS
    ]


Scores = dict[str, dict[str, list[float]]]


def add_scores(
    scores: Scores,
    lab: Lab,
    judge: Judge,
    plan: Plan,
    names: Sequence[str],
    preset: str,
    painted: Mapping[str, Painted],
    base: Mapping[str, Painted],
) -> None:
    """What one cell says about each of its concepts, against the same method alone."""
    scores["drift"][names[0]] += other_prompts(painted, base)
    for name in names:
        kind, rows_of = kind_of(name), painted[name].features[:, 0]
        scores["nearest"][name] += judge.hits(kind, name, rows_of)
        alone = lab.look(cells_of(plan, name, preset, plan.small_sets[0])[0])
        if alone is None:
            continue
        own = alone[0]["0"].features[:, 0]
        scores["alone"][name] += judge.hits(kind, name, own)
        top, floor = float(judge.similarity(kind, name, own).mean()), floor_of(judge, base, name)
        if top - floor >= 0.03:
            scores["kept"][name].append(judge.kept(kind, name, rows_of, floor, top))


def empty() -> Scores:
    return defaultdict(lambda: defaultdict(list))


def figures_of(scores: Scores) -> dict[str, Figure]:
    return {key: interval(values) for key, values in scores.items()}


def table(lab: Lab, judge: Judge, plan: Plan) -> list[Table]:
    found = lab.look(the_base(plan))
    base = found[0] if found else None
    return [_crossed_table(lab, judge, plan, base), _pair_table(lab, judge, plan, base)]


def _crossed_table(lab: Lab, judge: Judge, plan: Plan, base: Mapping[str, Painted] | None) -> Table:
    rows, names = [], group_of(plan)
    for preset in PRESETS if base else ():
        for arm in ARMS:
            found = lab.look(cell_of(plan, preset, arm))
            if found is None:
                continue
            scores = empty()
            add_scores(scores, lab, judge, plan, names, preset, found[0], base)
            rows.append(Row((preset, arm.title, str(len(names))), arm.title, figures_of(scores)))
    notes = (
        "Each concept alone is the same training as in the table of methods. *Identity kept* as in the table of "
        "fusing, against the same method alone. P+ and textual inversion have no weights to merge.",
    )
    heads = ("learned by", "merged by", "concepts")
    return Table(
        "crossed",
        f"Ways to learn, merged: K = {len(names)}",
        heads,
        COLUMNS,
        tuple(rows),
        len(rows),
        len(PRESETS) * len(ARMS),
        notes,
    )


def _pair_table(lab: Lab, judge: Judge, plan: Plan, base: Mapping[str, Painted] | None) -> Table:
    rows, done, total, first, last = [], 0, 0, set(), set()
    for preset in PAIR_PRESETS:
        by_way: dict[str, Scores] = defaultdict(empty)
        for names in pairs_of(plan):
            first, last = first | {names[0]}, last | {names[1]}
            for way, cell in pair_cells(plan, names, preset).items():
                total += 1
                found = lab.look(cell) if base else None
                if found is None:
                    continue
                done += 1
                add_scores(by_way[way], lab, judge, plan, names, preset, found[0], base)
        for way, scores in by_way.items():
            for key, members in (("first", first), ("last", last)):
                scores[key] |= {name: values for name, values in scores["nearest"].items() if name in members}
            rows.append(Row((preset, way, str(len(scores["nearest"]))), way, figures_of(scores)))
    columns = (*COLUMNS, Column("first", "first of each pair right", ".0%"), Column("last", "second right", ".0%"))
    notes = (
        "As many steps for each concept in all ways; *in one run* has them all in one training. One after the "
        "other: the second is learned on the base that the first is in, and both are loaded.",
    )
    return Table(
        "pairs",
        "Two concepts: together, in turn, or apart and merged",
        ("learned by", "how", "concepts"),
        columns,
        tuple(rows),
        done,
        total,
        notes,
    )
