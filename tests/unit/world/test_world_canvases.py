"""Training canvases: wide ones show one subject again and again, and batches hold the same number of squares."""

import random
from collections import Counter

import numpy as np
import pytest
from mos_world.drawing import build
from mos_world.drawing.captions import Scene, Subject
from PIL import Image


@pytest.fixture
def sprite(monkeypatch):
    """One black square in place of the drawings, which are fetched and not shipped."""
    monkeypatch.setattr(build, "_sprites", [Image.new("RGBA", (64, 64), "black")])
    return Subject(0, "cat", "flat")


def columns(canvas):
    """Where the subject begins and ends."""
    dark = np.flatnonzero((canvas.max(2) < 40).any(0))
    return int(dark[0]), int(dark[-1])


@pytest.mark.parametrize("copies", [2, 3])
def test_a_wide_canvas_shows_its_one_subject_in_every_field(sprite, copies):
    canvas = build.draw(Scene((sprite,), "white", "a cat"), random.Random(0), copies)
    assert canvas.shape == (64, 64 * copies, 3)
    assert all(columns(canvas[:, 64 * i : 64 * (i + 1)])[0] < 16 for i in range(copies))


def test_two_subjects_stand_once_each(sprite):
    canvas = build.draw(Scene((sprite, sprite), "white", "two cats"), random.Random(0))
    assert canvas.shape == (64, 128, 3)
    assert all(columns(canvas[:, x : x + 64])[0] < 16 for x in (0, 64))


def test_the_last_mixture_shows_every_sort_of_canvas():
    from mos_world.training import batches

    late = Counter(batches.choose_label(1.0, i / 1000) for i in range(1000))
    wanted = {"triple": 70, "double": 280, "tall": 90, "wide": 110, "wider": 50, "single": 400}
    assert late.keys() == wanted.keys() and all(abs(late[label] - n) <= 1 for label, n in wanted.items())
    assert {batches.choose_label(0.1, i / 1000) for i in range(1000)} == {"single"}
