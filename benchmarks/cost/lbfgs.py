"""Gradient fusion as the reference implementation of Mix-of-Show runs it: the baseline of fusion.py and of a test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
        [weight],
        lr=1,
        max_iter=iterations,
        history_size=25,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-16,
        tolerance_change=1e-16,
    )
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
