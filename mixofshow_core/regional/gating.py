"""Low-rank changes that act only where a gate is open: each region its own concept, in one pass.

For a linear layer y = W x and concepts c with changes U_c D_c, token p and gates M_c(p) in 0..1:

    y(p) = W x(p) + sum over c of M_c(p) U_c D_c x(p) = W x + ((x D^T) * M) U^T

with all concepts' factors stacked along the rank, so that any number of concepts costs one pair of products per layer.
A convolution is the same with D_c as its kernel: the rank maps D_c * x are gated at the places of the output, which is
to gate the output map, because U_c acts on each place alone.
The paper fuses instead; gating is ours (compare FreeFuse, arXiv 2510.23515, and LoRA-Composer, arXiv 2403.11627).
Letters: B rows, N tokens, R regions, K concepts, S stacked rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..concept import Delta, LowRank
from ..errors import MixOfShowError


@dataclass(frozen=True, eq=False)
class Factors:
    """All concepts' changes of one layer: ``down`` [S, in], ``up`` [out, S], ``owner`` [S] = concept of each rank.

    For a convolution ``in`` counts the cells of the kernel as well: channels x rows x columns.
    """

    down: Tensor
    up: Tensor
    owner: Tensor

    def to(self, like: Tensor) -> Factors:
        return Factors(self.down.to(like), self.up.to(like), self.owner.to(like.device))


def stack_factors(concepts: Sequence[Mapping[str, Delta]]) -> dict[str, Factors]:
    """Factors by layer name; scales are folded in. Only low-rank changes can be gated."""
    found: dict[str, list[tuple[int, LowRank]]] = {}
    for number, deltas in enumerate(concepts):
        for name, delta in deltas.items():
            if not isinstance(delta, LowRank):
                raise MixOfShowError(
                    f"Layer {name} of concept {number + 1} holds a full matrix, which cannot be gated by region; "
                    f"fuse the concepts instead."
                )
            found.setdefault(name, []).append((number, delta.scaled(1.0)))
    return {
        name: Factors(
            torch.cat([delta.down.float() for _, delta in parts]),
            torch.cat([delta.up.float() for _, delta in parts], 1),
            torch.cat([torch.full((delta.rank,), number) for number, delta in parts]),
        )
        for name, parts in found.items()
    }


def concept_gates(weights: Tensor, owners: Sequence[int | None], background: int | None, count: int) -> Tensor:
    """Gates [B, N, K] from region weights [B, R, N]: a concept acts where its regions do, or in the background."""
    gates = weights.new_zeros(weights.shape[0], weights.shape[2], count)
    for region, owner in enumerate(owners):
        if owner is not None:
            gates[..., owner] += weights[:, region]
    if background is not None:
        gates[..., background] += (1 - weights.sum(1)).clamp(min=0)
    return gates


def add_gated(out: Tensor, x: Tensor, factors: Factors, gates: Tensor) -> Tensor:
    """out + ((x D^T) * M) U^T; ``x`` is [B, N, in], or [B, in, h, w] of a 1x1 convolution, ``gates`` [B, N or 1, K]"""
    mask = gates.to(x)[..., factors.owner]
    if x.dim() == 4:
        change = ((x.flatten(2).transpose(1, 2) @ factors.down.T) * mask) @ factors.up.T
        return out + change.transpose(1, 2).unflatten(2, out.shape[-2:]).to(out)
    return out + (((x @ factors.down.T) * mask) @ factors.up.T).to(out)


@dataclass(frozen=True)
class Kernel:
    """How a convolution walks over its input, for kernels larger than one cell."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def add_gated_kernel(out: Tensor, x: Tensor, factors: Factors, gates: Tensor, kernel: Kernel) -> Tensor:
    """out + U ((D * x) M) for a convolution: x [B, in, h, w], out [B, out, h', w'], ``gates`` [B, h'w', K]."""
    down = factors.down.view(len(factors.down), -1, *kernel.size)
    ranks = F.conv2d(x, down, None, kernel.stride, kernel.padding, kernel.dilation)
    mask = gates.to(x)[..., factors.owner].transpose(1, 2).reshape(ranks.shape)
    return out + F.conv2d(ranks * mask, factors.up[..., None, None]).to(out)
