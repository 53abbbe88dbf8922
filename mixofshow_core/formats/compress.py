"""Smaller deltas by singular values, with the error that this costs.

Errors are relative Frobenius norms of one layer's change, or of all layers together; no inputs are weighed here (the
fusion node does that).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..delta import Delta, LowRank, megabytes
from ..errors import MixOfShowError

MAX_AUTO_RANK = 128
AUTO_ERROR = 0.01  # of the squared norm
PAPER_RANKS = (75, 25, 5, 1)  # 15, 5, 1 and 0.2 MB for SD1.5's keys and values, whole 75 MB
PAPER_SHARE = 0.6  # Custom Diffusion's compression keeps this share of the sum of singular values


@dataclass(frozen=True)
class Compressed:
    """Deltas after compression; ``error`` is the relative norm of what was dropped over all layers."""

    deltas: Mapping[str, Delta]
    error: float
    megabytes: float


def parse_size(size: str) -> int | str:
    """``auto``, ``exact``, or a rank from 1 to 1024."""
    text = str(size).strip().lower().removeprefix("rank").strip()
    if text in ("auto", "exact"):
        return text
    if text.isdecimal() and 1 <= int(text) <= 1024:
        return int(text)
    raise MixOfShowError(f"Size {size!r} is unknown: use auto, exact, or a rank from 1 to 1024.")


def compress_to_size(
    deltas: Mapping[str, Delta],
    size: str = "auto",
    low_rank_only: bool = False,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Compressed:
    """Deltas at a size: ``exact`` keeps all, ``auto`` keeps low rank up to 128 as it is, a number is the largest rank.

    What has to shrink at ``auto`` keeps 99 % of its squared norm, at most 128 ranks. `low_rank_only` turns full-rank
    changes into factors too, at ``exact`` with every singular value; otherwise 3x3 kernels stay as they are.
    `step(done, total)` is called for every layer.
    """
    wanted = parse_size(size)
    limit = {"auto": MAX_AUTO_RANK, "exact": math.inf}.get(wanted, wanted)
    made: dict[str, Delta] = {}
    lost = total = 0.0
    for number, (name, delta) in enumerate(deltas.items(), 1):
        step(number, len(deltas))
        made[name] = delta
        if not delta.is_flat and not (low_rank_only and len(delta.shape) > 1):  # kernels, norms and biases
            total += delta.squared_norm()
            continue
        keeps = delta.rank <= limit if isinstance(delta, LowRank) else wanted == "exact" and not low_rank_only
        if keeps:
            total += delta.squared_norm()
            continue
        u, s, v = delta.svd()
        rank = int(min(limit, len(s)))
        if wanted == "auto":
            rank = min(rank, rank_for_error(s, AUTO_ERROR))
        rank = max(1, min(rank, int((s > 0).sum())))
        made[name] = _leading(u, s, v, rank)
        lost, total = lost + float(s[rank:].square().sum()), total + float(s.square().sum())
    return Compressed(made, math.sqrt(lost / total) if total else 0.0, megabytes(made))


def compress_by_share(deltas: Mapping[str, Delta], share: float = PAPER_SHARE) -> Compressed:
    """Keep leading singular values while their share of the sum stays at most `share` (at least one is kept).

    Source: the compression step of Custom Diffusion (arXiv 2212.04488); the share is of the sum, not of the energy.
    """
    made: dict[str, Delta] = {}
    lost = total = 0.0
    for name, delta in deltas.items():
        u, s, v = delta.svd()
        shares = s.cumsum(0) / s.sum().clamp_min(1e-30)
        rank = max(1, int((shares <= share).sum()))
        made[name] = _leading(u, s, v, rank)
        lost, total = lost + float(s[rank:].square().sum()), total + float(s.square().sum())
    return Compressed(made, math.sqrt(lost / total) if total else 0.0, megabytes(made))


def size_steps(deltas: Mapping[str, Delta], ranks: tuple[int, ...] = PAPER_RANKS) -> list[tuple[int, float, float]]:
    """(rank, megabytes as fp32, relative error) if every change were cut to that rank: what small files cost."""
    spectra = [(delta.svd()[1], sum(delta.shape[:2])) for delta in deltas.values()]
    total = sum(float(s.square().sum()) for s, _ in spectra) or 1.0
    steps = []
    for rank in ranks:
        lost = sum(float(s[rank:].square().sum()) for s, _ in spectra)
        size = sum(min(rank, len(s)) * sides * 4 for s, sides in spectra) / 1e6
        steps.append((rank, size, math.sqrt(lost / total)))
    return steps


def _leading(u: Tensor, s: Tensor, v: Tensor, rank: int) -> LowRank:
    """The first `rank` singular values as factors, the values inside `up`."""
    return LowRank((u[:, :rank] * s[:rank]).float().contiguous(), v[:rank].float().contiguous())


def rank_for_error(s: Tensor, error: float) -> int:
    """The smallest rank that leaves at most `error` of the squared norm behind."""
    energy = s.square()
    left = 1 - energy.cumsum(0) / energy.sum().clamp_min(1e-30)
    return min(len(s), int((left > error).sum()) + 1)
