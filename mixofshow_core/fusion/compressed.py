"""A Gram matrix small enough to send: its strongest directions as int8, and the rest as a diagonal.

    G ~ L^T L + diag(r),   L [n, d] rows sqrt(lambda_k) v_k rounded to steps of their own, r = diag(G - L^T L) >= 0

Positive semidefinite however it was rounded, exact on the diagonal where r > 0. docs/maths.md, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .statistics import Gram

LOW = "low|"  # tensors of this name: int8 rows; with "step|" (one a row) and "rest|" (the diagonal) of the same name
LEVELS = 127


def parts_of(key: str) -> tuple[str, str, str]:
    name = key.removeprefix(LOW)
    return f"{LOW}{name}", f"step|{name}", f"rest|{name}"


def compress(gram: Gram, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows int8 [n, d], steps float32 [n], rest float32 [d]) with n <= rank."""
    matrix = gram.matrix
    values, vectors = torch.linalg.eigh(matrix)
    count = min(rank, int((values > values[-1] * 1e-12).sum()))
    rows = (vectors[:, -count:] * values[-count:].clamp(min=0).sqrt()).mT.flip(0) if count else vectors[:0]
    steps = (rows.abs().amax(1) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny).float()
    levels = (rows / steps[:, None].double()).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    kept = _rows(levels, steps)
    rest = (matrix.diagonal() - kept.square().sum(0)).clamp(min=0).float()
    return levels.contiguous(), steps, rest


def expand(levels: Tensor, steps: Tensor, rest: Tensor) -> Tensor:
    """The matrix [d, d], float64."""
    rows = _rows(levels, steps)
    return rows.mT @ rows + torch.diag(rest.double())


def loss_of(gram: Gram, parts: tuple[Tensor, Tensor, Tensor]) -> float:
    """|G - G'| / |G|, Frobenius."""
    matrix = gram.matrix
    return float((expand(*parts) - matrix).norm() / matrix.norm().clamp(min=1e-300))


def _rows(levels: Tensor, steps: Tensor) -> Tensor:
    return levels.double() * steps.double()[:, None]
