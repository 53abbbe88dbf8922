"""Composites and their captions: who stands where on which background."""
from __future__ import annotations

import random
from dataclasses import dataclass

from .people import Person, describe

EMOJI = {
    "cat": "1f431", "dog": "1f436", "frog": "1f438", "panda": "1f43c", "penguin": "1f427", "car": "1f697",
    "rocket": "1f680", "crown": "1f451", "guitar": "1f3b8", "apple": "1f34e", "pizza": "1f355", "house": "1f3e0",
    "tree": "1f333", "robot": "1f916", "balloon": "1f388", "sunflower": "1f33b", "mushroom": "1f344", "ghost": "1f47b",
    "fish": "1f41f", "cactus": "1f335",
}
BACKGROUNDS = {"red": (217, 72, 66), "orange": (243, 156, 72), "yellow": (249, 222, 106), "green": (122, 190, 110),
               "blue": (104, 158, 230), "purple": (160, 120, 205), "pink": (246, 178, 200), "white": (250, 250, 250),
               "gray": (165, 170, 178), "brown": (150, 108, 78)}
TEMPLATES = ("", "", "", "a photo of ", "a picture of ", "an image of ")


@dataclass(frozen=True)
class Subject:
    """One drawn thing: a sprite number and what it shows ("cat", or a person)."""

    sprite: int
    what: str | Person


@dataclass(frozen=True)
class Scene:
    """A canvas of 64 x 64 (one subject) or 128 x 64 pixels (two) and its caption."""

    subjects: tuple[Subject, ...]
    background: str
    caption: str


def name(subject: Subject, rng: random.Random, keep: float) -> str:
    """Words for one subject."""
    if isinstance(subject.what, Person):
        return describe(subject.what, rng, keep)
    return f"a {subject.what}" if subject.what != "apple" else "an apple"


def make_scene(subjects: tuple[Subject, ...], rng: random.Random) -> Scene:
    """Choose a background and write the caption. Some captions are short on purpose."""
    background = rng.choice(list(BACKGROUNDS))
    keep = rng.choice((0.9, 0.9, 0.9, 0.5, 0.0))
    if len(subjects) == 1:
        text = name(subjects[0], rng, keep)
    else:
        left, right = (name(s, rng, keep) for s in subjects)
        text = f"{left} on the left and {right} on the right"
    if rng.random() < 0.85:
        text += f", {background} background"
    return Scene(subjects, background, rng.choice(TEMPLATES) + text)
