"""Merges that need no statistics, kept beside the exact one so that every table can show them.

Also an L-BFGS solver of the same objective, as the reference implementation of Mix-of-Show runs it: for tests and
benchmarks only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..concept import Delta, Dense, LowRank
from ..linalg import tree_sum

METHODS = ("exact", "sum", "average")


def merge_sum(deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float]) -> dict[str, Delta]:
    """sum_i weight_i D_i per layer, in the order given. Low-rank stays low-rank (ranks add up)."""
    merged: dict[str, Delta] = {}
    for name in sorted({name for part in deltas for name in part}):
        terms = [(part[name], weight) for part, weight in zip(deltas, weights, strict=True) if name in part]
        if all(isinstance(delta, LowRank) for delta, _ in terms):
            merged[name] = _stack(terms)
        else:
            shape = next(delta.shape for delta, _ in terms if isinstance(delta, Dense))
            merged[name] = Dense(tree_sum([d.dense().cpu().reshape(shape) for d, _ in terms], [w for _, w in terms]))
    return merged


def merge_average(deltas: Sequence[Mapping[str, Delta]], weights: Sequence[float]) -> dict[str, Delta]:
    """The weighted mean over all concepts: a concept without a change on a layer counts as zero there."""
    total = sum(weights)
    return merge_sum(deltas, [weight / total for weight in weights])


def _stack(terms: Sequence[tuple[LowRank, float]]) -> LowRank:
    """Low-rank changes added up: factors side by side, no product formed; scales go into `down`, as in the solver."""
    up = torch.cat([delta.up.float().cpu() for delta, _ in terms], 1)
    return LowRank(up, torch.cat([delta.down.float().cpu() * (delta.scale * weight) for delta, weight in terms]), None)


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
