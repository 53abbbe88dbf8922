"""Merges of the changes alone, without statistics: what the exact one is compared with, and what some want."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..delta import Delta, Dense, LowRank, cut
from ..linalg import OrderedSum, ordered_sum

EMPTY = 1e-6  # singular values below this share of the largest are rounding


def merge_sum(deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float]) -> dict[str, Delta]:
    """sum_i weight_i D_i per layer, in the order given. Low-rank stays low-rank (ranks add up)."""
    merged: dict[str, Delta] = {}
    for name in sorted({name for part in deltas for name in part}):
        terms = [(part[name], weight) for part, weight in zip(deltas, weights, strict=True) if name in part]
        if all(isinstance(delta, LowRank) for delta, _ in terms):
            merged[name] = _stack(terms)
        else:
            shape = next(delta.shape for delta, _ in terms if isinstance(delta, Dense))
            whole = (delta.dense().cpu().reshape(shape) for delta, _ in terms)
            merged[name] = Dense(ordered_sum(whole, [weight for _, weight in terms]))
    return merged


def merge_average(deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float]) -> dict[str, Delta]:
    """The weighted mean over all concepts: a concept without a change on a layer counts as zero there."""
    total = sum(weights)
    return merge_sum(deltas, [weight / total for weight in weights])


def _stack(terms: Sequence[tuple[LowRank, float]]) -> LowRank:
    """Low-rank changes added up: factors side by side, no product formed; scales go into `down`, as in the solver."""
    up = torch.cat([delta.up.float().cpu() for delta, _ in terms], 1)
    return LowRank(up, torch.cat([delta.down.float().cpu() * (delta.scale * weight) for delta, weight in terms]), None)


def merge_svd(deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float]) -> dict[str, Delta]:
    """The sum, cut by plain SVD to the largest rank that one of the concepts has on the layer (as PEFT's `svd`)."""
    merged = merge_sum(deltas, weights)
    for name, delta in merged.items():
        if isinstance(delta, LowRank):
            merged[name] = cut(delta, max(part[name].rank for part in deltas if name in part))[0]
    return merged


def merge_iso(deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float]) -> dict[str, Delta]:
    """Iso-C (arXiv 2502.04959): the sum with all its singular values replaced by their mean.

    The mean is over the directions that the sum has: with U S V^T of rank r, the answer is (tr S / r) U V^T. In the
    paper the sum has full rank; of low-rank changes the empty directions stay empty, else they would be noise.
    """
    merged = merge_sum(deltas, weights)
    for name, delta in merged.items():
        u, s, v = delta.svd()
        rank = int((s > s[0] * EMPTY).sum())
        if not rank:
            continue
        level = float(s[:rank].mean())
        if isinstance(delta, LowRank):
            merged[name] = LowRank((u[:, :rank] * level).float().contiguous(), v[:rank].float().contiguous(), None)
        else:
            merged[name] = Dense((level * u[:, :rank] @ v[:rank]).float().reshape(delta.shape))
    return merged


def shorten(delta: Delta, rank: int) -> Delta:
    """One change cut by plain SVD to at most `rank`; kernels and what is short already stay as they are."""
    return cut(delta, rank)[0] if isinstance(delta, LowRank) and delta.rank > rank else delta


def merge_ties(deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float], density: float) -> dict[str, Delta]:
    """TIES (arXiv 2306.01708): keep the largest `density` of each change's entries, elect a sign per entry by the
    summed values, and average the entries that agree with it."""
    merged: dict[str, Delta] = {}
    for name, (own, shape) in _changes(deltas, weights):
        # Cut once more for the second pass: all of them at once would be a matrix per concept.
        sign = ordered_sum((_trim(delta, density) * weight for delta, weight in own), [1.0] * len(own)).sign()
        count, total = OrderedSum(), OrderedSum()
        for delta, weight in own:
            matrix = _trim(delta, density) * weight
            agrees = (matrix.sign() == sign) & (matrix != 0)
            count.add(agrees.double(), weight)
            total.add(matrix * agrees)
        mean = total.total() / count.total().clamp_min(1e-12)
        merged[name] = Dense(torch.where(count.total() > 0, mean, 0).float().reshape(shape))
    return merged


def merge_dare(
    deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float], density: float, seeds: Sequence[int]
) -> dict[str, Delta]:
    """DARE (arXiv 2311.03099): keep each entry with chance `density`, scaled by 1 / density, then the weighted mean.

    seeds: one per concept; which entries go depends on the seed and the layer's name only, not on the order.
    """
    merged: dict[str, Delta] = {}
    share = [weight / sum(weights) for weight in weights]
    for name, (own, shape) in _changes(deltas, share):
        chosen = [seed for seed, part in zip(seeds, deltas, strict=True) if name in part]
        kept = (
            _drop(delta, density, seed + zlib.crc32(name.encode()))
            for (delta, _), seed in zip(own, chosen, strict=True)
        )
        merged[name] = Dense(ordered_sum(kept, [weight for _, weight in own]).float().reshape(shape))
    return merged


def _changes(
    deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float]
) -> Iterator[tuple[str, tuple[list[tuple[Delta, float]], tuple[int, ...]]]]:
    """Per layer: the changes of it with their concepts' weights, and the layer's shape."""
    for name in sorted({name for part in deltas for name in part}):
        own = [(part[name], weight) for part, weight in zip(deltas, weights, strict=True) if name in part]
        shape = next((delta.shape for delta, _ in own if isinstance(delta, Dense)), own[0][0].shape)
        yield name, (own, shape)


def _trim(delta: Delta, density: float) -> Tensor:
    """float64 [out, in]: entries smaller than the largest `density` of them become zero; equal sizes stay together."""
    matrix = delta.matrix()
    sizes = matrix.abs().flatten()
    limit = sizes.kthvalue(len(sizes) - max(round(len(sizes) * density), 1) + 1).values
    return matrix * (matrix.abs() >= limit)


def _drop(delta: Delta, density: float, seed: int) -> Tensor:
    """float64 [out, in]: entries kept with chance `density`, scaled by 1 / density."""
    matrix = delta.matrix()
    generator = torch.Generator().manual_seed(seed % 2**63)
    return matrix * (torch.rand(matrix.shape, generator=generator) < density) / density
