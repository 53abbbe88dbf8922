"""Merges that need no statistics, kept beside the exact one so that every table can show them.

Also an L-BFGS solver of the same objective, as the reference implementation of Mix-of-Show runs it: for tests and
benchmarks only.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..concept import Delta, Dense, LowRank
from ..linalg import OrderedSum, ordered_sum, truncate_weighted


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
        ranks = [part[name].rank for part in deltas if isinstance(part.get(name), LowRank)]
        if isinstance(delta, LowRank):
            up, down, _ = truncate_weighted(delta.up.double(), delta.down.double() * delta.scale, None, max(ranks))
            merged[name] = LowRank(up.float().contiguous(), down.float().contiguous(), None)
    return merged


def shorten(delta: Delta, rank: int) -> Delta:
    """One change cut by plain SVD to at most `rank`; kernels and what is short already stay as they are."""
    if not isinstance(delta, LowRank) or delta.rank <= rank:
        return delta
    up, down, _ = truncate_weighted(delta.up.double().cpu(), delta.down.double().cpu() * delta.scale, None, rank)
    return LowRank(up.float().contiguous(), down.float().contiguous(), None)


def merge_ties(
    deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float], density: float
) -> dict[str, Delta]:
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
        kept = (_drop(delta, density, seed + zlib.crc32(name.encode()))
                for (delta, _), seed in zip(own, chosen, strict=True))  # fmt: skip
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
    matrix = delta.dense().double().cpu().flatten(1)
    sizes = matrix.abs().flatten()
    limit = sizes.kthvalue(len(sizes) - max(round(len(sizes) * density), 1) + 1).values
    return matrix * (matrix.abs() >= limit)


def _drop(delta: Delta, density: float, seed: int) -> Tensor:
    """float64 [out, in]: entries kept with chance `density`, scaled by 1 / density."""
    matrix = delta.dense().double().cpu().flatten(1)
    generator = torch.Generator().manual_seed(seed % 2**63)
    return matrix * (torch.rand(matrix.shape, generator=generator) < density) / density


def fit_lbfgs(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], iterations: int, chunk: int = 5000
) -> tuple[Tensor, float]:
    """argmin_W mean |W x - v|^2 from W = 0 by L-BFGS; returns the best W [o, d] seen and its loss.

    inputs: per concept [n_i, d]; targets: per concept [n_i, o]. Settings of the reference's update_quasi_newton: lr 1,
    history 25, strong Wolfe, both tolerances 1e-16, rows in chunks of 5000, best loss kept.
    """
    x, v = torch.cat(list(inputs)), torch.cat(list(targets))
    weight = torch.zeros(v.shape[1], x.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight], lr=1, max_iter=iterations, history_size=25, line_search_fn="strong_wolfe",
        tolerance_grad=1e-16, tolerance_change=1e-16,
    )  # fmt: skip
    best: list = [weight.detach().clone(), float("inf")]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = x.new_zeros(())
        for rows, wanted in zip(x.split(chunk), v.split(chunk), strict=True):
            loss = loss + ((rows @ weight.mT - wanted) ** 2).sum() / v.numel()
        loss.backward()
        if loss.item() < best[1]:
            best[:] = [weight.detach().clone(), loss.item()]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return best[0], best[1]
