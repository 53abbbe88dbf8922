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
from functools import cached_property

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
class TokenPlan:
    """Which tokens a layer has to compute again.

    ``union`` [U]: tokens that any region covers in any row; ``total`` [B, U]: S(p). ``regions``: numbers of the
    regions that cover anything; ``members`` per such region: positions in ``union``; ``shares`` [B, R', U]: w_r / S.
    ``whole``: the union is every token; ``covered``: and S is 1 at all of them.
    """

    union: Tensor
    total: Tensor
    regions: tuple[int, ...]
    members: tuple[Tensor, ...]
    shares: Tensor
    whole: bool
    covered: bool

    @property
    def padded(self) -> bool:
        """Whether all regions go into one attention call, the smaller ones padded with tokens of share 0."""
        counts = [member.numel() for member in self.members]
        return len(counts) > 1 and max(counts) * len(counts) <= MAX_PADDING * sum(counts)

    @cached_property
    def padding(self) -> tuple[Tensor, Tensor]:
        """(tokens [R', M], shares [B, R' M, 1]) of one call for all regions; made once for all layers of a size."""
        longest = max(member.numel() for member in self.members)
        rows = torch.stack([F.pad(member, (0, longest - member.numel())) for member in self.members])
        valid = torch.stack([_valid(member, longest) for member in self.members])
        share = torch.gather(self.shares, 2, rows[None].expand(len(self.shares), -1, -1)) * valid
        return rows, share.reshape(len(share), -1, 1)


def plan_tokens(weights: Tensor) -> TokenPlan | None:
    """Plan for weights [B, R, N]; None when nothing is covered."""
    present, count = (weights > 0).any(0), weights.shape[2]  # R, N
    union = present.any(0).nonzero().squeeze(1)
    if union.numel() == 0:
        return None
    weights, present = weights[:, :, union], present[:, union]
    regions = tuple(present.any(1).nonzero().squeeze(1).tolist())
    total = weights.sum(1)
    shares = weights[:, list(regions)] / total.clamp(min=1e-12)[:, None]
    members = tuple(present[r].nonzero().squeeze(1) for r in regions)
    whole = union.numel() == count
    return TokenPlan(union, total, regions, members, shares, whole, whole and bool((total >= 1).all()))


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


def attend_regions(query: Tensor, keys: Tensor, values: Tensor, plan: TokenPlan, attend: Attend) -> Tensor:
    """sum over r of w_r/S * softmax(Q K_r^T s) V_r at the covered tokens, before the output projection.

    query [B, U, C]; keys and values [B, R, T, C] with R counting all regions. Returns [B, U, C], of which rows where
    S(p) = 0 mean nothing.
    """
    if len(plan.regions) == 1 and plan.members[0].numel() == query.shape[1]:
        return attend(query, keys[:, plan.regions[0]], values[:, plan.regions[0]])
    mixed = torch.zeros_like(query)
    if not plan.padded:
        for n, (region, member) in enumerate(zip(plan.regions, plan.members, strict=True)):
            found = attend(query[:, member], keys[:, region], values[:, region])
            mixed[:, member] += found * plan.shares[:, n, member, None].to(found)
        return mixed
    batch, channels, count = query.shape[0], query.shape[2], len(plan.regions)
    rows, share = plan.padding
    if plan.regions != tuple(range(keys.shape[1])):
        keys, values = keys[:, list(plan.regions)], values[:, list(plan.regions)]
    found = attend(
        query[:, rows].flatten(0, 1),
        keys.reshape(batch * count, *keys.shape[2:]),
        values.reshape(batch * count, *values.shape[2:]),
    ).view(batch, -1, channels)
    return mixed.index_add_(1, rows.view(-1), found * share.to(found))


def _valid(member: Tensor, longest: int) -> Tensor:
    return (torch.arange(longest, device=member.device) < member.numel()).float()


def blend(out: Tensor, part: Tensor, plan: TokenPlan) -> Tensor:
    """(1 - S) out + S part at the covered tokens; all other tokens of out [B, N, C] keep their bits."""
    if plan.covered:
        return part.to(out)
    total = plan.total[..., None].to(out)
    result = out.clone()
    result[:, plan.union] = torch.where(total >= 1, part, torch.lerp(out[:, plan.union], part, total))
    return result


def add_difference(out: Tensor, part: Tensor, base: Tensor, plan: TokenPlan) -> Tensor:
    """out + S (part - base): keeps what others added to out, which ``blend`` would scale away."""
    result = out.clone()
    result[:, plan.union] += (part - base) * plan.total[..., None].to(out)
    return result
