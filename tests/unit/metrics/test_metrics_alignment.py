"""Scores of feature vectors: against the formulas written out in loops."""

from __future__ import annotations

import math

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.metrics.alignment import (
    image_alignment,
    kernel_distance,
    plain_features,
    text_alignment,
)


def rows(count: int, seed: int, width: int = 6, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double()) / math.sqrt(float(a.double() @ a.double()) * float(b.double() @ b.double()))


def test_image_alignment_is_the_mean_over_all_pairs_of_what_is_positive():
    a, b = rows(4, 1), rows(3, 2)
    wanted = [sum(max(cosine(x, y), 0) for y in b) / 3 for x in a]
    assert image_alignment(a, b).tolist() == pytest.approx(wanted)
    assert image_alignment(7 * a, b).tolist() == pytest.approx(wanted)  # length does not matter


def test_text_alignment_pairs_row_by_row():
    a, b = rows(4, 1), rows(4, 2)
    assert text_alignment(a, b).tolist() == pytest.approx([cosine(x, y) for x, y in zip(a, b, strict=True)])
    with pytest.raises(MixOfShowError, match="4 pictures, 3 texts"):
        text_alignment(a, b[:3])


def test_kernel_distance_is_the_unbiased_estimate():
    x, y = rows(5, 1), rows(4, 2)

    def k(a, b):
        return (float(a.double() @ b.double()) / 6 + 1) ** 3

    inside = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / 20
    inside += sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / 12
    wanted = inside - 2 * sum(k(a, b) for a in x for b in y) / 20
    assert kernel_distance(x, y) == pytest.approx(wanted)


def test_kernel_distance_of_equal_distributions_is_zero_on_average():
    """A biased estimate (with the diagonal) would be about 0.7 here."""
    same = [kernel_distance(rows(8, 2 * n), rows(8, 2 * n + 1)) for n in range(400)]
    error = torch.tensor(same).std() / 20
    assert abs(sum(same) / 400) < 3 * error and error < 0.1
    assert kernel_distance(rows(30, 1), rows(30, 2, shift=1.0)) > 5 * error


def test_paired_kernel_distance_of_the_same_pictures_is_zero():
    """Pictures of the same noise: with the pairs (i, i) in it, four unchanged pictures would be far below zero."""
    x = rows(4, 1)
    assert kernel_distance(x, x, paired=True) == pytest.approx(0, abs=1e-9)
    assert kernel_distance(x, x) < -0.5
    same = [kernel_distance(rows(8, n), rows(8, n) + 0.1 * rows(8, n + 400), paired=True) for n in range(400)]
    assert abs(sum(same) / 400) < 3 * torch.tensor(same).std() / 20, "unbiased where two sets differ by noise alone"
    with pytest.raises(MixOfShowError, match="not 4 and 5"):
        kernel_distance(x, rows(5, 2), paired=True)


@pytest.mark.parametrize("bad", [torch.zeros(2, 5), torch.full((2, 6), float("nan")), torch.zeros(0, 6)])
def test_features_that_cannot_be_compared_are_refused(bad):
    with pytest.raises(MixOfShowError):
        image_alignment(bad, rows(2, 1))


def test_kernel_distance_needs_two_pictures():
    with pytest.raises(MixOfShowError, match="at least two"):
        kernel_distance(rows(1, 1), rows(4, 2))
    with pytest.raises(MixOfShowError, match="different evaluators"):
        kernel_distance(rows(3, 1), rows(4, 2, width=5))


def test_built_in_statistic_sees_colours_places_and_edges():
    red, blue, stripes, upright = torch.zeros(4, 40, 60, 3)
    red[..., 0] = blue[..., 2] = 1
    stripes[::8] = stripes[1::8] = stripes[2::8] = stripes[3::8] = 1
    upright[:, ::8] = upright[:, 1::8] = upright[:, 2::8] = upright[:, 3::8] = 1
    found = plain_features(torch.stack([red, red, blue, stripes, upright]))
    same = found @ found.T
    assert same.diagonal().tolist() == pytest.approx([1.0] * 5, abs=1e-5) and same[0, 1] > 0.9999
    assert same[0, 2] < 0.6 and same[3, 4] < 0.8
    left, right = torch.zeros(2, 64, 64, 3)
    left[:, :32, 0] = right[:, 32:, 0] = 1
    pair = plain_features(torch.stack([left, right]))
    assert pair[0] @ pair[1] < 0.6
    with pytest.raises(MixOfShowError, match="Pictures must be"):
        plain_features(torch.zeros(3, 4, 4))
