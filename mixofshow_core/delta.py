"""A change of one layer's weights, low-rank or whole, and everything that is asked of it.

Matrices are [out, in] with convolution kernels flattened to [out, in * rows * columns]; what has to be exact is float64
where the change lies: a concept's own on the CPU, a copy for the solver wherever that calculates. Nothing here knows
which layer it is or what reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import MixOfShowError
from .linalg import truncate_weighted


def check_matrix(tensor: Tensor, what: str) -> None:
    """MixOfShowError unless `tensor` is a floating point matrix (or kernel) without empty sides."""
    if tensor.dim() < 2 or 0 in tensor.shape:
        raise MixOfShowError(f"{what} has shape {tuple(tensor.shape)}; a matrix without empty sides is needed.")
    if not tensor.is_floating_point():
        raise MixOfShowError(f"{what} has dtype {tensor.dtype}; a floating point tensor is needed.")


def times(tensor: Tensor, factor: float) -> Tensor:
    """tensor * factor, in half precision where torch cannot calculate: floats of 8 bits are for storing only."""
    return (tensor.half() if tensor.element_size() == 1 else tensor) * factor


def _largest(tensor: Tensor) -> float:
    return float(tensor.float().abs().max())


@dataclass(frozen=True)
class LowRank:
    """A low-rank change of one linear layer (or 1x1 convolution): ``delta = scale * up @ down``.

    ``up`` is [out, r], ``down`` is [r, in]; ``alpha`` follows the community's convention, scale = alpha / r
    (1 when alpha is None).
    """

    up: Tensor
    down: Tensor
    alpha: float | None = None

    def __post_init__(self) -> None:
        check_matrix(self.up, "lora_up")
        check_matrix(self.down, "lora_down")
        if self.up.dim() != 2 or self.down.dim() != 2 or self.up.shape[1] != self.down.shape[0]:
            raise MixOfShowError(
                f"lora_up {tuple(self.up.shape)} and lora_down {tuple(self.down.shape)} do not share a rank."
            )

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    @property
    def sides(self) -> tuple[int, int]:
        """(out, in) as a matrix."""
        return self.shape

    is_flat = True

    def dense(self) -> Tensor:
        """The change as one fp32 matrix [out, in]."""
        return (self.up.float() @ self.down.float()) * self.scale

    def matrix(self) -> Tensor:
        """The same in float64."""
        up, down = self.factors()
        return up @ down

    def factors(self) -> tuple[Tensor, Tensor]:
        """float64 (up [out, r], down [r, in]), the scale inside `down`."""
        return self.up.double(), self.down.double() * self.scale

    def squared_norm(self) -> float:
        """|D|_F^2, without forming the product."""
        up, down = self.factors()
        return max(float(((up.mT @ up) * (down @ down.mT)).sum()), 0.0)

    def bound(self) -> float:
        """No value of the change is larger than this; 0 for a change of nothing."""
        return abs(self.scale) * self.rank * _largest(self.up) * _largest(self.down)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """float64 u [out, k], s [k], v [k, in], largest first, k = min(r, out, in) or less; never made dense."""
        up, down = self.factors()
        q_up, r_up = torch.linalg.qr(up)
        q_down, r_down = torch.linalg.qr(down.mT)
        u, s, v = torch.linalg.svd(r_up @ r_down.mT, full_matrices=False)
        return q_up @ u, s, v @ q_down.mT

    def scaled(self, factor: float) -> LowRank:
        """The same change times ``factor``, with every scale folded into ``up`` (alpha None)."""
        total = self.scale * factor
        return LowRank(self.up if total == 1.0 else times(self.up, total), self.down, None)

    def at(self, strength: float) -> LowRank:
        """The same change times `strength`, its factors shared: only alpha differs."""
        return LowRank(self.up, self.down, self.scale * strength * self.rank)

    def to(self, device: torch.device) -> LowRank:
        return LowRank(self.up.to(device), self.down.to(device), self.alpha)

    def tensors(self) -> dict[str, Tensor]:
        stored = {"lora_up.weight": self.up, "lora_down.weight": self.down}
        if self.alpha is not None:
            stored["alpha"] = torch.tensor(float(self.alpha))
        return stored


@dataclass(frozen=True)
class Dense:
    """A change as it is, ``diff`` of the layer's own shape: [out, in] for linears, [n] for norms and biases."""

    diff: Tensor

    def __post_init__(self) -> None:
        if not self.diff.is_floating_point() or self.diff.numel() == 0:
            raise MixOfShowError(f"diff has shape {tuple(self.diff.shape)} and dtype {self.diff.dtype}.")

    @property
    def rank(self) -> int:
        """The largest that it can have."""
        return min(self.sides)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.diff.shape)

    @property
    def sides(self) -> tuple[int, int]:
        """(out, in) as a matrix."""
        out = self.diff.shape[0]
        return out, self.diff.numel() // out

    @property
    def is_flat(self) -> bool:
        """Whether factors can stand for it: a linear's matrix or a 1x1 kernel, not a larger kernel, not a vector."""
        return self.diff.dim() >= 2 and all(side == 1 for side in self.diff.shape[2:])

    def dense(self) -> Tensor:
        return self.diff.float()

    def matrix(self) -> Tensor:
        return self.diff.double().reshape(self.sides)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(identity [out, out], the matrix [out, in])."""
        return torch.eye(self.diff.shape[0], dtype=torch.float64, device=self.diff.device), self.matrix()

    def squared_norm(self) -> float:
        return float(self.diff.double().square().sum())

    def bound(self) -> float:
        """The largest value."""
        return _largest(self.diff)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same in float32: a large layer's whole matrix is where time goes."""
        return torch.linalg.svd(self.dense().flatten(1), full_matrices=False)

    def scaled(self, factor: float) -> Dense:
        return self if factor == 1.0 else Dense(times(self.diff, factor))

    def at(self, strength: float) -> Dense:
        return self.scaled(strength)

    def to(self, device: torch.device) -> Dense:
        return Dense(self.diff.to(device))

    def tensors(self) -> dict[str, Tensor]:
        return {"diff": self.diff}


