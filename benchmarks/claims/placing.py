"""The tables of placing: two and three people side by side by the host's means, a peer's and ours, and in a scene."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np

from . import graphs as graphs
from .judge import Judge, interval, ratio
from .lab import Cell, Job, Lab
from .page import Column, Row, Table
from .plan import SEED, Plan, alone_cell, alone_jobs, base_key, kind_of, roster, the_base

COLUMNS = (
    Column("nearest", "nearest is right", ".0%", True),
    Column("share", "of that of each alone", ".0%", True),
    Column("swapped", "somebody else of the picture", ".0%", True),
    Column("missing", "nobody there", ".0%"),
    Column("none", "none of the known", ".0%"),
    Column("seconds", "seconds per picture", ".2f"),
)
SCENE_COLUMNS = (
    Column("nearest", "nearest is right", ".0%", True),
    Column("object", "the object alone", ".0%"),
    Column("swapped", "something else of the picture", ".0%"),
    Column("scene", "scene is right", ".0%", True),
    Column("seconds", "seconds per picture", ".2f"),
)


def groups_of(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """Pairs and triples by turns: every character once in each."""
    names = plan.characters
    pairs = [names[i : i + 2] for i in range(0, len(names) - 1, 2)]
    triples = [names[i : i + 3] for i in range(0, len(names) - 2, 3)]
    mixed = [group for i in range(len(pairs)) for group in (pairs[i], *triples[i : i + 1])]
    return tuple(dict.fromkeys(mixed))


def scenes_of(plan: Plan) -> tuple[tuple[tuple[str, ...], str], ...]:
    """(person, object, person) and the scene that they stand in; on base A alone, which is enough of them."""
    people, things = plan.characters, plan.objects
    count = min(len(people) // 2, len(things), len(roster("scene")), 3) if plan.base == "A" else 0
    return tuple(((people[2 * i], things[i], people[2 * i + 1]), roster("scene")[i]) for i in range(count))


def ways_of(plan: Plan) -> tuple[str, ...]:
    return graphs.WAYS_C if plan.base == "C" else tuple(graphs.WAYS)


def cell_of(plan: Plan, group: Sequence[str], way: str, scene: str = "", known: Sequence[str] = ()) -> Cell:
    """The seed follows the group, so that all ways start from the same noise. known: others that are loaded, too."""
    build = partial(graphs.row, way=way, count=plan.pictures, seed=SEED + sum(map(ord, group[0])), scene=scene)
    if known:
        build = partial(build, named=tuple(group))
    names = (*group, *known, scene) if scene else (*group, *known)
    passes = 1.5 if graphs.WAYS[way][1] in ("masks", "hooks", "couple", "phases") else 1.1
    return Cell(
        (*group, scene, way, *((f"of {len(names)}",) if known else ())),
        tuple(plan.concept(name) for name in names),
        build,
        round(plan.pictures * len(group) * passes),
        len(names) if "fused" in way else 0,
    )


def jobs(plan: Plan) -> list[Job]:
    found, seen = [Job("placing", "base", (the_base(plan),))], set()
    for group in groups_of(plan):
        found += alone_jobs(plan, [name for name in group if name not in seen], "placing")
        seen |= set(group)
        found.append(Job("placing", " ".join(group), tuple(cell_of(plan, group, way) for way in ways_of(plan))))
    return found


def scene_jobs(plan: Plan) -> list[Job]:
    return [
        Job("scenes", " ".join((*group, scene)), tuple(cell_of(plan, group, way, scene) for way in graphs.SCENE_WAYS))
        for group, scene in scenes_of(plan)
    ]


def score(
    lab: Lab,
    judge: Judge,
    plan: Plan,
    group: Sequence[str],
    way: str,
    scene: str,
    scores: dict[str, dict[str, list[float]]],
    known: Sequence[str] = (),
) -> bool:
    """Add one group's columns, each to its concept; whether the cell is there."""
    found = lab.look(cell_of(plan, group, way, scene, known))
    if found is None:
        return False
    painted = found[0]["row"]
    for column, name in enumerate(group):
        kind, rows = kind_of(name), painted.features[:, column]
        table = judge.table(kind, rows)
        best = table.max(1)
        nearest = [judge.names(kind)[place] for place in best.indices.tolist()]
        hits = [float(one == name) for one in nearest]
        scores["nearest"][name] += hits
        scores["swapped"][name] += [float(one in group and one != name) for one in nearest]
        if kind == "object":
            scores["object"][name] += hits
        if kind == "character":
            scores["missing"][name] += (best.values < judge.presence[0]).float().tolist()
            scores["none"][name] += (best.values < judge.kinds[kind].gallery.threshold).float().tolist()
        alone = lab.look(alone_cell(plan, name))
        if alone:
            scores["own"][name] += judge.hits(kind, name, alone[0][name].features[:, 0])
    if scene:
        rows = painted.features.mean(1)
        scores["scene"][scene] += judge.hits("scene", scene, rows)
    scores["seconds"][" ".join(group)].append(found[1]["seconds"] / len(painted.features))
    return True


