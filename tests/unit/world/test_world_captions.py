"""Captions of the small world: true, and nobody can guess a place from the order of words."""

import random
import re
from collections import Counter

import numpy as np
import pytest
from mos_world.drawing import build
from mos_world.drawing.captions import EMOJI, PLACED, SCENERY, Scene, Subject, make_scene
from mos_world.drawing.people import Person
from PIL import Image

THINGS = tuple(Subject(0, word, "flat") for word in EMOJI)


def scenes(count, fields, stacked=False, seed=0):
    """Scenes of different things, so that a caption can be read word by word."""
    rng = random.Random(seed)
    return [make_scene(tuple(rng.sample(THINGS, fields)), rng, stacked) for _ in range(count)]


def read_places(caption):
    """thing -> its place, as a reader understands the caption; things without a place are left out."""
    words = "|".join(sorted(EMOJI, key=len, reverse=True))
    places = {"left": "first", "right": "last", "middle": "middle", "top": "first", "bottom": "last"}
    found = {}
    for relation, order in ((r"(?:to the )?left of|above", 1), (r"(?:to the )?right of|below", -1)):
        match = re.search(rf"({words})(?: in \w+ style)? (?:{relation}) .*?\b({words})\b", caption)
        if match:
            first, last = match.groups()[::order]
            return {first: "first", last: "last"}
    match = re.search(rf"({words})(?: in \w+ style)? between ", caption)
    if match:
        return {match.group(1): "middle"}
    for match in re.finditer(rf"({words})(?: in \w+ style)? (?:on|in|at) the (left|right|middle|top|bottom)", caption):
        found[match.group(1)] = places[match.group(2)]
    if not found:
        before = rf"(?:on|in|at) the (left|right|middle|top|bottom) an? (?:[\w-]+ )*?({words})\b"
        found = {m.group(2): places[m.group(1)] for m in re.finditer(before, caption)}
    return found


def order_of(scene):
    """Things in the order in which the caption names them."""
    return sorted((s.what for s in scene.subjects), key=lambda w: re.search(rf"\b{w}\b", scene.caption).start())


@pytest.mark.parametrize(("fields", "stacked"), [(2, False), (2, True), (3, False)])
def test_places_are_true_and_named_in_every_order(fields, stacked):
    names = ("first", "last") if fields == 2 else ("first", "middle", "last")
    orders, placed = Counter(), 0
    for scene in scenes(3000, fields, stacked):
        right = dict(zip((s.what for s in scene.subjects), names, strict=True))
        said = read_places(scene.caption)
        assert said.items() <= right.items(), scene.caption
        orders[tuple(right[w] for w in order_of(scene)), bool(said)] += 1
        placed += bool(said)
    assert abs(placed / 3000 - PLACED) < 0.04
    every = {order for order, _ in orders}
    assert len(every) == {2: 2, 3: 6}[fields]
    for said in (True, False):  # nobody can tell the place from who is named first
        share = sum(n for (order, s), n in orders.items() if s is said and order[0] == "first")
        total = sum(n for (_, s), n in orders.items() if s is said)
        assert abs(share / total - 1 / fields) < 0.08, said


def test_sentences_without_a_place_exist_in_every_form():
    captions = [scene.caption for scene in scenes(2000, 2)]
    for words in ("next to", "beside", "to the left of", "on the right,", "on the left"):
        assert any(words in caption for caption in captions), words
    assert not any(re.search(r"next to|beside", scene.caption) for scene in scenes(500, 2, True))


def test_small_and_big_are_said_exactly_when_drawn():
    sizes = Counter()
    for scene in scenes(2000, 1):
        size = scene.sizes[0]
        assert [word for word in ("small", "big") if re.search(rf"\b{word}\b", scene.caption)] == [size] * bool(size)
        sizes[size] += 1
    assert min(sizes.values()) > 100 and set(sizes) == {"", "small", "big"}


def test_attributes_stand_before_or_after_in_any_order():
    rng = random.Random(1)
    person = Person("long hair", "straight01", "red", "pale", "glasses", "round", mood="sad")
    captions = [make_scene((Subject(0, person),), rng).caption for _ in range(600)]
    assert all("glasses" in caption for caption in captions)
    for words in (
        "pale-skinned person",
        "pale skin",
        "sad person",
        ", sad",
        "glasses and long red hair",
        "long red hair and glasses",
        "in a blue shirt, with",
        "wearing a blue shirt, with",
    ):
        assert any(words in caption for caption in captions), words
    assert any(re.search("with .*, (wearing|in) a blue shirt", caption) for caption in captions)
    assert not any(re.search(r"\ba [aeio]\w+|\ban [^aeiou]|  | ,|of (on|at|in) ", caption) for caption in captions)


@pytest.fixture
def sprite(monkeypatch):
    monkeypatch.setattr(build, "_sprites", [Image.new("RGBA", (64, 64), "black")])


def draw(*sizes, stacked=False):
    subjects = (Subject(0, "cat", "flat"),) * len(sizes)
    return build.draw(Scene(subjects, "white", "", stacked, sizes), random.Random(2)).max(2) < 40


@pytest.mark.usefixtures("sprite")
def test_sizes_are_drawn_and_stacks_are_tall():
    areas = [draw(size).sum() for size in ("small", "", "big")]
    assert areas[0] < 0.7 * areas[1] and areas[1] < areas[2]
    tall = draw("small", "big", stacked=True)
    assert tall.shape == (128, 64)
    upper, lower = tall[:64].sum(), tall[64:].sum()
    assert 0 < upper < lower
    assert np.flatnonzero(tall[:64].any(1)).min() > 8


def test_what_has_no_caption_is_refused():
    with pytest.raises(ValueError, match="3 subjects one above the other"):
        make_scene(THINGS[:3], random.Random(0), stacked=True)
    with pytest.raises(ValueError, match="in scenery"):
        make_scene(THINGS[:2], random.Random(0), stacked=True, scenery=True)


def test_scenery_has_no_colour_and_at_times_nobody():
    rng = random.Random(3)
    captions = [make_scene(THINGS[:1], rng, scenery=True).caption for _ in range(200)]
    assert all("a background" in caption and THINGS[0].what in caption for caption in captions)
    assert make_scene((), rng, scenery=True).caption.endswith("a background")
    nobody = Scene((), SCENERY, "a background")
    canvas = build.draw(nobody, random.Random(0), fields=2)
    assert canvas.shape == (64, 128, 3) and len(np.unique(canvas.reshape(-1, 3), axis=0)) > 50