Delta = LowRank | Dense


def cut(delta: Delta, rank: int, gram: Tensor | None = None, error: float = 0.0) -> tuple[LowRank, float]:
    """The best change of at most `rank` when errors are measured on inputs of second moment `gram` (None: all alike).

    The smallest rank that loses at most the share `error` of the energy is taken where that is smaller. Also returns
    the share that is lost. Source: linalg.truncate_weighted.
    """
    up, down, lost = truncate_weighted(*delta.factors(), gram, rank, error)
    return LowRank(up.float().contiguous(), down.float().contiguous(), None), lost


def norm(delta: Delta) -> float:
    """Frobenius norm of a change."""
    return math.sqrt(delta.squared_norm())


def share_of(deltas: Mapping[str, Delta], layers: Iterable[str]) -> float:
    """Norm of the changes of some layers as a share of the norm of all."""
    sizes = {name: delta.squared_norm() for name, delta in deltas.items()}
    return math.sqrt(sum(sizes[name] for name in layers) / (sum(sizes.values()) or 1.0))


def megabytes(deltas: Mapping[str, Delta]) -> float:
    """Size of the tensors in 10^6 bytes."""
    return sum(t.numel() * t.element_size() for delta in deltas.values() for t in delta.tensors().values()) / 1e6


def ranks_of(deltas: Mapping[str, Delta]) -> list[int]:
    """Ranks of the low-rank changes, in the order of the layers."""
    return [delta.rank for delta in deltas.values() if isinstance(delta, LowRank)]


def has_dense(deltas: Mapping[str, Delta]) -> bool:
    return any(isinstance(delta, Dense) for delta in deltas.values())
