"""The ways to merge, one row each: what it is called, what it says of itself, and what runs.

A row either solves (a recipe for the solver, from statistics) or merges (the changes alone). Choices on the nodes,
tooltips, the Compare node's columns and the benchmarks are made from this table, and docs/maths.md has a line for every
row (tested). A new merge is one function and one row at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..delta import Delta
from ..errors import MixOfShowError
from .merges import merge_average, merge_dare, merge_iso, merge_sum, merge_svd, merge_ties
from .settings import FusionSettings


@dataclass(frozen=True)
class Recipe:
    """One solve: lambda, mu, RegMean's off-diagonal factor, and whether targets are hard constraints."""

    ridge: float
    prior: float
    off_diagonal: float = 1.0
    constrained: bool = False


@dataclass(frozen=True)
class MergeJob:
    """Some layers' changes per concept in canonical order, their objective weights, and a seed per concept."""

    parts: Sequence[Mapping[str, Delta]]
    weights: Sequence[float]
    settings: FusionSettings
    seeds: Sequence[int]

    @property
    def whole(self) -> list[float]:
        """Every change as it is, whatever its objective weight."""
        return [1.0] * len(self.parts)


@dataclass(frozen=True)
class Method:
    """A row: `about` completes "name: ..." in tooltips; exactly one of `recipe` (solved) and `merge` is given."""

    name: str
    about: str
    recipe: Callable[[FusionSettings, str], Recipe] | None = None
    merge: Callable[[MergeJob], dict[str, Delta]] | None = None

    def __post_init__(self) -> None:
        if (self.recipe is None) == (self.merge is None) or not self.about:
            raise MixOfShowError(f"method {self.name!r} needs a line about it and either a recipe or a merge")

    @property
    def needs_statistics(self) -> bool:
        return self.recipe is not None


METHODS: Mapping[str, Method] = {
    row.name: row
    for row in (
        Method(
            "exact",
            "the least-squares fusion, with ridge and prior",
            recipe=lambda settings, role: Recipe(settings.ridge[role], settings.prior[role]),
        ),
        Method("sum", "all changes added up", merge=lambda job: merge_sum(job.parts, job.whole)),
        Method("average", "their weighted mean", merge=lambda job: merge_average(job.parts, job.weights)),
        Method(
            "gradient",
            "exact without ridge and prior, the goal of Mix-of-Show's paper",
            recipe=lambda settings, role: Recipe(0.0, 0.0),
        ),
        Method(
            "regmean", "RegMean's closed form", recipe=lambda settings, role: Recipe(0.0, 0.0, settings.off_diagonal)
        ),
        Method(
            "constrained", "Custom Diffusion's merge", recipe=lambda settings, role: Recipe(0.0, 0.0, constrained=True)
        ),
        Method(
            "svd", "the sum, cut to the largest rank of one concept", merge=lambda job: merge_svd(job.parts, job.whole)
        ),
        Method(
            "ties",
            "large entries of one sign (TIES)",
            merge=lambda job: merge_ties(job.parts, job.weights, job.settings.density),
        ),
        Method(
            "dare",
            "random entries, enlarged (DARE)",
            merge=lambda job: merge_dare(job.parts, job.weights, job.settings.density, job.seeds),
        ),
        Method(
            "iso",
            "the sum with all its directions equally strong (Iso-C)",
            merge=lambda job: merge_iso(job.parts, job.whole),
        ),
    )
}


def method_of(name: str) -> Method:
    """The row of a name; an unknown one is an error that lists all."""
    if name not in METHODS:
        raise MixOfShowError(f"method {name!r} is unknown; use one of {', '.join(METHODS)}")
    return METHODS[name]


def describe_methods() -> str:
    """All rows for a tooltip: first those that solve, then those that look at the changes alone."""
    rows = METHODS.values()
    solved = "; ".join(f"{row.name}: {row.about}" for row in rows if row.needs_statistics)
    merged = "; ".join(f"{row.name}: {row.about}" for row in rows if not row.needs_statistics)
    return f"{solved}. From the changes alone, without calibration: {merged}."
