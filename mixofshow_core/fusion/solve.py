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
from ..linalg import factor_ridge, tree_sum
from .statistics import Gram


@dataclass(frozen=True)
class GroupProblem:
    """One group: the members' names, and per concept (in canonical order) its Gram, deltas and objective weight.

    A concept without a delta for a member contributes D_i = 0 but keeps its Gram; a concept without a Gram (its
    calibration never reached the group) contributes nothing at all.
    """

    name: str
    role: str
    members: tuple[str, ...]
    grams: tuple[Gram | None, ...]
    deltas: tuple[Mapping[str, Delta], ...]
    weights: tuple[float, ...]
    prior: Gram | None = None

    def __post_init__(self) -> None:
        if not len(self.grams) == len(self.deltas) == len(self.weights):
            raise MixOfShowError(f"{self.name}: grams, deltas and weights must have one element per concept")
        if any(not 0 < weight < float("inf") for weight in self.weights):
            raise MixOfShowError(f"{self.name}: objective weights must be positive, got {self.weights}")
        width = next((gram.width for gram in self.grams if gram is not None), None)
        for gram in (*self.grams, self.prior):
            if gram is not None and gram.width != width:
                raise MixOfShowError(f"{self.name}: statistics are {gram.width} wide where {width} was expected")
        for deltas in self.deltas:
            for member, delta in deltas.items():
                if width is not None and matrix_of(delta)[1] != width:
                    raise MixOfShowError(f"{member}: a change of {matrix_of(delta)[1]} inputs on a layer of {width}")


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
    present = [i for i, gram in enumerate(problem.grams) if gram is not None]
    members = [member for member in problem.members if any(member in problem.deltas[i] for i in present)]
    if not members:
        return GroupSolution({}, ridge, 1.0, "no concept reached this group" if not present else "")
    total = tree_sum([problem.grams[i].matrix for i in present], [problem.weights[i] for i in present])
    scale = float(total.diagonal().mean())
    if prior and problem.prior is not None:
        total = total.add_(problem.prior.matrix, alpha=prior)
    factor = factor_ridge(total, ridge, scale, problem.name)

    rows: list[Tensor] = []
    layout: list[tuple[str, list[Tensor] | tuple[int, ...], int]] = []
    for member in members:
        ups, downs = [], []
        terms = [(problem.weights[i], problem.grams[i].matrix, problem.deltas[i].get(member)) for i in present]
        terms = [term for term in terms if term[2] is not None]
        if all(isinstance(delta, LowRank) for _, _, delta in terms):
            for weight, gram, delta in terms:
                ups.append(delta.up.float().cpu())
                downs.append((delta.down.double().cpu() * (weight * delta.scale)) @ gram)
            stacked = torch.cat(downs)
        else:
            stacked = tree_sum([as_matrix(delta) @ gram for _, gram, delta in terms], [w for w, _, _ in terms])
        rows.append(stacked)
        shape = next((delta.shape for _, _, delta in terms if isinstance(delta, Dense)), ())
        layout.append((member, ups or shape, stacked.shape[0]))
    solved = factor.apply_right(torch.cat(rows))
    deltas: dict[str, Delta] = {}
    for (member, made, _), part in zip(layout, solved.split([count for _, _, count in layout]), strict=True):
        part = part.float().contiguous()
        low_rank = isinstance(made, list)
        deltas[member] = LowRank(torch.cat(made, 1), part, None) if low_rank else Dense(part.reshape(made))
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
