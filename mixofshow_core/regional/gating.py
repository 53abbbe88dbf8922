"""Low-rank changes that act only where a gate is open: each region its own concept, in one pass.

For a linear layer y = W x and concepts c with changes U_c D_c, token p and gates M_c(p) in 0..1:

    y(p) = W x(p) + sum over c of M_c(p) U_c D_c x(p) = W x + ((x D^T) * M) U^T

with all concepts' factors stacked along the rank, so that any number of concepts costs one pair of products per layer.
A change C_c that is no product U_c D_c is gated as it is: + M_c(p) C_c x(p), a change b_c of the bias: + M_c(p) b_c.
A norm y = n(x) w + b whose weight changes by v_c and its bias by b_c: + M_c(p) (n(x(p)) v_c + b_c).
A convolution is the same with D_c as its kernel: the rank maps D_c * x are gated at the places of the output, which is
to gate the output map, because U_c acts on each place alone.
The paper fuses instead; gating is ours (compare FreeFuse, arXiv 2510.23515, and LoRA-Composer, arXiv 2403.11627).
Letters: B rows, N tokens, R regions, K concepts, S stacked rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from ..delta import Delta, LowRank
from ..families.layers import BIAS, module_of


@dataclass(frozen=True, eq=False)
class Factors:
    """All concepts' changes of one layer: ``down`` [S, in], ``up`` [out, S], ``owner`` [S] = concept of each rank.

    ``blocks``: (concept, rank) in the order of the rows, which is what `owner` says. ``whole``: (concept, matrix
    [out, in]) of those that are no products (LoHa, LoKr, DoRA, full weights); each costs a product of its own.
    For a convolution ``in`` counts the cells of the kernel as well: channels x rows x columns.
    ``shift`` [K, out]: the changes of the bias, or None.
    """

    down: Tensor
    up: Tensor
    owner: Tensor
    blocks: tuple[tuple[int, int], ...]
    whole: tuple[tuple[int, Tensor], ...] = ()
    shift: Tensor | None = None

    def to(self, like: Tensor) -> Factors:
        whole = tuple((number, matrix.to(like)) for number, matrix in self.whole)
        shift = None if self.shift is None else self.shift.to(like)
        return Factors(self.down.to(like), self.up.to(like), self.owner.to(like.device), self.blocks, whole, shift)


@dataclass(frozen=True, eq=False)
class Gates:
    """Gates ``values`` [B, N or 1, K], and what layers make of them: once for all of one dtype and of such ranks."""

    values: Tensor
    made: dict = field(default_factory=dict)

    def cast(self, like: Tensor) -> Tensor:
        """[B, N or 1, K] in the type and place of `like`."""
        key = like.device, like.dtype
        if key not in self.made:
            self.made[key] = self.values.to(like)
        return self.made[key]

    def rows(self, rows: Sequence[int]) -> Gates:
        """Those of some batch rows."""
        return Gates(self.values[list(rows)])

    def of_blocks(self, factors: Factors, like: Tensor) -> tuple[Tensor, int]:
        """(gates [B, N or 1, J], rank): of J blocks of one rank, every block its concept's; else one block a rank."""
        sizes = {rank for _, rank in factors.blocks}
        rank = sizes.pop() if len(sizes) == 1 else 1
        key = like.device, like.dtype, factors.blocks
        if key not in self.made:
            self.made[key] = self.cast(like).index_select(-1, factors.owner[::rank])
        return self.made[key], rank


@dataclass(frozen=True, eq=False)
class NormShifts:
    """All concepts' changes of one norm: of its ``weight`` [K, n] and of its ``bias`` [K, n]."""

    weight: Tensor
    bias: Tensor

    def to(self, like: Tensor) -> NormShifts:
        return NormShifts(self.weight.to(like), self.bias.to(like))


def stack_norms(concepts: Sequence[Mapping[str, Delta]]) -> dict[str, NormShifts]:
    """The changes of norms by layer name."""
    names = {module_of(name) for deltas in concepts for name in deltas}
    found = {}
    for name in names:
        sides = [
            _rows([(n, deltas[key].dense()) for n, deltas in enumerate(concepts) if key in deltas], len(concepts))
            for key in (name, name + BIAS)
        ]
        weight, bias = (next(s for s in sides if s is not None) * 0 if side is None else side for side in sides)
        found[name] = NormShifts(weight, bias)
    return found


def stack_factors(concepts: Sequence[Mapping[str, Delta]]) -> dict[str, Factors]:
    """Factors by layer name; scales are folded in."""
    found: dict[str, list[tuple[int, Delta]]] = {}
    shifts: dict[str, list[tuple[int, Tensor]]] = {}
    for number, deltas in enumerate(concepts):
        for name, delta in deltas.items():
            if name.endswith(BIAS):
                shifts.setdefault(module_of(name), []).append((number, delta.dense()))
            else:
                found.setdefault(name, []).append((number, delta.scaled(1.0)))
    return {
        name: _stack(found.get(name, ()), _rows(shifts.get(name, ()), len(concepts)))
        for name in dict.fromkeys((*found, *shifts))
    }


def _rows(vectors: Sequence[tuple[int, Tensor]], count: int) -> Tensor | None:
    """[K, n] with each concept's vector in its row; None without any."""
    if not vectors:
        return None
    rows = torch.zeros(count, len(vectors[0][1]))
    for number, vector in vectors:
        rows[number] = vector
    return rows


