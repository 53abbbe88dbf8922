"""The table of many known concepts: K are loaded, two or three of them are named, and each should be as if alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .judge import Judge, interval, ratio
from .lab import Job, Lab
from .page import Row, Table
from .placing import COLUMNS, cell_of, groups_of, score
from .plan import Plan, alone_jobs, the_base

KNOWN = (5, 10, 20)
WAYS = ("prompt only, fused", "prompt only, by words", "prompt only, two phases", "regions, routed")
GROUPS = 3  # of every size


def chosen_groups(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """Some pairs and triples of the table of placing."""
    groups = groups_of(plan)
    return tuple(group for size in (2, 3) for group in [one for one in groups if len(one) == size][:GROUPS])


def others_of(plan: Plan, group: Sequence[str], k: int) -> tuple[str, ...]:
    """Who is known beside a group: other characters, then objects; nobody where there are not enough."""
    others = [name for name in (*plan.characters, *plan.objects) if name not in group]
    return tuple(others[: k - len(group)]) if len(others) >= k - len(group) else ()


def sizes(plan: Plan) -> tuple[int, ...]:
    """As many as there are concepts for; in the smallest plans all that there are."""
    most = len(plan.characters) + len(plan.objects)
    return tuple(k for k in KNOWN if k <= most) or (most,)


def cases(plan: Plan) -> list[tuple[int, tuple[str, ...], tuple[str, ...]]]:
    """(K, who is named, who else is known)"""
    found = [(k, group, others_of(plan, group, k)) for k in sizes(plan) for group in chosen_groups(plan)]
    return [case for case in found if case[2]]


def jobs(plan: Plan) -> list[Job]:
    named = dict.fromkeys(name for _, group, _ in cases(plan) for name in group)
    return [
        Job("known", "base", (the_base(plan),)),
        *alone_jobs(plan, list(named), "known"),
        *(
            Job("known", f"{' '.join(group)} of {k}", tuple(cell_of(plan, group, way, "", others) for way in WAYS))
            for k, group, others in cases(plan)
        ),
    ]


def table(lab: Lab, judge: Judge, plan: Plan) -> list[Table]:
    rows, done, total, every = [], 0, 0, cases(plan)
    for k, size in sorted({(k, len(group)) for k, group, _ in every}):
        same = [(group, others) for one, group, others in every if one == k and len(group) == size]
        for way in WAYS:
            scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            number = sum(score(lab, judge, plan, group, way, "", scores, others) for group, others in same)
            done, total = done + number, total + len(same)
            if number:
                figures = {key: interval(values) for key, values in scores.items()}
                figures["share"] = ratio(scores["nearest"], scores["own"])
                rows.append(Row((str(k), str(size), way, str(number * size)), f"{k} known", figures))
    notes = (
        "K concepts are connected, two or three of them are named in the prompt. Fused: all K in one set of weights; "
        "the other ways: each with its own. *Two phases*: masks from the first 30 % of a sampling by words, kept as "
        "regions of a second one from the same noise; our reading, no copy of anybody's program. Asked: 95 % of each "
        "alone. Intervals: 95 %, by drawing concepts.",
    )
    heads = ("known", "named", "way", "concepts")
    return [Table("known", "Many known, few named", heads, COLUMNS, tuple(rows), done, total, notes)]
