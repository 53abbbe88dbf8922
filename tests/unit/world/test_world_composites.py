"""Real composites for the evaluators: worn ones stay what they are, caches know what they were made from."""

import json

import pytest
import torch
from mos_world import recipes
from mos_world.judges import composites, evaluator
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file


@pytest.fixture
def pictures():
    out = []
    for colour in ("red", "blue", "gold"):
        picture = Image.new("RGB", (64, 64), "gray")
        ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=colour)
        out.append(picture)
    return out


def distance(first, second):
    return (evaluator.to_pixels(first) - evaluator.to_pixels(second)).abs().mean().item()


def test_pixels_come_back_exactly(pictures):
    assert distance(evaluator.to_pictures(evaluator.to_pixels(pictures)), pictures) == 0


def test_worn_pictures_are_seeded_and_further_away_than_soft_ones(pictures):
    worn = composites.wear(pictures, 3)
    assert [p.tobytes() for p in composites.wear(pictures, 3)] == [p.tobytes() for p in worn]
    assert [p.tobytes() for p in composites.wear(pictures, 4)] != [p.tobytes() for p in worn]
    soft = distance(evaluator.see_through_base(pictures), pictures)
    assert soft < distance(worn, pictures) < 0.4


def test_without_noise_and_bend_worn_is_soft(pictures, monkeypatch):
    monkeypatch.setattr(composites, "NOISE", (0.0, 1e-9))
    monkeypatch.setattr(composites, "BEND", 0.0)
    assert distance(composites.wear(pictures, 1), evaluator.see_through_base(pictures)) < 0.005


def test_another_autoencoder_makes_soft_and_worn_caches_stale(pictures, tmp_path, monkeypatch):
    def stamps():
        return {label: composites.stamp_of(label, pictures, ["a"], [{}]) for label in composites.PLANS}

    before = stamps()
    with safe_open(evaluator.WEIGHTS, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(("vae.", "latent."))]  # noqa: SIM118
        weights = {name: file.get_tensor(name) for name in names}
    weights["vae.linear_out.bias"] = weights["vae.linear_out.bias"] + 0.1
    save_file(weights, tmp_path / "other.safetensors")
    monkeypatch.setattr(evaluator, "WEIGHTS", tmp_path / "other.safetensors")
    after = stamps()
    assert {label for label in before if before[label] != after[label]} == {"soft", "worn", "test_soft", "test_worn"}


def test_sets_that_are_merged_keep_order_and_stamp():
    def one(value, stamp):
        rows = torch.full((1, 2), value)
        return composites.Composites(rows, rows, rows, (stamp,), {q: (stamp,) for q in composites.QUESTIONS}, stamp)

    both = composites.merge(one(1.0, "a"), one(2.0, "b"))
    assert both.captions == ("a", "b") and both.stamp == "ab" and both.features[:, 0].tolist() == [1, 2]


def test_a_smoke_run_has_tiny_numbers_only(monkeypatch):
    full = [recipes.words_of(step) for step in recipes.STEPS]
    assert full == [list(step.words) for step in recipes.STEPS]
    monkeypatch.setenv("MIXOFSHOW_WORLD_SMOKE", "1")
    tiny = json.dumps([recipes.words_of(step) for step in recipes.STEPS])
    assert "0.006" in tiny and "3.3" not in tiny and '"--count", "3"' not in tiny
