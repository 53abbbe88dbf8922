"""The numerical kernels of the product: sums in a fixed order, ridge solves, weighted truncation.

Everything here is plain linear algebra on torch tensors in the dtype it is given (fusion passes float64).
The formulas are written out with the same symbols in docs/maths.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import MixOfShowError

log = logging.getLogger("mixofshow")

# A float64 Cholesky loses about log10(condition) of its 16 digits. Past this the answer keeps fewer than four, so more
# ridge (or the pseudo-inverse, when no ridge was asked for) is the honest choice.
MAX_CONDITION = 1e12
MAX_RIDGE = 1e3  # a matrix that fails even so is no second moment
# A float32 factor is refined while its error shrinks: up to this condition it shrinks tenfold in a round, and more.
MAX_COARSE = 1e5
REFINED = 1e-8  # bound of a refined answer's relative error: an eighth of what storing it as float32 rounds
MAX_ROUNDS = 12


@dataclass(frozen=True)
class RidgeFactor:
    """A factored symmetric matrix A [d, d]; `apply_right(C)` is C A^-1 (or C A^+ when `inverse` is set).

    ridge: what was really added to the diagonal, as a multiple of trace/d.
    condition: estimate of the spectral condition number of what is inverted.
    reason: why the ridge or the method differs from what was asked; empty if it does not.
    refined: (the matrix, what was added to its diagonal, |A^-1|) where `cholesky` is float32: answers are then refined
    with the matrix, which must stay as it is.
    """

    cholesky: Tensor | None
    inverse: Tensor | None
    ridge: float
    condition: float
    reason: str = ""
    refined: tuple[Tensor, float, float] | None = None

    def apply_right(self, rows: Tensor) -> Tensor:
        """C [m, d] -> C A^-1 [m, d]."""
        if self.cholesky is None:
            return rows @ self.inverse
        return _divide(rows, self.cholesky) if self.refined is None else self._refine(rows, *self.refined)

    def _refine(self, rows: Tensor, matrix: Tensor, shift: float, inverse_norm: float) -> Tensor:
        """float32 answers, corrected until |A^-1| |C - X A|, which bounds |X - C A^-1|, is REFINED |X| at most."""
        found, left = torch.zeros_like(rows), rows
        size, before = float(rows.norm()), math.inf
        for _ in range(MAX_ROUNDS):
            if size == 0 or inverse_norm * size <= REFINED * float(found.norm()):
                return found
            if size > before / 2:
                break
            found = found + _divide((left / size).to(self.cholesky.dtype), self.cholesky).to(rows.dtype) * size
            left = torch.addmm(rows - shift * found, found, matrix, alpha=-1)
            before, size = size, float(left.norm())
        log.info("a float32 factor of condition %.1e could not be refined: taken again in float64", self.condition)
        whole = matrix.clone()
        whole.diagonal().add_(shift)
        return _divide(rows, torch.linalg.cholesky(whole))


class OrderedSum:
    """Adds matrices one after the other into a single one: the same list gives the same bytes, in the memory of one."""

    def __init__(self) -> None:
        self._total: Tensor | None = None

    def add(self, term: Tensor, weight: float = 1.0) -> None:
        """Add weight * term; the term itself is not changed."""
        if self._total is None:
            self._total = term.clone() if weight == 1 else term * weight  # the term may belong to the caller
        else:
            self._total.add_(term, alpha=weight)

    def total(self) -> Tensor:
        """The sum so far. Raises MixOfShowError when nothing was added."""
        if self._total is None:
            raise MixOfShowError("a sum needs at least one term")
        return self._total


def ordered_sum(terms: Iterable[Tensor], weights: Iterable[float]) -> Tensor:
    """sum_i weights_i terms_i from first to last; terms may be made while they are asked for."""
    total = OrderedSum()
    for term, weight in zip(terms, weights, strict=True):
        total.add(term, weight)
    return total.total()


def factor_ridge(
    gram: Tensor,
    ridge: float,
    scale: float | None = None,
    where: str = "",
    noise: float = 0.0,
    coarse: bool = False,
) -> RidgeFactor:
    """Factor gram + ridge * scale * I for symmetric positive semi-definite `gram` [d, d].

    `scale` defaults to trace(gram)/d. With ridge = 0 and a rank-deficient gram the pseudo-inverse is used; with
    ridge > 0 and too large a condition number the ridge grows by factors of ten, and `reason` says so.
    `noise` is the relative rounding of the entries: without ridge, eigenvalues below it count as zero.
    `coarse`: with a ridge, factor in float32 where the condition allows it and refine what is solved with it.
    `gram` is as before when this returns. Raises MixOfShowError on values that are not finite; never returns NaN.
    """
    d = gram.shape[0]
    trace = float(gram.diagonal().sum())
    if not math.isfinite(trace):
        raise MixOfShowError(f"the statistics of {where or 'a layer'} are not finite numbers; collect them again")
    scale = trace / d if scale is None else scale
    if trace <= 0 or scale <= 0:
        return RidgeFactor(None, torch.zeros_like(gram), ridge, math.inf, "no input was recorded: nothing is changed")
    if ridge == 0:
        chol, info = torch.linalg.cholesky_ex(gram)
        condition = math.inf if int(info) else _condition(gram, chol)
        if condition <= min(MAX_CONDITION, 1 / max(noise, 1e-300)):
            return RidgeFactor(chol, None, 0.0, condition)
        return _pseudo_inverse(gram, noise)
    used, diagonal = ridge, gram.diagonal()
    kept = diagonal.clone()
    try:  # shifted in place and put back: a copy of the whole matrix would only cost memory and time
        while True:
            diagonal.copy_(kept + used * scale)
            if coarse and used == ridge and (found := _factor_coarsely(gram, used, used * scale)) is not None:
                return found
            chol, info = torch.linalg.cholesky_ex(gram)
            condition = math.inf if int(info) else _condition(gram, chol)
            if condition <= MAX_CONDITION:
                break
            if used > MAX_RIDGE:
                raise MixOfShowError(f"the statistics of {where or 'a layer'} cannot be factored; collect them again")
            used = max(used * 10, 1e-12)
    finally:
        diagonal.copy_(kept)
    reason = "" if used == ridge else f"ridge raised from {ridge:g} to {used:g}: the matrix was too near singular"
    if reason:
        log.warning("%s: %s", where or "a layer", reason)
    return RidgeFactor(chol, None, used, condition, reason)


def truncate_weighted(
    up: Tensor, down: Tensor, gram: Tensor | None, rank: int | None = None, error: float = 0.0
) -> tuple[Tensor, Tensor, float]:
    """Best low-rank stand-in for up @ down when errors are measured on inputs with second moment `gram` (None: I).

    Minimises ||(W - W') X||_F over rank <= `rank`; the smallest rank whose relative squared error is at most `error`
    is taken when that is smaller. up [o, R], down [R, d] -> up' [o, r], down' [r, d], relative squared error.
    No inverse is needed: W' = U U^T W with U the leading left singular vectors of W gram^(1/2).
    """
    q, r = torch.linalg.qr(up)
    core = r @ down
    values, vectors = torch.linalg.eigh((core if gram is None else core @ gram) @ core.mT)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    total = float(values.sum())
    if total <= 0:
        return up[:, :1] * 0, down[:1] * 0, 0.0
    lost = 1 - values.cumsum(0) / total
    enough = int((lost > error).sum()) + 1
    keep = min(enough, rank or enough, len(values))
    basis = vectors[:, :keep]
    return q @ basis, basis.mT @ core, max(float(lost[keep - 1]), 0.0)


def energy(delta: Tensor, gram: Tensor) -> float:
    """tr(D gram D^T): the mean squared norm of D x over the inputs behind `gram`. delta [o, d], gram [d, d]."""
    return float(((delta @ gram) * delta).sum())


def inner(first: Tensor, second: Tensor, gram: Tensor) -> float:
    """tr(first gram second^T): how far two changes of one layer agree on the inputs behind `gram`."""
    return float(((first @ gram) * second).sum())


def mirror_upper(product: Tensor) -> Tensor:
    """`product` [d, d] with its lower triangle replaced by the mirrored upper one, in place.

    X^T X is symmetric on paper only: on some processors the library sums entry (i, j) in another order than (j, i).
    """
    product.triu_()
    return product.add_(product.triu(1).mT)


def pack_symmetric(matrix: Tensor) -> Tensor:
    """Symmetric [d, d] -> [d + 1, d / 2], every value once (LAPACK's rectangular full packed form); d must be even."""
    d = matrix.shape[0]
    if matrix.dim() != 2 or matrix.shape[1] != d or d % 2:
        raise MixOfShowError(f"only square matrices of even size can be packed, not {tuple(matrix.shape)}")
    half = d // 2
    packed = matrix.new_zeros(d + 1, half)
    packed[1:] = matrix[:, :half]
    packed[1 : half + 1] = matrix[:half, :half].tril()
    packed[:half] += matrix[half:, half:].triu()
    return packed


def unpack_symmetric(packed: Tensor) -> Tensor:
    """Inverse of pack_symmetric; raises MixOfShowError on a shape that it never makes."""
    if packed.dim() != 2 or packed.shape[0] != 2 * packed.shape[1] + 1:
        raise MixOfShowError(f"a packed matrix cannot have shape {tuple(packed.shape)}")
    half = packed.shape[1]
    matrix = packed.new_empty(2 * half, 2 * half)
    first, second = packed[1 : half + 1].tril(), packed[:half].triu()
    matrix[:half, :half] = first + first.tril(-1).mT
    matrix[half:, half:] = second + second.triu(1).mT
    matrix[half:, :half] = packed[half + 1 :]
    matrix[:half, half:] = packed[half + 1 :].mT
    return matrix


def _divide(rows: Tensor, chol: Tensor) -> Tensor:
    """C (L L^T)^-1."""
    # cholesky_solve copies its transposed operand; solving both triangles from the right does not.
    half = torch.linalg.solve_triangular(chol.mT, rows, upper=True, left=False)
    return torch.linalg.solve_triangular(chol, half, upper=False, left=False)


def _factor_coarsely(matrix: Tensor, ridge: float, shift: float) -> RidgeFactor | None:
    """The factor in float32, refined with `matrix`, from whose diagonal `shift` is taken again; None if it cannot."""
    chol, info = torch.linalg.cholesky_ex(matrix.float())
    top, bottom = (math.inf, math.inf) if int(info) else _norms(matrix, chol)
    if not top * bottom <= MAX_COARSE:
        return None
    return RidgeFactor(chol, None, ridge, top * bottom, refined=(matrix, shift, bottom))


def _condition(matrix: Tensor, chol: Tensor) -> float:
    top, bottom = _norms(matrix, chol)
    return top * bottom if math.isfinite(top * bottom) and top * bottom > 0 else math.inf


def _norms(matrix: Tensor, chol: Tensor) -> tuple[float, float]:
    """(|A|, |A^-1|) by power iteration on A (two rounds) and on A^-1 (three, through the factor): O(d^2), from a fixed
    start."""
    d = matrix.shape[0]
    start = torch.cos(torch.arange(1, d + 1, dtype=matrix.dtype, device=matrix.device))[:, None]
    high = low = start / start.norm()
    for _ in range(2):
        high = matrix @ (high / high.norm())
    top = float(high.norm())
    low = low.to(chol.dtype)
    for _ in range(3):
        low = torch.linalg.solve_triangular(chol, low / low.norm(), upper=False)
        low = torch.linalg.solve_triangular(chol.mT, low, upper=True)
    return top, float(low.norm())


def _pseudo_inverse(gram: Tensor, noise: float) -> RidgeFactor:
    values, vectors = torch.linalg.eigh(gram)
    # Rounding leaves eigenvalues of about eps * top where there should be none.
    cutoff = float(values[-1]) * max(gram.shape[0] * torch.finfo(gram.dtype).eps * 4, noise)
    kept = values > cutoff
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].mT
    condition = float(values[-1] / values[kept][0])
    missing = int((~kept).sum())
    reason = f"pseudo-inverse: {missing} of {len(values)} directions were never seen" if missing else "pseudo-inverse"
    return RidgeFactor(None, inverse, 0.0, condition, reason)
