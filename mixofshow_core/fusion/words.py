"""What a fusion did, in words: a verdict, the weakest spot, what helps, and what each concept keeps.

*keeps* is 1 - residual: the share of a concept's own effect on its own inputs that the fused weights meet. 100 % is all
of it, 0 as if the concept were left out, below 0 worse than that. Texts and the plot call nothing else so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..families.layers import ROLE_CROSS_KV, ROLE_SPATIAL, ROLE_TEXT

KEPT, LOST = 0.5, 0.1  # a concept is kept that keeps half in every part, and lost that keeps a tenth in one
CALM = 0.8  # above it nothing is advised
BETTER = 0.05  # by how much another merge has to keep more in its weakest spot to be advised
PARTS = {ROLE_TEXT: "text", ROLE_CROSS_KV: "keys and values", ROLE_SPATIAL: "picture layers"}
COUNTS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WEIGHED = ("exact", "gradient", "regmean")  # methods in which a concept's weight counts
OTHERS = {"residual_sum": "sum", "residual_average": "average"}


@dataclass(frozen=True)
class Spot:
    """What one concept keeps in one part of the model."""

    concept: str
    part: str
    keeps: float

    def __str__(self) -> str:
        return f"{self.concept}'s {self.part}, {percent(self.keeps)}"


def percent(keeps: float) -> str:
    return "nothing" if keeps < 0 else f"{keeps:.0%}"


def spots(summary: Mapping, key: str = "residual") -> list[Spot]:
    """By concept, then by part; a concept that changes nothing in a part has no spot there. ``key``: of which merge."""
    roles = summary["roles"] if summary["measured"] else {}
    return [
        Spot(label, PARTS.get(role, role), 1 - figures[key][i])
        for i, label in enumerate(summary["concepts"])
        for role, figures in roles.items()
        if figures[key][i] is not None
    ]


def verdict(summary: Mapping) -> list[str]:
    """The first lines of a report."""
    found = spots(summary)
    if not summary["measured"]:
        return [
            f"Merged by {summary['method']}, which looks at no inputs: what each concept keeps was not measured. "
            "Method exact measures it."
        ]
    if not found:
        return ["No concept changes anything that is solved."]
    weakest = min(found, key=lambda spot: spot.keeps)
    lines = [_told(found)]
    if weakest.keeps < CALM and len(summary["concepts"]) > 1:
        lines += _advice(summary, weakest)
    lines.append("\nWhat each keeps of its own effect, on the inputs that were looked at (not picture quality):")
    for label in summary["concepts"]:
        own = ", ".join(f"{spot.part} {percent(spot.keeps)}" for spot in found if spot.concept == label)
        lines.append(f"  {label} keeps: {own or 'it changes nothing that is solved'}")
    drifts = [
        f"{PARTS.get(role, role)} {figures['drift']:.2f}"
        for role, figures in summary["roles"].items()
        if figures["drift"] is not None
    ]
    if drifts:
        lines.append(f"  Other text changes, against one concept alone (1 = as much): {', '.join(drifts)}")
    return lines


def _told(found: list[Spot]) -> str:
    """Who is kept, and the weakest spot."""
    lowest: dict[str, Spot] = {}
    for spot in found:
        if spot.concept not in lowest or spot.keeps < lowest[spot.concept].keeps:
            lowest[spot.concept] = spot
    weakest = min(lowest.values(), key=lambda spot: spot.keeps)
    kept = [spot for spot in lowest.values() if spot.keeps >= KEPT]
    lost = [spot for spot in lowest.values() if spot.keeps < LOST]
    partly = [spot for spot in lowest.values() if LOST <= spot.keeps < KEPT]
    if len(kept) == len(lowest):
        all_of_them = "Both" if len(kept) == 2 else f"All {_count(len(kept))}"
        who = f"{all_of_them} kept" if len(kept) > 1 else f"{weakest.concept} is kept"
        return f"{who}. Weakest: {weakest}."
    told = [f"{_count(len(kept)).capitalize()} of {_count(len(lowest))} kept"]
    told += [f"{what}: {'; '.join(map(str, group))}" for what, group in (("In part", partly), ("Lost", lost)) if group]
    return ". ".join(told) + "."


def _advice(summary: Mapping, weakest: Spot) -> list[str]:
    """What would keep more of the weakest, each only where it holds."""
    lines = []
    for key, method in OTHERS.items():
        other = min(spot.keeps for spot in spots(summary, key))
        if other > weakest.keeps + BETTER:
            lines.append(f"  Method {method} keeps more here: {percent(other)} in its weakest spot.")
    ways = ["fuse fewer at once", "or do not fuse: concepts wired to Place, a region for each, keep their own weights"]
    if summary["method"] in WEIGHED:
        ways.insert(
            0, f"give it weight in Fusion Settings (weights: {weakest.concept}: 3), which takes from the others"
        )
    return [*lines, f"  For more of {weakest.concept}: {'; '.join(ways)}."]


def _count(number: int) -> str:
    return COUNTS[number] if number < len(COUNTS) else str(number)