def table(lab: Lab, judge: Judge, plan: Plan) -> list[Table]:
    groups, rows, done, total = groups_of(plan), [], 0, 0
    for size in sorted({len(group) for group in groups}):
        same = [group for group in groups if len(group) == size]
        for way in ways_of(plan):
            scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            number = sum(score(lab, judge, plan, group, way, "", scores) for group in same)
            done, total = done + number, total + len(same)
            if number:
                figures = {key: interval(values) for key, values in scores.items()}
                figures["share"] = ratio(scores["nearest"], scores["own"])
                rows.append(Row((str(size), way, str(number * size)), f"{size} people", figures))
    cut, people, things = judge.presence
    report = judge.kinds["character"].report
    none = judge.kinds["character"].gallery.threshold
    notes = (
        f"Nearest of {len(judge.names('character'))} known; real held-out pictures: {report['nearest'][0]:.0%} right, "
        f"chance {report['chance']:.0%}. *Nobody there*: similarity to the nearest below {cut:.2f}, which {people:.0%} "
        f"of real people pass and {1 - things:.0%} of real things; the base's own bare person fails it in "
        f"{missing_base(lab, judge, plan)} of pictures, each concept alone in {missing_alone(lab, judge, plan)}. *None "
        f"of the known*: below {none:.2f}, as {1 - report['right_crowd'][0]:.0%} of real held-out pictures are. "
        "Seconds: with the fusion, other work beside it. The peer's and the host's texts come from the host's own text "
        "node (mean embeddings). Intervals: 95 %, by drawing concepts.",
    )
    scenes, lines, made = scenes_of(plan), [], 0
    for way in graphs.SCENE_WAYS:
        scores = defaultdict(lambda: defaultdict(list))
        number = sum(score(lab, judge, plan, group, way, scene, scores) for group, scene in scenes)
        made += number
        if number:
            figures = {key: interval(values) for key, values in scores.items()}
            lines.append(Row((way, str(number)), "", figures))
    return [
        Table(
            "placing", "People side by side", ("people", "way", "concepts"), COLUMNS, tuple(rows), done, total, notes
        ),
        Table(
            "scenes",
            "Two people and an object in a learned scene",
            ("way", "casts"),
            SCENE_COLUMNS,
            tuple(lines),
            made,
            len(scenes) * len(graphs.SCENE_WAYS),
            (
                "Ellipses of a third each, prompts 'in a background'. Nearest: the judge knows people and objects on "
                "flat colours only. Scene: nearest of all known scenes to the mean features of the three columns.",
            ),
        ),
    ]


def missing_base(lab: Lab, judge: Judge, plan: Plan) -> str:
    found = lab.look(the_base(plan))
    if found is None or not plan.characters:
        return "?"
    rows = found[0][base_key(plan.characters[0], "noun")].features[:, 0]
    return f"{float((judge.table('character', rows).max(1).values < judge.presence[0]).float().mean()):.0%}"


def missing_alone(lab: Lab, judge: Judge, plan: Plan) -> str:
    shares = []
    for name in plan.characters:
        found = lab.look(alone_cell(plan, name))
        if found:
            best = judge.table("character", found[0][name].features[:, 0]).max(1).values
            shares.append(float((best < judge.presence[0]).float().mean()))
    return f"{np.mean(shares):.0%}" if shares else "?"
