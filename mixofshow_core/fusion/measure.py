"""What one group of layers keeps of every concept, measured on the calibration inputs.

Every figure is a share of energy, E|D x|^2 = tr(D G D^T): residual_i = |(D - D_i) x|^2 / |D_i x|^2 on concept i's
inputs (0 = the concept's change is met exactly, 1 = as if it had none), overlap_i = <D x, D_i x> / |D_i x|^2, drift =
|D x|^2 on generic inputs against the mean of the single concepts' own (docs/maths.md, section 6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    """Energies of a solved group, in float32 (three digits are wanted, not thirteen). Grams are read one at a time.

    What is asked of every concept alike is E|D x|^2 of the fused change, the sum and the average: of those D^T D is
    formed once, so that a concept costs the same however many there are.
    """
    shares = [weight / sum(problem.weights) for weight in problem.weights]
    own = {m: {i: problem.deltas[i][m] for i in problem.present if m in problem.deltas[i]} for m in found}
    kinds = (
        {member: _factors_of(delta) for member, delta in found.items()},
        {member: _combine(deltas, [1.0] * len(shares)) for member, deltas in own.items() if deltas},
        {member: _combine(deltas, shares) for member, deltas in own.items() if deltas},
    )
    energies, drift = [Energies() for _ in problem.deltas], (0.0, 0.0)
    squares = [_square(list(kind.values())) for kind in kinds] if found else []
    if found and problem.prior is not None:
        prior = problem.prior.rough
        single = sum(_factors_of(delta).energy(prior) for deltas in own.values() for delta in deltas.values())
        drift = (max(_inner(squares[0], prior), 0.0), single / len(problem.deltas))
        del prior
    for i in problem.present if found else ():
        gram = problem.grams[i].rough
        alone, met = 0.0, [0.0, 0.0, 0.0]
        for member, deltas in own.items():
            if i in deltas:
                part = _factors_of(deltas[i])
                seen = part.down @ gram
                alone += part.meets(part, seen)
                met = [so_far + part.meets(kind[member], seen) for so_far, kind in zip(met, kinds, strict=True)]
        wholes = [0.0 if square is None else _inner(square, gram) for square in squares]
        missed = [max(whole - 2 * both + alone, 0.0) for whole, both in zip(wholes, met, strict=True)]
        energies[i] = Energies(alone, missed[0], met[0], missed[1], missed[2])
    ranks = [max((delta.rank for delta in deltas.values()), default=0) for deltas in problem.deltas]
    return GroupReport(
        problem.name,
        problem.role,
        max((delta.sides[1] for delta in found.values()), default=1),
        max((delta.rank for delta in found.values()), default=0),
        tuple(energies),
        drift,
        ridge,
        condition,
        reason,
        own_rank=sum(ranks),
    )


@dataclass(frozen=True)
class _Factors:
    """A change in float32: up @ down, or down alone where `up` is None."""

    up: Tensor | None
    down: Tensor

    def meets(self, other: _Factors, seen: Tensor) -> float:
        """<D_self x, D_other x> over inputs of second moment G, of which `seen` is down_self @ G."""
        if self.up is None:
            theirs = other.down if other.up is None else other.up @ other.down
        else:
            theirs = self.up.mT @ other.down if other.up is None else (self.up.mT @ other.up) @ other.down
        return _inner(seen, theirs)

    def energy(self, gram: Tensor) -> float:
        """E|D x|^2 over inputs of this second moment."""
        return self.meets(self, self.down @ gram)

    def square(self) -> Tensor:
        """D^T D [in, in]."""
        return self.down.mT @ (self.down if self.up is None else (self.up.mT @ self.up) @ self.down)


def _factors_of(delta: Delta) -> _Factors:
    if isinstance(delta, LowRank):
        return _Factors(delta.up.float(), delta.down.float() * delta.scale)
    return _Factors(None, delta.dense().reshape(delta.sides))


def _combine(deltas: Mapping[int, Delta], shares: Sequence[float]) -> _Factors:
    """sum_i share_i D_i: by factors while they are smaller than the layer's matrix, so memory is bounded."""
    first = next(iter(deltas.values()))
    ranks = sum(delta.rank for delta in deltas.values())
    low = all(isinstance(delta, LowRank) for delta in deltas.values())
    if low and ranks * sum(first.sides) <= math.prod(first.sides):
        parts = {i: _factors_of(delta) for i, delta in deltas.items()}
        up = torch.cat([part.up * shares[i] for i, part in parts.items()], 1)
        return _Factors(up, torch.cat([part.down for part in parts.values()]))
    matrices = (delta.dense().reshape(delta.sides) for delta in deltas.values())
    return _Factors(None, ordered_sum(matrices, [shares[i] for i in deltas]))


def _square(parts: Sequence[_Factors]) -> Tensor | None:
    """sum of D^T D over the members of a group, which all read the same inputs; None of none."""
    return ordered_sum((part.square() for part in parts), [1.0] * len(parts)) if parts else None


def _inner(first: Tensor, second: Tensor) -> float:
    """tr(first second^T): rows in float32, their sum in float64."""
    return float(torch.linalg.vecdot(first, second).sum(dtype=torch.float64))
