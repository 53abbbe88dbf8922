"""The closed form of fusion for one group of layers that share an input (docs/maths.md, section 2).

    W_fused - W_0 = (sum_i w_i D_i G_i) M,   M = (sum_i w_i G_i + mu G_prior + lambda tr(sum_i w_i G_i)/d I)^-1

D_i is concept i's change (strength baked in), G_i the mean outer product of its own inputs, w_i its objective weight.
It is the minimiser of  sum_i w_i E|(D - D_i) x|^2 + mu E_prior|D x|^2 + lambda (tr/d) |D|^2 : gradient fusion
(Mix-of-Show, arXiv 2305.18292, without its early stop), RegMean, and, for lambda = 0 and mu -> 0, the constrained merge
of Custom Diffusion (arXiv 2212.04488).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Delta, Dense, LowRank
from ..errors import MixOfShowError
from ..linalg import TreeSum, factor_ridge
from .statistics import Gram


@dataclass(frozen=True)
class GroupProblem:
    """One group: the members' names, and per concept (in canonical order) its deltas and objective weight.

    grams: concept's place -> Gram, read one at a time (they may lie on disk), so memory does not grow with the number
    of concepts. A concept without a delta for a member contributes D_i = 0 but keeps its Gram; a concept without a Gram
    (its calibration never reached the group) contributes nothing at all.
    """

    name: str
    role: str
    members: tuple[str, ...]
    grams: Mapping[int, Gram]
    deltas: tuple[Mapping[str, Delta], ...]
    weights: tuple[float, ...]
    prior: Gram | None = None

    def __post_init__(self) -> None:
        if len(self.deltas) != len(self.weights) or any(not 0 <= i < len(self.deltas) for i in self.grams):
            raise MixOfShowError(f"{self.name}: grams, deltas and weights must belong to the same concepts")
        if any(not 0 < weight < float("inf") for weight in self.weights):
            raise MixOfShowError(f"{self.name}: objective weights must be positive, got {self.weights}")

    @property
    def present(self) -> tuple[int, ...]:
        """Places of the concepts that have a Gram, in order."""
        return tuple(sorted(self.grams))


@dataclass(frozen=True)
class GroupSolution:
    """What was solved: member -> delta, and how well conditioned it was. ridge is the one really used."""

    deltas: Mapping[str, Delta]
    ridge: float
    condition: float
    reason: str = ""


def solve_group(problem: GroupProblem, ridge: float, prior: float) -> GroupSolution:
    """Solve one group in float64. ridge is lambda, prior is mu; both >= 0.

    Low-rank deltas give an exact low-rank answer: up = [B_1 ... B_K], down_i = w_i s_i A_i G_i M. A member with a
    dense delta gives a dense answer. All members share one factorisation.
    """
    if ridge < 0 or prior < 0:
        raise MixOfShowError(f"ridge and prior must not be negative, got {ridge} and {prior}")
    present = problem.present
    members = [member for member in problem.members if any(member in problem.deltas[i] for i in present)]
    if not members:
        return GroupSolution({}, ridge, 1.0, "" if present else "no concept reached this group")
    low_rank = {m: all(isinstance(problem.deltas[i].get(m), LowRank | None) for i in present) for m in members}
    total = TreeSum()
    downs: dict[str, list[Tensor]] = {member: [] for member in members}
    dense = {member: TreeSum() for member in members if not low_rank[member]}
    for i in present:
        gram, weight = problem.grams[i].matrix, problem.weights[i]
        total.add(gram, weight)
        for member in members:
            delta = problem.deltas[i].get(member)
            if delta is None:
                continue
            if (width := matrix_of(delta)[1]) != gram.shape[0]:
                raise MixOfShowError(f"{member}: a change of {width} inputs on a layer of {gram.shape[0]}")
            if low_rank[member]:
                downs[member].append((delta.down.double().cpu() * (weight * delta.scale)) @ gram)
            else:
                dense[member].add(as_matrix(delta) @ gram, weight)
    matrix = total.total()
    scale = float(matrix.diagonal().mean())
    if prior and problem.prior is not None:
        if problem.prior.width != matrix.shape[0]:
            raise MixOfShowError(f"{problem.name}: the prior is {problem.prior.width} wide, not {matrix.shape[0]}")
        matrix.add_(problem.prior.matrix, alpha=prior)
    factor = factor_ridge(matrix, ridge, scale, problem.name)
    rows = [torch.cat(downs[member]) if low_rank[member] else dense[member].total() for member in members]
    solved = factor.apply_right(torch.cat(rows)).float()
    deltas: dict[str, Delta] = {}
    for member, part in zip(members, solved.split([len(part) for part in rows]), strict=True):
        own = [problem.deltas[i][member] for i in present if member in problem.deltas[i]]
        if low_rank[member]:
            deltas[member] = LowRank(torch.cat([delta.up.float().cpu() for delta in own], 1), part.contiguous(), None)
        else:
            shape = next(delta.shape for delta in own if isinstance(delta, Dense))
            deltas[member] = Dense(part.reshape(shape))
    return GroupSolution(deltas, factor.ridge, factor.condition, factor.reason)


def as_matrix(delta: Delta) -> Tensor:
    """Any delta as one float64 matrix [out, in] on the CPU, scale included."""
    if isinstance(delta, LowRank):
        return (delta.up.double().cpu() @ delta.down.double().cpu()) * delta.scale
    return delta.diff.double().cpu().flatten(1)


def matrix_of(delta: Delta) -> tuple[int, int]:
    """(out, in) of any delta, convolution kernels flattened."""
    if isinstance(delta, LowRank):
        return delta.shape
    out = delta.diff.shape[0]
    return out, delta.diff.numel() // out
