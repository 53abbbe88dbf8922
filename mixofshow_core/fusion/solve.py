"""The closed form of fusion for one group of layers that share an input (docs/maths.md, section 2).

    W_fused - W_0 = (sum_i w_i D_i G_i) M,   M = (sum_i w_i G_i + mu G_prior + lambda tr(sum_i w_i G_i)/d I)^-1

D_i is concept i's change (strength baked in), G_i the mean outer product of its own inputs, w_i its objective weight.
It is the minimiser of  sum_i w_i E|(D - D_i) x|^2 + mu E_prior|D x|^2 + lambda (tr/d) |D|^2 : gradient fusion
(Mix-of-Show, arXiv 2305.18292, without its early stop), RegMean, and, for lambda = 0 and mu -> 0, the constrained merge
of Custom Diffusion (arXiv 2212.04488).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..delta import Delta, Dense, LowRank
from ..errors import MixOfShowError
from ..linalg import OrderedSum, factor_ridge
from .statistics import Gram

DUAL_SHARE = 0.75  # rows per input width up to which the kernel of the rows is cheaper than their Gram
ROUNDING = 2.0**-22  # what float32 entries leave of a Gram's smallest directions, relative to the largest
METRIC_RIDGE = 1e-6  # keeps the metric of the constrained merge invertible when generic tokens are few


@dataclass(frozen=True)
class GroupProblem:
    """One group: the members' names, and per concept (in canonical order) its deltas and objective weight.

    grams: concept's place -> Gram, read one at a time (they may lie on disk), so memory does not grow with the number
    of concepts. A concept without a delta for a member contributes D_i = 0 but keeps its Gram; a concept without a Gram
    (its calibration never reached the group) contributes nothing at all. device: where Grams and deltas lie. coarse:
    factors in float32, refined.
    """

    name: str
    role: str
    members: tuple[str, ...]
    grams: Mapping[int, Gram]
    deltas: tuple[Mapping[str, Delta], ...]
    weights: tuple[float, ...]
    prior: Gram | None = None
    device: torch.device = torch.device("cpu")
    coarse: bool = False

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
    """What was solved: member -> delta, and how well conditioned it was. ridge is the one really used.

    moment: sum_i w_i G_i + mu G_prior, what errors of a shorter answer are measured with; None if nothing was solved.
    """

    deltas: Mapping[str, Delta]
    ridge: float
    condition: float
    reason: str = ""
    moment: Gram | None = None


def solve_group(
    problem: GroupProblem, ridge: float, prior: float, off_diagonal: float = 1.0, constrained: bool = False
) -> GroupSolution:
    """Solve one group in float64, where its Grams and deltas lie. ridge is lambda, prior is mu; both >= 0.

    Low-rank deltas give an exact low-rank answer: up = [B_1 ... B_K], down_i = w_i s_i A_i G_i M. A member with a
    dense delta gives a dense answer. All members share one factorisation. `off_diagonal` scales what is beside the
    diagonal of every G_i (RegMean, arXiv 2212.09849). `constrained` meets the targets first and spends what freedom is
    left on the least change of generic outputs (Custom Diffusion); ridge and prior are not used then.
    """
    if ridge < 0 or prior < 0:
        raise MixOfShowError(f"ridge and prior must not be negative, got {ridge} and {prior}")
    present = problem.present
    members = [member for member in problem.members if any(member in problem.deltas[i] for i in present)]
    if not members:
        return GroupSolution({}, ridge, 1.0, "" if present else "no concept reached this group")
    if problem.prior is None or constrained:
        prior = 0.0
    few = _few_rows(problem, prior) if off_diagonal == 1 else None
    metric, note = _prior_metric(problem) if constrained else (None, "")
    if few is not None:
        total, rows = torch.cat(few), _dual_targets(problem, members, few)
        scale = sum(float(part.square().sum()) for part in few[: len(present)]) / total.shape[1]
        half = total if metric is None else _divide_metric(total, metric)
        factor = factor_ridge(
            half @ total.mT, ridge if metric is None else 0.0, scale, problem.name, coarse=problem.coarse
        )
        solved = factor.apply_right(torch.cat(rows)) @ half
        moment = Gram(total, 1.0, len(total), factored=True)
    else:
        total, rows, noise = _primal(problem, members, off_diagonal)
        scale = float(total.diagonal().mean())
        if metric is None:
            if prior:
                _check_prior(problem, total.shape[1])
                total.add_(problem.prior.matrix, alpha=prior)
            factor = factor_ridge(total, ridge, scale, problem.name, noise, problem.coarse)
            solved = factor.apply_right(torch.cat(rows))
        else:
            # Whitened by the prior, least change of generic outputs is least norm: a pseudo-inverse.
            white = _whiten(_whiten(total, metric).mT, metric)
            factor = factor_ridge((white + white.mT) / 2, 0.0, None, problem.name, noise)
            solved = factor.apply_right(_whiten(torch.cat(rows), metric))
            solved = torch.linalg.solve_triangular(metric, solved, upper=False, left=False)
        moment = Gram(total, 1.0)
    reason = "; ".join(text for text in (factor.reason, note) if text)
    deltas = _as_deltas(problem, members, solved.float().split([len(part) for part in rows]))
    return GroupSolution(deltas, factor.ridge, factor.condition, reason, moment)


def _is_low_rank(problem: GroupProblem, member: str) -> bool:
    return all(isinstance(problem.deltas[i].get(member), LowRank | None) for i in problem.present)


def _few_rows(problem: GroupProblem, prior: float) -> list[Tensor] | None:
    """Weighted rows per concept (and the prior's last) when all are few enough for the dual form, else None."""
    parts: list[Tensor] = []
    for i in (*problem.present, *((-1,) if prior else ())):
        gram = problem.prior if i < 0 else problem.grams[i]
        # Given up at the first one too many: memory must not grow with the number of concepts.
        if not gram.factored or sum(map(len, parts)) + len(gram.stored) > DUAL_SHARE * gram.width:
            return None
        parts.append(gram.stored.double() * (prior if i < 0 else problem.weights[i]) ** 0.5)
    if prior:
        _check_prior(problem, parts[0].shape[1])
    return parts


def _dual_targets(problem: GroupProblem, members: list[str], few: Sequence[Tensor]) -> list[Tensor]:
    """T [.., N] per member, so that the answer is T (Z Z^T + lambda I)^-1 Z; the prior's columns stay zero."""
    count, targets = sum(map(len, few)), []
    for member in members:
        low, blocks, start = _is_low_rank(problem, member), [], 0
        for i, stored in zip(problem.present, few, strict=False):
            if (delta := problem.deltas[i].get(member)) is not None:
                _check_width(member, delta, stored.shape[1])
                columns = delta.factors()[1] @ stored.mT if low else delta.matrix() @ stored.mT
                blocks.append(torch.nn.functional.pad(columns, (start, count - start - len(stored))))
            start += len(stored)
        targets.append(torch.cat(blocks) if low else torch.stack(blocks).sum(0))
    return targets


def _primal(problem: GroupProblem, members: list[str], off_diagonal: float) -> tuple[Tensor, list[Tensor], float]:
    """sum_i w_i G_i [d, d], the rows that M is applied to per member, and the rounding noise of the Grams."""
    total, noise = OrderedSum(), 0.0
    downs: dict[str, list[Tensor]] = {member: [] for member in members}
    dense = {member: OrderedSum() for member in members if not _is_low_rank(problem, member)}
    for i in problem.present:
        gram, weight = problem.grams[i], problem.weights[i]
        noise, gram = max(noise, ROUNDING * gram.rounded), gram.matrix
        if off_diagonal != 1:
            gram = gram * off_diagonal + torch.diag(gram.diagonal()) * (1 - off_diagonal)
        total.add(gram, weight)
        own = {m: problem.deltas[i][m] for m in members if m in problem.deltas[i]}
        for member, delta in own.items():
            _check_width(member, delta, gram.shape[0])
            if member in dense:
                dense[member].add(delta.matrix() @ gram, weight)
        if low := [member for member in own if member not in dense]:  # one product reads G once for all of them
            rows = torch.cat([own[m].down.double() * (weight * own[m].scale) for m in low]) @ gram
            for member, part in zip(low, rows.split([own[m].rank for m in low]), strict=True):
                downs[member].append(part)
    return total.total(), [dense[m].total() if m in dense else torch.cat(downs[m]) for m in members], noise


def _prior_metric(problem: GroupProblem) -> tuple[Tensor | None, str]:
    """The Cholesky factor of G_prior, held a little off singular; None (so: least norm) without a prior."""
    if problem.prior is None:
        return None, "no prior: least norm instead of least change of generic outputs"
    factor = factor_ridge(problem.prior.matrix, METRIC_RIDGE, where=f"{problem.name} (prior)")
    if factor.cholesky is None:
        return None, "the prior saw no input: least norm instead of least change of generic outputs"
    return factor.cholesky, factor.reason


def _whiten(rows: Tensor, metric: Tensor) -> Tensor:
    """C -> C L^-T for the metric L L^T."""
    return torch.linalg.solve_triangular(metric.mT, rows, upper=True, left=False)


def _divide_metric(rows: Tensor, metric: Tensor) -> Tensor:
    """Z -> Z (L L^T)^-1."""
    return torch.linalg.solve_triangular(metric, _whiten(rows, metric), upper=False, left=False)


def _as_deltas(problem: GroupProblem, members: list[str], parts: Sequence[Tensor]) -> dict[str, Delta]:
    deltas: dict[str, Delta] = {}
    for member, part in zip(members, parts, strict=True):
        own = [problem.deltas[i][member] for i in problem.present if member in problem.deltas[i]]
        if _is_low_rank(problem, member):
            deltas[member] = LowRank(torch.cat([delta.up.float() for delta in own], 1), part.contiguous(), None)
        else:
            shape = next(delta.shape for delta in own if isinstance(delta, Dense))
            deltas[member] = Dense(part.reshape(shape))
    return deltas


def _check_prior(problem: GroupProblem, width: int) -> None:
    if problem.prior.width != width:
        raise MixOfShowError(f"{problem.name}: the prior is {problem.prior.width} wide, not {width}")


def _check_width(member: str, delta: Delta, width: int) -> None:
    if (own := delta.sides[1]) != width:
        raise MixOfShowError(f"{member}: a change of {own} inputs on a layer of {width}")
