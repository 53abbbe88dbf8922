"""Regional attention on plain tensors, against the paper's formula written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from mos_pack.mixofshow_core.regional import attention as regional

HEADS = 2


def attend(q, k, v):
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def paper_tokens(box, height, width):
    """Token set of a fractional box (top, left, bottom, right), as the reference's rounding gives it."""
    top, left, bottom, right = box
    mask = torch.zeros(height, width)
    mask[math.ceil(top * height) : math.floor(bottom * height), math.ceil(left * width) : math.floor(right * width)] = 1
    return mask


def box_mask(box, height, width):
    top, left, bottom, right = (round(v * s) for v, s in zip(box, (height, width) * 2, strict=True))
    mask = torch.zeros(height, width)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("box", [(0, 0, 1, 0.5), (0.1, 0.2, 0.9, 0.7), (0.25, 0.13, 1, 0.61), (0, 0, 0.1, 0.1)])
@pytest.mark.parametrize("level", [1, 2, 4, 8])
def test_paper_membership_is_the_references_token_set(box, level):
    height, width = 512, 1024
    box = tuple(round(v * s) / s for v, s in zip(box, (height, width) * 2, strict=True))
    latent = F.interpolate(box_mask(box, height, width)[None, None], size=(height // 8, width // 8), mode="area")
    size = (height // 8 // level, width // 8 // level)
    assert torch.equal(regional.cover(latent, size, "paper")[0, 0], paper_tokens(box, *size).flatten())


def test_paper_formula():
    """Overlapping hard regions: the mean of their attention; elsewhere the context's; to 1e-5."""
    torch.manual_seed(0)
    tokens, channels, texts = 48, 8, 3
    n, out_proj = torch.randn(2, tokens, channels), torch.nn.Linear(channels, channels)
    q, base_k, base_v = n, torch.randn(2, 7, channels), torch.randn(2, 7, channels)
    keys, values = torch.randn(2, texts, 7, channels), torch.randn(2, texts, 7, channels)
    covered = torch.zeros(1, texts, tokens)
    covered[:, 0, :20], covered[:, 1, 10:30], covered[:, 2, 15:18] = 1, 1, 1

    count = covered.sum(1)[0]
    plain = attend(q, base_k, base_v)
    summed = sum(covered[0, r, :, None] * attend(q, keys[:, r], values[:, r]) for r in range(texts))
    mixed = torch.where(count[:, None] > 0, summed / count.clamp(min=1)[:, None], plain)
    wanted = out_proj(mixed)

    ones = torch.ones(texts)
    plan = regional.plan_tokens(regional.blend_weights(covered, ones, ones).expand(2, -1, -1))
    assert plan.union.tolist() == list(range(30))
    blended, difference, added = plain.clone(), plain.clone(), torch.randn_like(plain)
    regional.blend(blended, q, keys, values, plan, attend)
    assert torch.allclose(out_proj(blended), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(blended[:, 30:], plain[:, 30:])
    difference += added  # by another node's patch: kept whole, inside regions too
    regional.blend(difference, q, keys, values, plan, attend, plain[:, plan.union])
    assert torch.allclose(out_proj(difference - added), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(10, 12), (40, 3), (48, 0)])
@pytest.mark.parametrize("strengths", [(0.7, 0.4), (1.0, 1.0)])
@pytest.mark.parametrize("padding", [regional.MAX_PADDING, 0.5])
def test_regions_of_any_size_are_blended_row_by_row(sizes, strengths, padding, monkeypatch):
    """In one attention call, and in one each where filling up the smaller ones would cost too much."""
    monkeypatch.setattr(regional, "MAX_PADDING", padding)
    torch.manual_seed(1)
    q, keys, values = torch.randn(2, 48, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    covered = torch.zeros(2, 2, 48)
    covered[0, 0, : sizes[0]], covered[1, 1, 48 - sizes[1] :] = strengths
    out = torch.randn(2, 48, 8)
    wanted = out.clone()
    for row, where in ((0, slice(0, sizes[0])), (1, slice(48 - sizes[1], 48))):
        found, share = attend(q, keys[:, row], values[:, row])[row, where], strengths[row]
        wanted[row, where] = (1 - share) * out[row, where] + share * found
    ones = torch.ones(2)
    plan = regional.plan_tokens(regional.blend_weights(covered, ones, ones))
    assert len(plan.calls) == (1 if padding > 1 or not sizes[1] else 2)
    regional.blend(out, q, keys, values, plan, attend)
    assert torch.allclose(out, wanted, atol=1e-6)


@pytest.mark.parametrize("left", [20, 24])
def test_regions_that_share_out_the_picture_are_put_into_order(left):
    """Every token has one region at full weight: its answer to the bit, no sum."""
    torch.manual_seed(3)
    q, keys, values = torch.randn(1, 48, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    weights = torch.zeros(1, 2, 48)
    weights[:, 0, :left], weights[:, 1, left:] = 1, 1
    plan = regional.plan_tokens(weights)
    assert plan.order is not None and len(plan.calls) == 1
    out = torch.randn(1, 48, 8)
    regional.blend(out, q, keys, values, plan, attend)
    parts = [attend(q, keys[:, r], values[:, r])[:, where] for r, where in ((0, slice(left)), (1, slice(left, 48)))]
    assert torch.allclose(out, torch.cat(parts, 1), atol=1e-6)
    weights[:, 1, 47] = 0.5
    assert regional.plan_tokens(weights).order is None


@pytest.mark.parametrize("kind", ["one everywhere", "soft and nobody", "one is small", "one is nowhere"])
def test_rows_with_places_of_their_own(kind):
    """The formula row by row; a row is asked at its own tokens and at no other's."""
    draw = torch.Generator().manual_seed(7)
    rows, regions, tokens, channels = 3, 3, 40, 8
    who = torch.randint(0, 2 if kind == "one is nowhere" else regions, (rows, tokens), generator=draw)
    if kind == "one is small":
        who = torch.where(torch.rand(rows, tokens, generator=draw) < 0.9, 0, who)
    weights = F.one_hot(who, regions).float().transpose(1, 2)
    if kind == "soft and nobody":
        weights *= (torch.rand(rows, 1, tokens, generator=draw) * 2 - 0.5).clamp(0, 1)
    query, out = (torch.randn(rows, tokens, channels, generator=draw) for _ in range(2))
    keys, values = (torch.randn(rows, regions, 5, channels, generator=draw) for _ in range(2))
    asked = []

    def count(q, k, v):
        asked.append(q.shape[0] * q.shape[1])
        return attend(q, k, v)

    wanted = out * (1 - weights.sum(1))[..., None]
    for region in range(regions):
        wanted += weights[:, region, :, None] * attend(query, keys[:, region], values[:, region])
    plan, found = regional.plan_rows(weights), out.clone()
    regional.blend(found, query, keys, values, plan, count)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (plan.order is not None) == (kind in ("one everywhere", "one is nowhere"))
    assert sum(asked) <= 2 * (weights > 0).sum()
    base = attend(query, keys[:, 0], values[:, 0])
    shared = base + 1
    regional.blend(shared, query, keys, values, plan, attend, base[:, plan.union])
    keep = (1 - weights.sum(1))[..., None]
    assert torch.allclose(shared, wanted - out * keep + base * keep + 1, atol=1e-5)
    nobody = weights.sum(1) == 0
    assert torch.equal(found[nobody], out[nobody])
    assert regional.plan_rows(weights * 0) is None


def test_average_weights():
    covered = torch.tensor([[[1.0, 1.0, 0.5, 0.0], [0.0, 1.0, 0.5, 0.0]]])
    ones = torch.ones(2)
    assert torch.allclose(
        regional.blend_weights(covered, ones, ones)[0], torch.tensor([[1, 0.5, 0.5, 0], [0, 0.5, 0.5, 0]])
    )
    weighted = regional.blend_weights(covered, torch.tensor([0.5, 1.0]), torch.tensor([3.0, 1.0]))[0]
    assert torch.allclose(weighted, torch.tensor([[0.5, 0.375, 0.375, 0], [0, 0.25, 0.25, 0]]))


def test_priority_weights():
    covered = torch.tensor([[[1.0, 1.0], [0.5, 0.0], [0.25, 0.0]]])
    found = regional.blend_weights(covered, torch.ones(3), torch.ones(3), "priority")[0]
    assert torch.allclose(found, torch.tensor([[0.375, 1.0], [0.375, 0], [0.25, 0]]))


def test_soft_weights_move_from_background_to_region():
    torch.manual_seed(2)
    out, query, text = torch.randn(1, 4, 8), torch.randn(1, 4, 8), torch.randn(1, 1, 5, 8)
    part = attend(query, text[:, 0], text[:, 0])
    plan = regional.plan_tokens(torch.tensor([[[0.0, 0.25, 0.5, 1.0]]]))
    share = torch.tensor([0.0, 0.25, 0.5, 1.0])[:, None]
    wanted = (1 - share) * out + share * part
    regional.blend(out, query, text, text, plan, attend)
    assert torch.allclose(out, wanted, atol=1e-6)


def test_nothing_covered_has_no_plan():
    assert regional.plan_tokens(torch.zeros(2, 3, 5)) is None


def test_odd_sizes_follow_the_hosts_rounding():
    masks = torch.zeros(1, 1, 9, 13)
    masks[..., :7] = 1
    for size in ((5, 7), (3, 4), (2, 2)):
        covered = regional.cover(masks, size)
        assert covered.shape == (1, 1, size[0] * size[1])
        assert 0.3 < covered.mean() < 0.7


def test_texts_of_different_length_are_repeated():
    texts = regional.stack_texts([torch.randn(77, 4), torch.randn(154, 4)])
    assert texts.shape == (2, 154, 4)
    assert torch.equal(texts[0, :77], texts[0, 77:])
    q = torch.randn(1, 3, 4)
    one = texts[:1, :77]
    assert torch.allclose(attend(q, one, one), attend(q, texts[:1], texts[:1]), atol=1e-6)