def _stack(parts: Sequence[tuple[int, Delta]], shift: Tensor | None) -> Factors:
    whole = tuple((number, delta.dense().flatten(1)) for number, delta in parts if not isinstance(delta, LowRank))
    thin = [(number, delta) for number, delta in parts if isinstance(delta, LowRank)]
    if not thin:
        rows, cells = whole[0][1].shape if whole else (shift.shape[1], 0)
        return Factors(torch.zeros(0, cells), torch.zeros(rows, 0), torch.zeros(0, dtype=torch.long), (), whole, shift)
    return Factors(
        torch.cat([delta.down.float() for _, delta in thin]),
        torch.cat([delta.up.float() for _, delta in thin], 1),
        torch.cat([torch.full((delta.rank,), number) for number, delta in thin]),
        tuple((number, delta.rank) for number, delta in thin),
        whole,
        shift,
    )


def concept_gates(weights: Tensor, owners: Sequence[int | None], background: int | None, count: int) -> Tensor:
    """Gates [B, N, K] from region weights [B, R, N]: a concept acts where its regions do, or in the background."""
    if background is None and tuple(owners) == tuple(range(count)):
        return weights.transpose(1, 2)
    gates = weights.new_zeros(weights.shape[0], weights.shape[2], count)
    for region, owner in enumerate(owners):
        if owner is not None:
            gates[..., owner] += weights[:, region]
    if background is not None:
        gates[..., background] += (1 - weights.sum(1)).clamp(min=0)
    return gates


def add_gated(out: Tensor, x: Tensor, factors: Factors, gates: Gates, ranks: Tensor | None = None) -> Tensor:
    """out + ((x D^T) * M) U^T; ``x`` is [B, N, in], or [B, in, h, w] of a 1x1 convolution.

    ``out`` may be written into: the layer has just made it. ranks: (x D^T) * M where it is known (`gate_ranks`).
    """
    if x.dim() == 4:
        rows = x.flatten(2).transpose(1, 2)
        change = torch.zeros_like(out).flatten(2).transpose(1, 2)
        change = add_gated(change, rows, factors, gates)
        return out + change.transpose(1, 2).unflatten(2, out.shape[-2:])
    if factors.blocks:
        out = _add_product(out, gate_ranks(x, factors, gates) if ranks is None else ranks, factors.up)
    if factors.shift is not None:
        out = out + (gates.cast(x) @ factors.shift).to(out)
    for number, matrix in factors.whole:
        out = out + ((x @ matrix.T) * gates.cast(x)[..., number, None]).to(out)
    return out


def gate_ranks(x: Tensor, factors: Factors, gates: Gates) -> Tensor:
    """(x D^T) * M, [B, N, S]"""
    own, rank = gates.of_blocks(factors, x)
    ranks = x @ factors.down.T
    blocks = ranks.unflatten(-1, (-1, rank))
    return (blocks * own[..., None]).flatten(-2) if ranks.requires_grad else blocks.mul_(own[..., None]).flatten(-2)


def join(parts: Sequence[Factors]) -> tuple[Factors, tuple[slice, ...]]:
    """Factors of layers that read the same tensor as one, whose ranks are one product, and the ranks of each.

    It has no `up`: what a layer adds is its own.
    """
    ends = list(accumulate(len(part.down) for part in parts))
    spans = tuple(slice(end - len(part.down), end) for part, end in zip(parts, ends, strict=True))
    down, owner = (torch.cat([getattr(part, side) for part in parts]) for side in ("down", "owner"))
    blocks = tuple(block for part in parts for block in part.blocks)
    return Factors(down, down.new_zeros(0, len(down)), owner, blocks), spans


def _add_product(out: Tensor, ranks: Tensor, up: Tensor) -> Tensor:
    """out + ranks up^T as one operation, in place where nothing forbids it."""
    if out.requires_grad or ranks.requires_grad or out.dtype != ranks.dtype or not out.is_contiguous():
        return out + (ranks @ up.T).to(out)
    out.view(-1, out.shape[-1]).addmm_(ranks.flatten(0, -2), up.T)
    return out


@dataclass(frozen=True)
class Kernel:
    """How a convolution walks over its input, for kernels larger than one cell."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def add_gated_kernel(out: Tensor, x: Tensor, factors: Factors, gates: Gates, kernel: Kernel) -> Tensor:
    """out + U ((D * x) M) for a convolution: x [B, in, h, w], out [B, out, h', w'], ``gates`` [B, h'w', K]."""
    walk = kernel.stride, kernel.padding, kernel.dilation
    maps = gates.cast(x).transpose(1, 2).unflatten(2, out.shape[-2:])  # [B, K, h', w']
    if factors.blocks:
        down = factors.down.view(len(factors.down), -1, *kernel.size)
        ranks = F.conv2d(x, down, None, *walk) * maps[:, factors.owner]
        out = out + F.conv2d(ranks, factors.up[..., None, None]).to(out)
    if factors.shift is not None:
        out = out + torch.einsum("bkhw,ko->bohw", maps, factors.shift).to(out)
    for number, matrix in factors.whole:
        change = F.conv2d(x, matrix.view(len(matrix), -1, *kernel.size), None, *walk)
        out = out + (change * maps[:, number, None]).to(out)
    return out


def add_gated_norm(out: Tensor, normed: Tensor, change: NormShifts, gates: Gates) -> Tensor:
    """out + M (n(x) v + b); ``normed`` = n(x) without weight and bias, [B, N, C], or [B, C, h, w] of a group norm."""
    weight, bias = (gates.cast(normed) @ side for side in (change.weight, change.bias))  # [B, N, C]
    if normed.dim() == 4:
        weight, bias = (side.transpose(1, 2).unflatten(2, normed.shape[-2:]) for side in (weight, bias))
    return out + (normed * weight + bias).to(out)
