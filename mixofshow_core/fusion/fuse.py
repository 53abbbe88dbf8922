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
from dataclasses import asdict, dataclass, replace

import torch

from ..bounds import meaning
from ..delta import Delta, cut
from ..errors import MixOfShowError
from ..families.layers import TEXT_PREFIX, LayerGroup
from ..families.nets import has_places, role_of
from .arithmetic import ON_CPU, Arithmetic
from .conflict import GroupConflict, preview_group, summarise_conflicts, thin
from .measure import GroupReport, measure_group
from .methods import MergeJob, method_of
from .report import FusionReport
from .settings import FusionSettings
from .solve import GroupProblem, GroupSolution, solve_group
from .statistics import Gram, Statistics

log = logging.getLogger("mixofshow")


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


@dataclass(frozen=True)
class GroupTask:
    """All that one group's answer needs; called with the group. sources: in canonical order."""

    sources: tuple[Source, ...]
    prior: Statistics | None
    settings: FusionSettings
    method: str
    arithmetic: Arithmetic = ON_CPU

    def __call__(self, group: LayerGroup) -> tuple[dict[str, Delta], GroupReport, float]:
        """The change of every member, the account of it, and the seconds that solving took."""
        way = method_of(self.method)
        arithmetic = self.arithmetic if way.recipe is not None else ON_CPU  # a merge happens where the files are
        problem = pose(group, self.sources, self.prior, arithmetic)
        begun = time.perf_counter()
        if way.recipe is not None:
            solution = solve_group(problem, **asdict(way.recipe(self.settings, group.role)))
        else:
            solution = GroupSolution(merge(self.method, self.sources, group.members, self.settings), 0.0, 1.0)
        seconds = time.perf_counter() - begun
        found, sizes = cut_to_size(solution, self.settings)
        row = measure_group(problem, found, solution.ridge, solution.condition, solution.reason)
        return {name: delta.to(ON_CPU.device) for name, delta in found.items()}, replace(row, added=sizes), seconds


Spread = Callable[[GroupTask, Sequence[LayerGroup]], Iterable[tuple[dict[str, Delta], GroupReport, float]]]


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
    return ".layers." in name if name.startswith(TEXT_PREFIX) else has_places(name)


def fuse(
    sources: Sequence[Source],
    groups: Sequence[LayerGroup],
    unsolved: Sequence[str],
    settings: FusionSettings,
    prior: Statistics | None = None,
    method: str = "exact",
    step: Callable[[], None] = lambda: None,
    spread: Spread = map,
    arithmetic: Arithmetic = ON_CPU,
) -> Fusion:
    """Fuse at least one source. `step` is called once per group (progress, cancel).

    method: a row of methods.py. Those that solve are measured on statistics; the others merge the changes alone.
    spread: as `map`, in order; groups know nothing of one another, so it may run them anywhere. arithmetic: where each
    is solved.
    """
    way = method_of(method)
    if not sources:
        raise MixOfShowError("there is nothing to fuse: connect at least one concept")
    if len({source.identity for source in sources}) != len(sources):
        twice = sorted(source.label for source in sources)
        raise MixOfShowError(f"a concept is listed twice among {', '.join(twice)}: remove one of them")
    started = time.perf_counter()
    ordered = sorted(sources, key=lambda source: source.identity)
    weights = tuple(source.weight for source in ordered)
    deltas: dict[str, Delta] = {}
    rows: list[GroupReport] = []
    solving = 0.0
    for found, row, seconds in spread(GroupTask(tuple(ordered), prior, settings, method, arithmetic), groups):
        deltas.update(found)
        rows.append(row)
        solving += seconds
        step()
    rule = meaning("Fusion setting unsolved", settings.unsolved, {"mean": "average", "sum": "sum", "drop": None})
    if unsolved and rule is not None:
        rule = method if way.merge is not None else rule
        deltas.update(merge(rule, ordered, unsolved, settings))  # a plain method holds for every layer
    solved = {member for group in groups for member in group.members}
    report = FusionReport(
        method,
        tuple(source.label for source in ordered),
        tuple(rows),
        tuple(unsolved),
        settings.unsolved if way.needs_statistics else method,
        solving,
        time.perf_counter() - started,
        _norms(ordered, solved, set(unsolved), settings.unsolved == "drop"),
        weights=weights,
    )
    return Fusion(deltas, report)


