"""What one group of layers keeps of every concept, measured on the calibration inputs.

Every figure is a share of energy, E|D x|^2 = tr(D G D^T): residual_i = |(D - D_i) x|^2 / |D_i x|^2 on concept i's
inputs (0 = the concept's change is met exactly, 1 = as if it had none), overlap_i = <D x, D_i x> / |D_i x|^2, drift =
|D x|^2 on generic inputs against the mean of the single concepts' own (docs/maths.md, section 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..delta import Delta, LowRank
from ..linalg import ordered_sum
from .solve import GroupProblem


@dataclass(frozen=True)
class Energies:
    """Energies of one group on one concept's inputs: own change, what is missed of it, overlap with the result."""

    own: float = 0.0
    residual: float = 0.0
    overlap: float = 0.0
    sum_residual: float = 0.0
    average_residual: float = 0.0


@dataclass(frozen=True)
class GroupReport:
    """One group of layers. energies: per concept in canonical order. drift: (fused, mean of singles) on the prior."""

    name: str
    role: str
    width: int
    rank: int
    energies: tuple[Energies, ...]
    drift: tuple[float, float]
    ridge: float
    condition: float
    reason: str
    own_rank: int = 0  # sum of the concepts' ranks, before a shorter answer is taken
    added: tuple[float, float] = (0.0, 0.0)  # energy lost by a shorter answer, energy of the whole answer

    @property
    def residual(self) -> float:
        """Over all concepts."""
        own = sum(energy.own for energy in self.energies)
        return sum(energy.residual for energy in self.energies) / own if own > 0 else 0.0


def measure_group(
    problem: GroupProblem, found: Mapping[str, Delta], ridge: float, condition: float, reason: str
) -> GroupReport:
    """Energies of a solved group, in float32 (three digits are wanted, not thirteen). Grams are read one at a time."""
    energies = [Energies() for _ in problem.deltas]
    drift, rank, width = [0.0, 0.0], 0, 1
    shares = [weight / sum(problem.weights) for weight in problem.weights]
    prior = None if problem.prior is None else problem.prior.matrix.float()
    owners: dict[str, list[int]] = {}
    changes: dict[str, _Factors | _Matrices] = {}
    for member, fused in found.items():
        owners[member] = [i for i in problem.present if member in problem.deltas[i]]
        own = [problem.deltas[i][member] for i in owners[member]]
        changes[member] = _changes_of(fused, own, [shares[i] for i in owners[member]])
        rank = max(rank, fused.rank)
        width = fused.sides[1]
        if prior is not None:
            together, single = changes[member].drift(prior)
            drift = [drift[0] + together, drift[1] + single / len(problem.deltas)]
    del prior
    for i in problem.present if found else ():
        gram = problem.grams[i].matrix.float()
        for member in found:
            place = owners[member].index(i) if i in owners[member] else None
            energies[i] = _added(energies[i], changes[member].energies(gram, place))
    ranks = [max((delta.rank for delta in deltas.values()), default=0) for deltas in problem.deltas]
    return GroupReport(
        problem.name,
        problem.role,
        width,
        rank,
        tuple(energies),
        (drift[0], drift[1]),
        ridge,
        condition,
        reason,
        own_rank=sum(ranks),
    )


def _added(first: Energies, second: Energies) -> Energies:
    return Energies(*(a + b for a, b in zip(asdict(first).values(), asdict(second).values(), strict=True)))


def _changes_of(fused: Delta, own: Sequence[Delta], shares: Sequence[float]) -> _Factors | _Matrices:
    """By factors while they are smaller than a few matrices of the layer, else by those: so memory is bounded."""
    every = (fused, *own)
    low = all(isinstance(delta, LowRank) for delta in every)
    if low and sum(delta.rank for delta in every) <= 2 * min(fused.shape):
        return _Factors(every, shares)
    return _Matrices(fused, own, shares)


class _Factors:
    """The fused change and the concepts' own through one table of inner products E<D_p x, D_q x>, [1 + n, 1 + n].

    Only [R, R] products are formed, R the sum of all ranks.
    """

    def __init__(self, every: Sequence[LowRank], shares: Sequence[float]) -> None:
        up = torch.cat([delta.up.float() for delta in every], 1)
        self._downs = torch.cat([delta.down.float() * delta.scale for delta in every])
        self._metric = (up.double().mT @ up.double()).float()
        member = torch.repeat_interleave(torch.arange(len(every)), torch.tensor([delta.rank for delta in every]))
        self._select = torch.nn.functional.one_hot(member).mT.to(up.device, torch.float64)
        self._mean = torch.tensor([0.0, *shares], dtype=torch.float64)

    def _table(self, gram: Tensor) -> Tensor:
        seen = ((self._downs @ gram) @ self._downs.mT * self._metric).double()
        return (self._select @ seen @ self._select.mT).cpu()

    def energies(self, gram: Tensor, place: int | None) -> Energies:
        """On the inputs of the concept whose own change stands at `place` (None: it has none here)."""
        table = self._table(gram)

        def energy(coefficients: Tensor) -> float:
            return max(float(coefficients @ table @ coefficients), 0.0)

        fused, single = torch.zeros_like(self._mean), torch.zeros_like(self._mean)
        fused[0] = 1
        if place is not None:
            single[1 + place] = 1
        added = torch.ones_like(fused) - fused
        return Energies(
            energy(single),
            energy(fused - single),
            float(fused @ table @ single),
            energy(added - single),
            energy(self._mean - single),
        )

    def drift(self, gram: Tensor) -> tuple[float, float]:
        """(energy of the fused change, sum of the single ones')."""
        own = self._table(gram).diagonal().clamp_min(0)
        return float(own[0]), float(own[1:].sum())


class _Matrices:
    """The same on whole matrices, for dense changes and very large ranks: four of the layer's size at a time."""

    def __init__(self, fused: Delta, own: Sequence[Delta], shares: Sequence[float]) -> None:
        self._own = own
        self._fused = fused.matrix().float()
        self._sum = self._mean = torch.zeros_like(self._fused)
        if own:  # a merge of the changes alone has no inputs to measure on, so nobody is present
            self._sum = ordered_sum((delta.matrix() for delta in own), [1.0] * len(own)).float()
            self._mean = ordered_sum((delta.matrix() for delta in own), shares).float()

    def energies(self, gram: Tensor, place: int | None) -> Energies:
        own = torch.zeros_like(self._fused) if place is None else self._own[place].matrix().float()
        seen = own @ gram
        return Energies(
            float((seen * own).sum()),
            _energy(self._fused - own, gram),
            float((seen * self._fused).sum()),
            _energy(self._sum - own, gram),
            _energy(self._mean - own, gram),
        )

    def drift(self, gram: Tensor) -> tuple[float, float]:
        return _energy(self._fused, gram), sum(_energy(delta.matrix().float(), gram) for delta in self._own)


def _energy(matrix: Tensor, gram: Tensor) -> float:
    return max(float(((matrix @ gram) * matrix).sum()), 0.0)
