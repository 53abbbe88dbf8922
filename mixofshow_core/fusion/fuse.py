"""Fusion from end to end, on deltas and statistics alone: choose the groups, solve each, merge what is not solved.

Concepts are put into one canonical order (their hashes) before anything is summed, so the order of a graph's wires
changes no byte, and removing a concept is the same as never having had it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..concept import Delta
from ..errors import MixOfShowError
from ..topology import ROLE_CROSS_KV, ROLE_SPATIAL, ROLE_TEXT, LayerGroup, role_of
from .baselines import METHODS, merge_average, merge_sum
from .report import FusionReport, GroupReport, measure_group
from .solve import GroupProblem, solve_group
from .statistics import Gram, Statistics

log = logging.getLogger("mixofshow")

UNSOLVED = ("mean", "sum", "drop")


@dataclass(frozen=True)
class FusionSettings:
    """Strengths of the two anchors per role (docs/maths.md, section 4) and what to do with unsolved layers.

    ridge: lambda, a share of the mean input energy, towards the base weights. prior: mu, weight of generic inputs.
    """

    ridge: Mapping[str, float] = field(
        default_factory=lambda: {ROLE_TEXT: 1e-3, ROLE_CROSS_KV: 1e-3, ROLE_SPATIAL: 1e-3}
    )
    prior: Mapping[str, float] = field(default_factory=lambda: {ROLE_TEXT: 0.1, ROLE_CROSS_KV: 0.1, ROLE_SPATIAL: 0.1})
    unsolved: str = "mean"

    def __post_init__(self) -> None:
        for name, values in (("ridge", self.ridge), ("prior", self.prior)):
            complete = set(values) == {ROLE_TEXT, ROLE_CROSS_KV, ROLE_SPATIAL}
            if not complete or any(not 0 <= value < 1e6 for value in values.values()):
                raise MixOfShowError(f"{name} needs a number >= 0 for each of text, cross_kv, spatial, got {values}")
        if self.unsolved not in UNSOLVED:
            raise MixOfShowError(f"unsolved layers can be merged by {', '.join(UNSOLVED)}, not {self.unsolved!r}")


@dataclass(frozen=True)
class Source:
    """One concept as fusion sees it: `deltas` at full strength (already scaled), its statistics, its objective weight.

    identity: hash of everything the deltas and statistics were made from; it sets the canonical order.
    """

    label: str
    identity: str
    deltas: Mapping[str, Delta]
    statistics: Statistics
    weight: float = 1.0


@dataclass(frozen=True)
class Fusion:
    """The fused change of every layer, and the account of how it came about."""

    deltas: Mapping[str, Delta]
    report: FusionReport


def choose_groups(
    groups: Iterable[LayerGroup], solvable: Collection[str], deltas: Iterable[Mapping[str, Delta]]
) -> tuple[tuple[LayerGroup, ...], tuple[str, ...]]:
    """Groups that some concept changes, and the changed layers that are not solved.

    solvable: names of the model's linears and 1x1 convolutions. Those outside the attention groups (feed-forward,
    projections) become groups of one, as long as their inputs are token rows; time and label layers and 3x3 kernels
    do not.
    """
    changed = sorted({name for part in deltas for name in part})
    wanted = set(changed)
    chosen = [group for group in groups if wanted.intersection(group.members)]
    grouped = {member for group in chosen for member in group.members}
    single = [name for name in changed if name not in grouped and name in solvable and _reads_tokens(name)]
    chosen += [LayerGroup(name, role_of(name), (name,)) for name in single]
    left = tuple(name for name in changed if name not in grouped and name not in set(single))
    return tuple(chosen), left


def _reads_tokens(name: str) -> bool:
    if name.startswith("text_encoders."):
        return ".layers." in name
    return ".transformer_blocks." in name or name.endswith((".proj_in", ".proj_out"))


def fuse(
    sources: Sequence[Source],
    groups: Sequence[LayerGroup],
    unsolved: Sequence[str],
    settings: FusionSettings,
    prior: Statistics | None = None,
    method: str = "exact",
    step: Callable[[], None] = lambda: None,
) -> Fusion:
    """Fuse at least one source. `step` is called once per group (progress, cancel).

    method: "exact" solves; "sum" and "average" merge, and are measured on the same statistics where there are any.
    """
    if method not in METHODS:
        raise MixOfShowError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    if not sources:
        raise MixOfShowError("there is nothing to fuse: connect at least one concept")
    if len({source.identity for source in sources}) != len(sources):
        twice = sorted(source.label for source in sources)
        raise MixOfShowError(f"a concept is listed twice among {', '.join(twice)}: remove one of them")
    started = time.perf_counter()
    ordered = sorted(sources, key=lambda source: source.identity)
    weights = tuple(source.weight for source in ordered)
    merged = {"sum": _plain_sum, "average": merge_average, "exact": None}[method]
    deltas: dict[str, Delta] = {}
    rows: list[GroupReport] = []
    solving = 0.0
    for group in groups:
        problem = GroupProblem(
            group.name,
            group.role,
            group.members,
            _GroupGrams(group.name, ordered),
            tuple({m: source.deltas[m] for m in group.members if m in source.deltas} for source in ordered),
            weights,
            prior.grams.get(group.name) if prior is not None else None,
        )
        begun = time.perf_counter()
        if merged is None:
            solution = solve_group(problem, settings.ridge[group.role], settings.prior[group.role])
            found, facts = solution.deltas, (solution.ridge, solution.condition, solution.reason)
        else:
            found, facts = merged(problem.deltas, weights), (0.0, 1.0, "")
        solving += time.perf_counter() - begun
        deltas.update(found)
        rows.append(measure_group(problem, found, *facts))
        step()
    parts = [{name: source.deltas[name] for name in unsolved if name in source.deltas} for source in ordered]
    if settings.unsolved != "drop" and unsolved:  # the method of a plain merge holds for every layer
        merge = merge_sum if settings.unsolved == "sum" or method == "sum" else merge_average
        deltas.update(merge(parts, [1.0] * len(parts) if merge is merge_sum else weights))
    report = FusionReport(
        method,
        tuple(source.label for source in ordered),
        tuple(rows),
        tuple(unsolved),
        settings.unsolved,
        solving,
        time.perf_counter() - started,
    )
    return Fusion(deltas, report)


class _GroupGrams(Mapping):
    """Grams of one group by concept's place, fetched from each concept's statistics only when asked for."""

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        self._name, self._sources = name, sources
        self._places = [i for i, source in enumerate(sources) if name in source.statistics.grams]

    def __getitem__(self, place: int) -> Gram:
        return self._sources[place].statistics.grams[self._name]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _plain_sum(deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float]) -> dict[str, Delta]:
    return merge_sum(deltas, [1.0] * len(deltas))


def hash_of(description: object) -> str:
    """SHA-256 of a JSON-able description, independent of key order."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()
