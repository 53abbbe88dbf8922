"""Second moments of layer inputs: the only thing fusion keeps of a calibration run.

G = sum_t w_t x_t x_t^T / sum_t w_t over the inputs x_t of one group of layers that read the same tensor.
Memory is at most one d x d matrix per group, whatever the number of prompts, steps or pixels; fewer than d rows are
kept as they are, because they are smaller and no digit is lost by multiplying them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import MixOfShowError
from ..linalg import mirror_upper, unpack_symmetric

CHUNK_ROWS = 512  # products of this many float32 rows are summed in float64 (docs/maths.md, section 3)
BLOCKED_WIDTH = 256  # from here on only the upper blocks of the symmetric product are formed


@dataclass(frozen=True)
class Gram:
    """Mean outer product of the inputs of one group, and the total row weight behind it.

    stored: the matrix [d, d], or [d + 1, d / 2] when `packed` (linalg.pack_symmetric), or, when `factored`, rows X
    [n, d] with G = X^T X. rounded: the matrix went through float32, so directions below about 1e-7 of the largest are
    noise.
    """

    stored: Tensor
    weight: float
    rows: int = 0
    factored: bool = False
    rounded: bool = False
    packed: bool = False

    def __post_init__(self) -> None:
        sides = tuple(self.stored.shape)
        if len(sides) != 2 or (not self.factored and sides[0] != (2 * sides[1] + 1 if self.packed else sides[1])):
            raise MixOfShowError(f"a Gram matrix must be square, {'packed, ' if self.packed else ''}not {sides}")
        # A finite sum is proof enough and much cheaper than asking every entry.
        if not bool(torch.isfinite(self.stored.sum())) and not bool(torch.isfinite(self.stored).all()):
            raise MixOfShowError("a Gram matrix holds values that are not finite: the model gave NaN or infinity")

    @property
    def width(self) -> int:
        return self.stored.shape[1] * (2 if self.packed else 1)

    @property
    def matrix(self) -> Tensor:
        """[d, d] float64, symmetric to the last bit."""
        stored = self._square().double()
        return mirror_upper(stored.mT @ stored) if self.factored else stored

    @property
    def rough(self) -> Tensor:
        """The same in float32, for what wants three digits."""
        return self.matrix.float() if self.factored else self._square().float()

    def _square(self) -> Tensor:
        return unpack_symmetric(self.stored) if self.packed else self.stored

    def to(self, device: torch.device) -> Gram:
        return self if self.stored.device == device else replace(self, stored=self.stored.to(device))


@dataclass(frozen=True)
class Statistics:
    """Everything known about one source (a concept, or the prior): group name -> Gram, and how it was collected."""

    grams: Mapping[str, Gram]
    manifest: Mapping[str, object] = field(default_factory=dict)


def _exact_on(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # mps has no float64


class GramAccumulator:
    """Adds rows of one group as they stream by: float32 products of short chunks, summed in float64, where rows lie."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._reserved: Tensor | None = None
        self._few: list[Tensor] = []  # rows [n, d], sqrt(weight) folded in, while they are fewer than d
        self._rounded = False
        self.weight = 0.0
        self.rows = 0

    def reserve(self, width: int, device: torch.device) -> None:
        """Take the sum's memory now, so that a host that makes room for a model afterwards does not count on it."""
        self._reserved = torch.zeros(width, width, dtype=_exact_on(device), device=device)

    def add(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """rows [n, d] in any float dtype; weights [n] >= 0 (None means 1 each, zero-weight rows are dropped)."""
        if rows.dim() != 2:
            raise MixOfShowError(f"rows must be [n, d], not {tuple(rows.shape)}")
        if weights is not None and not bool((weights > 0).all()):
            kept = (weights > 0).nonzero().flatten()  # where the weights lie, the CPU: nobody waits for the device
            rows, weights = rows[kept.to(rows.device)], weights[kept]
        if rows.shape[0] == 0:
            return
        self.weight += float(rows.shape[0] if weights is None else weights.sum())
        self.rows += rows.shape[0]
        rows = rows.to(torch.float64 if rows.dtype == torch.float64 else torch.float32)
        if weights is not None and not bool((weights == 1).all()):
            rows = rows * weights.to(rows).sqrt()[:, None]
        elif self.rows < rows.shape[1]:
            rows = rows.clone()  # the caller may reuse its buffer
        if self._sum is None and self.rows < rows.shape[1]:
            self._few.append(rows)
            return
        for part in (*self._few, *rows.split(CHUNK_ROWS)):
            self._multiply(part)
        self._few = []

    def _multiply(self, part: Tensor) -> None:
        width = part.shape[1]
        self._rounded |= part.dtype != torch.float64
        if torch.get_float32_matmul_precision() != "highest":  # somebody traded digits for time: not these
            part = part.to(_exact_on(part.device))
        if self._sum is None:
            fits = self._reserved is not None and self._reserved.device == part.device
            self._sum = self._reserved if fits else part.new_zeros(width, width, dtype=_exact_on(part.device))
            self._reserved = None
        step = -(-width // 4) if width >= BLOCKED_WIDTH else width
        for start in range(0, width, step):
            end = min(start + step, width)
            self._sum[:end, start:end] += part[:, :end].mT @ part[:, start:end]

    def finish(self) -> Gram | None:
        """The normalised Gram on the CPU, or None if no row arrived."""
        if self.weight <= 0:
            return None
        if self._sum is None:
            rows = torch.cat(self._few).cpu().double() / self.weight**0.5
            return Gram(rows, self.weight, self.rows, factored=True)
        return Gram(mirror_upper(self._sum.cpu().double() / self.weight), self.weight, self.rows, rounded=self._rounded)
