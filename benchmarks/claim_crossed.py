"""The table that crosses both: concepts learned in each way, merged in each way (Mix-of-Show's table 1 in kind)."""
from __future__ import annotations

from collections import defaultdict

from .claim_fusing import floor_of, other_prompts
from .claim_graphs import EXACT, SUM, Arm
from .claim_judge import Judge, interval
from .claim_lab import Cell, Job, Lab
from .claim_methods import cells_of
from .claim_page import Column, Row, Table
from .claim_plan import Plan, fused_cell, kind_of, the_base

PRESETS = ("LoRA", "LoRA with a word", "Custom Diffusion", "DreamBooth", "ED-LoRA")
ARMS = (EXACT, SUM, Arm("average", "average"))
COLUMNS = (Column("alone", "alone: nearest is right", ".0%"),
           Column("nearest", "merged: nearest is right", ".0%", True),
           Column("kept", "identity kept", ".0%", True), Column("drift", "drift of other prompts", ".3f", True))


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
    return found


def table(lab: Lab, judge: Judge, plan: Plan) -> list[Table]:
    base, rows, done = lab.look(the_base(plan)), [], 0
    names = group_of(plan)
    for preset in PRESETS if base else ():
        for arm in ARMS:
            found = lab.look(cell_of(plan, preset, arm))
            if found is None:
                continue
            done += 1
            scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            scores["drift"][preset] += other_prompts(found[0], base[0])
            for name in names:
                kind, rows_of = kind_of(name), found[0][name].features[:, 0]
                scores["nearest"][name] += judge.hits(kind, name, rows_of)
                alone = lab.look(cells_of(plan, name, preset, plan.small_sets[0])[0])
                if alone is None:
                    continue
                own = alone[0]["0"].features[:, 0]
                scores["alone"][name] += judge.hits(kind, name, own)
                top, floor = float(judge.similarity(kind, name, own).mean()), floor_of(judge, base[0], name)
                if top - floor >= 0.03:
                    scores["kept"][name].append(judge.kept(kind, name, rows_of, floor, top))
            figures = {key: interval(values) for key, values in scores.items()}
            rows.append(Row((preset, arm.title, str(len(names))), arm.title, figures))
    notes = ("Each concept alone is the same training as in the table of methods. *Identity kept* as in the table of "
             "fusing, against the same method alone. P+ and textual inversion have no weights to merge.",)
    heads = ("learned by", "merged by", "concepts")
    return [Table("crossed", f"Ways to learn, merged: K = {len(names)}", heads, COLUMNS, tuple(rows), done,
                  len(PRESETS) * len(ARMS), notes)]
