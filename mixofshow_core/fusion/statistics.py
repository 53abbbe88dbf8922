"""Second moments of layer inputs: the only thing fusion keeps of a calibration run.

G = sum_t w_t x_t x_t^T / sum_t w_t over the inputs x_t of one group of layers that read the same tensor.
Memory is one d x d matrix per group, whatever the number of prompts, steps or pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import MixOfShowError

CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Gram:
    """Mean outer product of the inputs of one group: matrix [d, d] float64, and the total row weight behind it."""

    matrix: Tensor
    weight: float
    rows: int = 0

    def __post_init__(self) -> None:
        if self.matrix.dim() != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise MixOfShowError(f"a Gram matrix must be square, not {tuple(self.matrix.shape)}")
        if not bool(torch.isfinite(self.matrix).all()):
            raise MixOfShowError("a Gram matrix holds values that are not finite: the model gave NaN or infinity")

    @property
    def width(self) -> int:
        return self.matrix.shape[0]


@dataclass(frozen=True)
class Statistics:
    """Everything known about one source (a concept, or the prior): group name -> Gram, and how it was collected."""

    grams: Mapping[str, Gram]
    manifest: Mapping[str, object] = field(default_factory=dict)


class GramAccumulator:
    """Adds rows of one group as they stream by; float64 on the CPU, float32 products summed in float64 elsewhere."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self.weight = 0.0
        self.rows = 0

    def add(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """rows [n, d] in any float dtype; weights [n] >= 0 (None means 1 each, zero-weight rows are dropped)."""
        if rows.dim() != 2:
            raise MixOfShowError(f"rows must be [n, d], not {tuple(rows.shape)}")
        if weights is not None:
            kept = weights > 0
            rows, weights = rows[kept.to(rows.device)], weights[kept]
        if rows.shape[0] == 0:
            return
        on_cpu = rows.device.type == "cpu"
        compute = torch.float64 if on_cpu else torch.float32
        for start in range(0, rows.shape[0], CHUNK_ROWS):
            part = rows[start : start + CHUNK_ROWS].to(compute)
            if weights is not None:
                part = part * weights[start : start + CHUNK_ROWS].to(part).sqrt()[:, None]
            product = part.mT @ part
            if product.device.type == "mps":  # has no float64
                product = product.cpu()
            product = product.to(torch.float64)
            self._sum = product if self._sum is None else self._sum.add_(product)
        self.weight += float(rows.shape[0] if weights is None else weights.sum())
        self.rows += rows.shape[0]

    def finish(self) -> Gram | None:
        """The normalised Gram on the CPU, or None if no row arrived."""
        if self._sum is None or self.weight <= 0:
            return None
        return Gram((self._sum / self.weight).cpu(), self.weight, self.rows)
