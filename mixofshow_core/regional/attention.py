"""Cross-attention that reads another text inside each region, in one pass.

The paper (Mix-of-Show, arXiv 2305.18292, regionally controllable sampling), at token p of a layer with query Q:

    out(p) = softmax(Q K_c^T s) V_c                                    where no region covers p
    out(p) = 1/n(p) * sum over regions r that cover p of softmax(Q K_r^T s) V_r      elsewhere

Here each region has a weight w_r(p) with sum S(p) <= 1, and the output projection W, b is affine, so that

    out(p) = (1 - S) (W A_c + b) + S (W sum(w_r/S A_r) + b) = W ((1 - S) A_c + sum(w_r A_r)) + b

is the same formula for hard masks and its natural continuation for soft ones. So everything is blended before the
output projection, which then runs once for all texts. Only covered tokens are computed.
Letters: B rows of the batch, R regions, N tokens of a layer, U covered tokens, M tokens of the largest region,
T text tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import meaning

PAPER_COVER = 1.0 - 1e-4
MAX_PADDING = 2.0  # batch regions of unequal size only while padding at most doubles the work

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (q [B,M,C], k [B,T,C], v [B,T,C]) -> [B,M,C]


def cover(masks: Tensor, size: tuple[int, int], edges: str = "soft") -> Tensor:
    """Share of every token that each region covers: masks [B, R, H, W] in 0..1 -> [B, R, h*w].

    ``edges="paper"``: a token belongs to a region iff its mask, area-resized to (h, w), is at least 1 - 1e-4.
    """
    resized = masks if tuple(masks.shape[-2:]) == tuple(size) else F.interpolate(masks, size=size, mode="area")
    flat = resized.flatten(2)
    whole = meaning("Regions: edges", edges, {"soft": False, "paper": True})
    return (flat >= PAPER_COVER).to(flat.dtype) if whole else flat


def blend_weights(covered: Tensor, strength: Tensor, weight: Tensor, overlap: str = "average") -> Tensor:
    """Weight w_r(p) of each region at each token, [B, R, N]; their sum is at most 1, the rest is the background.

    ``average``: w_r = s_r * (v_r c_r / sum v c) * min(1, sum c): equal shares where hard regions overlap (the paper).
    ``priority``: the last region is on top and takes c_r of what the ones above it left.
    """
    strength, weight = strength.to(covered)[None, :, None], weight.to(covered)[None, :, None]
    if meaning("Regions: overlap", overlap, {"average": False, "priority": True}):
        left_by_upper = (1 - covered).flip(1).cumprod(1).roll(1, 1)
        left_by_upper[:, 0] = 1
        return covered * left_by_upper.flip(1) * strength
    wanted = covered * weight
    share = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-12)
    return share * covered.sum(1, keepdim=True).clamp(max=1) * strength


@dataclass(frozen=True)
class RegionCall:
    """One attention call: ``regions`` [R'] read at ``tokens`` [R', M], each answer with its ``weight`` [B, R' M, 1].

    The tokens of smaller regions are filled up with weight 0. Where every row has its own, ``tokens`` are [B, R', M]
    and count on from row to row.
    """

    regions: tuple[int, ...]
    tokens: Tensor
    weight: Tensor


@dataclass(frozen=True)
class TokenPlan:
    """Which tokens a layer has to compute again, and how they are blended; made once for all layers of a size.

    ``total`` [B, N]: S(p), ``keep`` [B, N, 1] = 1 - S(p), or None where that is 0 at every token. ``union`` [U]: tokens
    that any region covers in any row, or a slice of all.
    ``calls``: attention of all regions, in one call where their sizes allow. ``order`` [N]: where every token has
    exactly one region, at full weight, the place of its answer among those of the only call; else None. [B N] where
    every row has tokens of its own.
    """

    total: Tensor
    keep: Tensor | None
    union: Tensor | slice
    calls: tuple[RegionCall, ...]
    order: Tensor | None


def plan_tokens(weights: Tensor, dtype: torch.dtype = torch.float32) -> TokenPlan | None:
    """Plan for weights [B, R, N] of layers that compute in `dtype`; None when nothing is covered."""
    present = (weights > 0).any(0)  # R, N
    union = present.any(0).nonzero().squeeze(1)
    if union.numel() == 0:
        return None
    regions = present.any(1).nonzero().squeeze(1).tolist()
    members = {region: present[region].nonzero().squeeze(1) for region in regions}
    counts = [member.numel() for member in members.values()]
    together = max(counts) * len(counts) <= MAX_PADDING * sum(counts)
    calls = []
    for chosen in [regions] if together else [[region] for region in regions]:
        longest = max(members[region].numel() for region in chosen)
        fill = [(0, longest - members[region].numel()) for region in chosen]
        tokens = torch.stack([F.pad(members[region], more) for region, more in zip(chosen, fill, strict=True)])
        weight = [F.pad(weights[:, r, members[r]], more) for r, more in zip(chosen, fill, strict=True)]
        calls.append(RegionCall(tuple(chosen), tokens, torch.cat(weight, 1)[..., None].to(dtype)))
    total, order = weights.sum(1), None
    if together and sum(counts) == weights.shape[2] == union.numel() and bool((total == 1).all()):
        order = torch.empty_like(union)
        for number, member in enumerate(members.values()):
            order[member] = torch.arange(len(member), device=member.device) + number * max(counts)
    return TokenPlan(total, (1 - total).clamp(min=0)[..., None].to(dtype), union, tuple(calls), order)


def plan_rows(weights: Tensor, dtype: torch.dtype = torch.float32) -> TokenPlan | None:
    """As `plan_tokens` for weights [B, R, N] that differ from row to row and from step to step, as found places do.

    A row reads a region's text at its own tokens alone, and the device is asked once, not once a region.
    """
    rows, count, places = weights.shape
    present, total = weights > 0, weights.sum(1)
    *counts, full = torch.cat([present.sum(2).flatten(), (total == 1).all()[None]]).tolist()
    alone = bool(full) and sum(counts) == rows * places  # as many as tokens, and none without: each has one
    longest = [max(counts[region::count]) for region in range(count)]
    regions = [region for region, length in enumerate(longest) if length]
    if not regions:
        return None
    most = max(longest)
    together = most * len(regions) * rows <= MAX_PADDING * sum(counts)
    members = (~present).to(torch.int8).argsort(dim=2, stable=True)  # a region's tokens first
    start = torch.arange(rows, device=weights.device).view(-1, 1, 1)
    calls = []
    for chosen in [regions] if together else [[region] for region in regions]:
        whole = len(chosen) == count
        own = (members if whole else members[:, chosen])[..., : max(longest[region] for region in chosen)]
        weight = (weights if whole else weights[:, chosen]).gather(2, own).flatten(1)[..., None]
        calls.append(RegionCall(tuple(chosen), (own + start * places).contiguous(), weight.to(dtype)))
    if together and alone:
        there = present if len(regions) == count else present[:, regions]
        which = there.to(torch.int8).argmax(1, keepdim=True)
        within = there.cumsum(2).gather(1, which)
        order = (which * most + within + (start * (len(regions) * most) - 1)).flatten()
        return TokenPlan(total, None, slice(None), tuple(calls), order)
    return TokenPlan(total, (1 - total).clamp(min=0)[..., None].to(dtype), slice(None), tuple(calls), None)


def repeat_tokens(text: Tensor, length: int) -> Tensor:
    """Repeat a text [..., T, C] as a whole to ``length`` tokens; attention over it does not change."""
    times, rest = divmod(length, text.shape[-2])
    if rest:
        raise ValueError(f"{length} is no multiple of {text.shape[-2]} tokens")
    return text if times == 1 else text.repeat(*[1] * (text.dim() - 2), times, 1)


def stack_texts(texts: list[Tensor]) -> Tensor:
    """Texts [T_i, C] of different length as one [R, T, C], each repeated to the least common multiple."""
    length = math.lcm(*(text.shape[0] for text in texts))
    return torch.stack([repeat_tokens(text, length) for text in texts])


def blend(
    out: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: TokenPlan,
    attend: Attend,
    base: Tensor | None = None,
) -> None:
    """Write (1 - S) A_c + sum over r of w_r softmax(Q K_r^T s) V_r into ``out`` = A_c, [B, N, C], before projection.

    query [B, N, C]; keys and values [B, R, T, C] with R counting all regions. Tokens outside all regions keep their
    bits. ``out`` is contiguous. base [B, U, C]: what the base text alone gives at the union; with it S base is taken
    away and not S A_c, so that what others added to `out` stays whole.
    """
    if base is None and plan.order is not None:
        found = _attend_call(plan.calls[0], query, keys, values, attend)
        dim, into = 1, out
        if plan.order.numel() == out.shape[0] * out.shape[1]:  # of every row its own, or there is but one
            dim, found, into = 0, found.flatten(0, 1), out.view(-1, out.shape[-1])
        if out.dtype == found.dtype:
            torch.index_select(found, dim, plan.order, out=into)
        else:
            into.copy_(found.index_select(dim, plan.order))
        return
    if base is None:
        out.mul_(plan.keep)
    for call in plan.calls:
        found = (_attend_call(call, query, keys, values, attend) * call.weight).to(out)
        if call.tokens.dim() == 3:
            out.view(-1, out.shape[-1]).index_add_(0, call.tokens.view(-1), found.flatten(0, 1))
        else:
            out.index_add_(1, call.tokens.view(-1), found)
    if base is not None:
        out[:, plan.union] -= base * plan.total[:, plan.union, None].to(base)


def _attend_call(call: RegionCall, query: Tensor, keys: Tensor, values: Tensor, attend: Attend) -> Tensor:
    """[B, R' M, C]"""
    found = attend(queries_of(call, query), texts_of(call, keys), texts_of(call, values))
    return found.view(query.shape[0], -1, found.shape[-1])


def queries_of(call: RegionCall, query: Tensor) -> Tensor:
    """The queries [B, N, C] of a call's regions, [B R', M, C]."""
    if call.tokens.dim() == 3:
        return query.flatten(0, 1)[call.tokens].flatten(0, 1)
    if len(call.regions) == 1:
        whole = call.tokens.shape[1] == query.shape[1]
        return query if whole else query[:, call.tokens[0]]
    return query[:, call.tokens].flatten(0, 1)


def texts_of(call: RegionCall, side: Tensor) -> Tensor:
    """The keys or values [B, R, T, C] of a call's regions, [B R', T, C]."""
    if len(call.regions) == 1:
        return side[:, call.regions[0]]
    return (side if len(call.regions) == side.shape[1] else side[:, list(call.regions)]).flatten(0, 1)


def in_order(plan: TokenPlan, found: Tensor, batch: int) -> Tensor:
    """The answers [B R', M, C] of a plan's only call as tokens [B, N, C], where every token has exactly one region."""
    if plan.calls[0].tokens.dim() == 3:
        return found.flatten(0, 1).index_select(0, plan.order).unflatten(0, (batch, -1))
    found = found.reshape(batch, -1, found.shape[-1])
    return found if len(plan.calls[0].regions) == 1 else found.index_select(1, plan.order)
