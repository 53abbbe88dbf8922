"""Probe, colour grid and text bridge on data whose answers are known."""

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.metrics.colour import colour_grid
from mos_pack.mixofshow_core.metrics.probe import LinearProbe, fit_probe
from mos_pack.mixofshow_core.metrics.text_match import fit_bridge

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "gray": (128, 128, 128), "white": (250, 250, 250)}


def flat(names: list[str]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(names))
    rows = torch.tensor([COLOURS[n] for n in names]).view(-1, 1, 1, 3) + torch.randint(
        -9, 6, (len(names), 8, 8, 3), generator=generator
    )
    return rows.clamp(0, 255).to(torch.uint8)


def test_a_probe_reads_colours_it_was_not_fitted_on():
    palette = torch.tensor([*COLOURS.values(), (0, 0, 0)])
    words = list(COLOURS) * 6
    probe = fit_probe(colour_grid(flat(words), palette, grid=2), words)
    asked = list(COLOURS) * 3
    assert probe.answer(colour_grid(flat(asked), palette, grid=2)) == tuple(asked)


def test_a_rare_answer_weighs_as_much_as_a_frequent_one():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(420, 2, generator=generator) * 0.3
    words = ["often"] * 400 + ["rare"] * 20
    rows[400:, 0] += 0.5
    said = fit_probe(rows, words).answer(rows[400:])
    assert said.count("rare") >= 13


def test_colour_grid_keeps_places_and_sums_to_one():
    picture = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    picture[:, :, 4:] = 255
    grid = colour_grid(picture, torch.tensor([(0, 0, 0), (255, 255, 255)]), grid=2).view(2, 2, 2)
    assert torch.allclose(grid.sum(0), torch.ones(2, 2))
    assert torch.allclose(grid[0], torch.tensor([[1.0, 0.0], [1.0, 0.0]]), atol=1e-3)


def test_a_bridge_finds_the_text_of_unseen_pictures():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(240, 6, generator=generator)
    pictures = hidden @ torch.randn(6, 40, generator=generator) + 3
    texts = hidden @ torch.randn(6, 20, generator=generator)
    bridge = fit_bridge(pictures[:200], texts[:200], width=16, steps=150, batch=64)
    found = bridge.scores(pictures[200:], texts[200:]).argmax(1)
    assert (found == torch.arange(40)).float().mean() > 0.7  # chance is 1 in 40


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: fit_probe(torch.zeros(3, 2), ["a", "b"]), "one label per picture"),
        (lambda: fit_probe(torch.zeros(2, 2), ["a", "a"]), "two different labels"),
        (lambda: LinearProbe(("a",), torch.zeros(2, 3), torch.zeros(2), torch.zeros(3), torch.zeros(3)), "one row per"),
        (lambda: fit_probe(torch.eye(2), ["a", "b"]).answer(torch.zeros(1, 3)), "width 2"),
        (lambda: colour_grid(torch.zeros(1, 4, 4, 3), torch.zeros(2, 3)), "uint8"),
        (lambda: fit_bridge(torch.zeros(3, 2), torch.zeros(2, 2)), "one text per picture"),
        (
            lambda: fit_bridge(torch.randn(3, 2), torch.randn(3, 2), steps=1).scores(
                torch.zeros(1, 3), torch.zeros(1, 2)
            ),
            "width 2",
        ),
    ],
)
def test_wrong_input_is_named(call, words):
    with pytest.raises(MixOfShowError, match=words):
        call()