def pose(
    group: LayerGroup, ordered: Sequence[Source], prior: Statistics | None, arithmetic: Arithmetic
) -> GroupProblem:
    """The group's problem; Grams are fetched from each concept's statistics only when asked for."""
    deltas = [changes_in(group, source.deltas) for source in ordered]
    device = arithmetic.device_for(deltas)
    generic = prior.grams.get(group.name) if prior is not None else None
    return GroupProblem(
        group.name,
        group.role,
        group.members,
        _GroupGrams(group.name, ordered, device),
        tuple({name: delta.to(device) for name, delta in own.items()} for own in deltas),
        tuple(source.weight for source in ordered),
        generic if generic is None else generic.to(device),
        device,
        arithmetic.coarse,
    )


def changes_in(group: LayerGroup, deltas: Mapping[str, Delta]) -> dict[str, Delta]:
    return {member: deltas[member] for member in group.members if member in deltas}


def merge(method: str, ordered: Sequence[Source], members: Iterable[str], settings: FusionSettings) -> dict[str, Delta]:
    """A merge without statistics of some layers. sum takes every change whole, whatever the objective weights."""
    wanted = set(members)
    parts = [{name: d for name, d in source.deltas.items() if name in wanted} for source in ordered]
    seeds = [int(hash_of([settings.seed, source.identity])[:12], 16) for source in ordered]
    return method_of(method).merge(MergeJob(parts, [source.weight for source in ordered], settings, seeds))


def cut_to_size(solution: GroupSolution, settings: FusionSettings) -> tuple[dict[str, Delta], tuple[float, float]]:
    """The answer at the wanted size, and (energy added as error, energy of the answer) on all inputs together.

    Without statistics the energy is the plain squared norm. Kernels of convolutions stay as they are.
    """
    if meaning("Fusion setting size", settings.size, {"exact": True, "auto": False}):
        return dict(solution.deltas), (0.0, 0.0)
    moment = None if solution.moment is None else solution.moment.matrix
    made: dict[str, Delta] = {}
    added = total = 0.0
    for name, delta in solution.deltas.items():
        made[name] = delta
        if not delta.is_flat:
            continue
        short, lost = cut(delta, settings.max_rank, moment, settings.added_error)
        if short.rank * sum(delta.sides) < sum(t.numel() for t in delta.tensors().values()):
            made[name] = short
            down = short.down.double()
            own = float(((down if moment is None else down @ moment) * down).sum()) / max(1 - lost, 1e-12)
            added, total = added + lost * own, total + own
    return made, (added, total)


def foresee_conflicts(
    sources: Sequence[Source],
    groups: Sequence[LayerGroup],
    step: Callable[[], None] = lambda: None,
    arithmetic: Arithmetic = ON_CPU,
) -> dict:
    """Conflicts foreseen per role, from statistics only (fusion/conflict.py); of many concepts, in some groups."""
    ordered = sorted(sources, key=lambda source: source.identity)
    found: list[GroupConflict] = []
    for group in thin(groups, len(ordered)):
        found.append(preview_group(pose(group, ordered, None, arithmetic)))
        step()
    return summarise_conflicts(found, [source.label for source in ordered])


def _norms(ordered: Sequence[Source], solved: set[str], unsolved: set[str], dropped: bool) -> dict[str, dict]:
    """How many layers were solved, merged and left out, with the squared norm of the concepts' changes there."""
    kinds = {"solved": solved, "merged": unsolved if not dropped else set(), "left out": unsolved if dropped else set()}
    sizes = {kind: 0.0 for kind in kinds}
    layers: dict[str, set[str]] = {kind: set() for kind in kinds}
    for source in ordered:
        for name, delta in source.deltas.items():
            kind = next((kind for kind, names in kinds.items() if name in names), None)
            if kind is not None:
                sizes[kind] += delta.squared_norm()
                layers[kind].add(name)
    return {kind: {"layers": len(layers[kind]), "norm": sizes[kind]} for kind in kinds}


class _GroupGrams(Mapping):
    """Grams of one group by concept's place, fetched from each concept's statistics only when asked for."""

    def __init__(self, name: str, sources: Sequence[Source], device: torch.device) -> None:
        self._name, self._sources, self._device = name, sources, device
        self._places = [i for i, source in enumerate(sources) if name in source.statistics.grams]

    def __getitem__(self, place: int) -> Gram:
        return self._sources[place].statistics.grams[self._name].to(self._device)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def hash_of(description: object) -> str:
    """SHA-256 of a JSON-able description, independent of key order."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()
