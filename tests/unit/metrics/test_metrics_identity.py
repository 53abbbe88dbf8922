"""Nearest identity, its "none", and intervals."""

from __future__ import annotations

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.metrics.identity import (
    NONE,
    Gallery,
    bootstrap_interval,
    calibrate_none,
    nearest_identity,
    similarities,
)


def cloud(direction: int, count: int, seed: int, noise: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(8)[direction] + noise * torch.randn(count, 8, generator=generator)


@pytest.fixture
def gallery() -> Gallery:
    return Gallery({"mara": cloud(0, 5, 1), "finn": cloud(1, 5, 2)}, threshold=0.7)


def test_pictures_get_their_own_name(gallery: Gallery) -> None:
    answers = nearest_identity(torch.cat([cloud(0, 4, 3), cloud(1, 4, 4)]), gallery)
    assert [a.name for a in answers] == ["mara"] * 4 + ["finn"] * 4
    assert all(a.margin > 0.3 for a in answers)


def test_a_stranger_is_nobody_but_still_has_a_nearest(gallery: Gallery) -> None:
    stranger = nearest_identity(cloud(5, 3, 5), gallery)
    assert {a.name for a in stranger} == {NONE}
    assert {a.nearest for a in stranger} <= {"mara", "finn"}


def test_length_of_features_does_not_matter(gallery: Gallery) -> None:
    query = cloud(0, 3, 6)
    assert torch.allclose(similarities(query, gallery), similarities(40 * query, gallery), atol=1e-6)


def test_closest_references_count_not_the_average_look() -> None:
    # One identity in two very different costumes: a picture of either costume is that identity.
    gallery = Gallery({"two": torch.cat([cloud(0, 3, 1, 0.01), cloud(1, 3, 2, 0.01)]), "one": cloud(2, 6, 3, 0.01)})
    assert similarities(cloud(1, 1, 4, 0.01), gallery)[0, 0] > 0.95


def test_calibration_separates_known_from_strangers() -> None:
    known, strangers = torch.tensor([0.8, 0.85, 0.9, 0.4]), torch.tensor([0.3, 0.5, 0.55])
    cut = calibrate_none(known, strangers)
    assert 0.55 < cut < 0.8


def test_interval_covers_the_mean_and_narrows_with_more_data() -> None:
    few, many = [1, 0, 1, 1], [1, 0, 1, 1] * 50
    mean, low, high = bootstrap_interval(few)
    assert mean == 0.75 and low <= mean <= high
    assert bootstrap_interval(many)[2] - bootstrap_interval(many)[1] < (high - low) / 3
    assert bootstrap_interval(few) == bootstrap_interval(few)


@pytest.mark.parametrize(
    "references", [{}, {NONE: torch.ones(1, 2)}, {"a": torch.ones(3)}, {"a": torch.full((1, 2), float("nan"))}]
)
def test_bad_galleries_are_refused(references: dict) -> None:
    with pytest.raises(MixOfShowError):
        Gallery(references)


def test_features_of_another_evaluator_are_refused(gallery: Gallery) -> None:
    with pytest.raises(MixOfShowError, match="different evaluators"):
        nearest_identity(torch.ones(1, 5), gallery)
