"""Composites and their captions: who stands where on which background.

A caption varies all that it may vary: places in both orders, above and below, next to each other, no place at all,
sizes, attributes before or after; behind some subjects is scenery instead of a colour. (The bases that ship were
trained on an older grammar that names subjects from left to right: they paint whoever is named first on the left.)
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .people import Person, describe, describe_freely, join_words

EMOJI = {
    "cat": "1f431",
    "dog": "1f436",
    "frog": "1f438",
    "panda": "1f43c",
    "penguin": "1f427",
    "car": "1f697",
    "rocket": "1f680",
    "crown": "1f451",
    "guitar": "1f3b8",
    "apple": "1f34e",
    "pizza": "1f355",
    "house": "1f3e0",
    "tree": "1f333",
    "robot": "1f916",
    "balloon": "1f388",
    "sunflower": "1f33b",
    "mushroom": "1f344",
    "ghost": "1f47b",
    "fish": "1f41f",
    "cactus": "1f335",
    "bear": "1f43b",
    "fox": "1f98a",
    "lion": "1f981",
    "pig": "1f437",
    "rabbit": "1f430",
    "monkey": "1f435",
    "chicken": "1f414",
    "turtle": "1f422",
    "butterfly": "1f98b",
    "banana": "1f34c",
    "strawberry": "1f353",
    "cake": "1f382",
    "cup": "2615",
    "book": "1f4d5",
    "key": "1f511",
    "clock": "23f0",
    "umbrella": "2602-fe0f",
    "star": "2b50",
    "moon": "1f319",
    "ball": "26bd",
    "bell": "1f514",
    "hat": "1f3a9",
}
STYLES = {"soft": "google", "flat": "twitter", "3d": "fluent"}
BACKGROUNDS = {
    "red": (217, 72, 66),
    "orange": (243, 156, 72),
    "yellow": (249, 222, 106),
    "green": (122, 190, 110),
    "blue": (104, 158, 230),
    "purple": (160, 120, 205),
    "pink": (246, 178, 200),
    "white": (250, 250, 250),
    "gray": (165, 170, 178),
    "brown": (150, 108, 78),
}
# a stands left of b, or above it. As many ways name a first as b.
IN_A_ROW = (
    "{a} on the left and {b} on the right",
    "{b} on the right and {a} on the left",
    "on the left {a}, on the right {b}",
    "on the right {b}, on the left {a}",
    "{a} to the left of {b}",
    "{b} to the right of {a}",
    "{a} left of {b}",
    "{b} right of {a}",
)
IN_A_STACK = (
    "{a} above {b}",
    "{b} below {a}",
    "{a} at the top and {b} at the bottom",
    "{b} at the bottom and {a} at the top",
    "at the top {a}, at the bottom {b}",
    "at the bottom {b}, at the top {a}",
)
BESIDE = ("{a} next to {b}", "{a} beside {b}")
PLACED = 0.6  # share of captions of several subjects that say who stands where
BETWEEN = 0.1  # of those, with three subjects: the middle one is named first
SMALL, BIG = 0.15, 0.1  # shares of sizes; people are never big: they fill their field as it is
AROUND = (
    "{text}, {colour} background",
    "{colour} background, {text}",
    "{text} on {article} {colour} background",
    "{text} in front of {article} {colour} background",
    "{article} {colour} background with {text}",
)
IN_SCENERY = ("{text} in a background", "{text} in front of a background", "a background with {text}")
SCENERY = "scenery"  # in the place of a background's colour
TEMPLATES = ("", "", "", "a photo of ", "a picture of ", "an image of ")


@dataclass(frozen=True)
class Subject:
    """One drawn thing: a sprite number and what it shows ("cat", or a person)."""

    sprite: int
    what: str | Person
    style: str = ""


@dataclass(frozen=True)
class Scene:
    """A canvas of 64 x 64 pixels per subject (one to three) and its caption.

    Subjects are listed from left to right, or from top to bottom if they are ``stacked``, however the caption names
    them. ``sizes``: "", "small" or "big" for each, none when all are as usual.
    """

    subjects: tuple[Subject, ...]
    background: str
    caption: str
    stacked: bool = False
    sizes: tuple[str, ...] = ()


def article(words: str) -> str:
    return "an" if words[0] in "aeou" else "a"


def name(subject: Subject, rng: random.Random, keep: float) -> str:
    """Words for one subject alone, the style before it."""
    if isinstance(subject.what, Person):
        return describe(subject.what, rng, keep)
    if rng.random() < 0.5:
        return f"a {subject.style} {subject.what}"
    return f"{article(subject.what)} {subject.what}"


def name_freely(subject: Subject, rng: random.Random, keep: float, size: str) -> str:
    """Words for one subject in a caption: style and size before or after."""
    if isinstance(subject.what, Person):
        return describe_freely(subject.what, rng, keep, size)
    before, after = [size] if size else [], ""
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            before.append(subject.style)
        else:
            after = f" in {subject.style} style"
    rng.shuffle(before)
    words = " ".join([*before, subject.what])
    return f"{article(words)} {words}{after}"


def make_scene(
    subjects: tuple[Subject, ...], rng: random.Random, stacked: bool = False, scenery: bool = False
) -> Scene:
    """Choose a background and write the caption. Some captions are short on purpose. Only two subjects are ``stacked``;
    ValueError otherwise. ``scenery``: in front of skies and hills."""
    if stacked and (len(subjects) != 2 or scenery):
        raise ValueError(f"no caption for {len(subjects)} subjects one above the other{', in scenery' * scenery}")
    background = SCENERY if scenery else rng.choice(list(BACKGROUNDS))
    if not subjects:
        return Scene((), background, f"{rng.choice(TEMPLATES)}a background")
    keep = rng.choice((0.9, 0.9, 0.9, 0.5, 0.0))
    sizes = tuple(choose_size(s, rng) for s in subjects)
    words = [name_freely(s, rng, keep, size) for s, size in zip(subjects, sizes, strict=True)]
    text = place_freely(words, rng, stacked)
    if scenery:
        text = rng.choice(IN_SCENERY).format(text=text)
    elif rng.random() < 0.85:
        text = rng.choice(AROUND).format(text=text, colour=background, article=article(background))
    before = rng.choice(TEMPLATES) if text.startswith(("a ", "an ")) else ""
    return Scene(subjects, background, before + text, stacked, sizes)


def choose_size(subject: Subject, rng: random.Random) -> str:
    chance = rng.random()
    if chance < SMALL:
        return "small"
    return "big" if chance < SMALL + BIG and not isinstance(subject.what, Person) else ""


def place_freely(words: list[str], rng: random.Random, stacked: bool) -> str:
    """One to three subjects, named with or without their places, the order of the words free of the order of places."""
    if len(words) == 1:
        return words[0]
    shuffled = rng.sample(words, len(words))
    if len(words) == 2:
        if rng.random() < PLACED:
            return rng.choice(IN_A_STACK if stacked else IN_A_ROW).format(a=words[0], b=words[1])
        if not stacked and rng.random() < 0.5:
            return rng.choice(BESIDE).format(a=shuffled[0], b=shuffled[1])
        return join_words(shuffled)
    if rng.random() >= PLACED:
        return join_words(shuffled)
    if rng.random() < BETWEEN:
        outer = rng.sample([words[0], words[2]], 2)
        return f"{words[1]} between {outer[0]} and {outer[1]}"
    places = list(zip(words, ("on the left", "in the middle", "on the right"), strict=True))
    before = rng.random() < 0.3
    return join_words([f"{place} {text}" if before else f"{text} {place}" for text, place in rng.sample(places, 3)])
