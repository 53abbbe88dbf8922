"""Composites and their captions: who stands where on which background."""
from __future__ import annotations

import random
from dataclasses import dataclass

from .people import Person, describe

EMOJI = {
    "cat": "1f431", "dog": "1f436", "frog": "1f438", "panda": "1f43c", "penguin": "1f427", "car": "1f697",
    "rocket": "1f680", "crown": "1f451", "guitar": "1f3b8", "apple": "1f34e", "pizza": "1f355", "house": "1f3e0",
    "tree": "1f333", "robot": "1f916", "balloon": "1f388", "sunflower": "1f33b", "mushroom": "1f344", "ghost": "1f47b",
    "fish": "1f41f", "cactus": "1f335", "bear": "1f43b", "fox": "1f98a", "lion": "1f981", "pig": "1f437",
    "rabbit": "1f430", "monkey": "1f435", "chicken": "1f414", "turtle": "1f422", "butterfly": "1f98b",
    "banana": "1f34c", "strawberry": "1f353", "cake": "1f382", "cup": "2615", "book": "1f4d5", "key": "1f511",
    "clock": "23f0",
    "umbrella": "2602-fe0f", "star": "2b50", "moon": "1f319", "ball": "26bd", "bell": "1f514", "hat": "1f3a9",
}
STYLES = {"soft": "google", "flat": "twitter", "3d": "fluent"}
BACKGROUNDS = {"red": (217, 72, 66), "orange": (243, 156, 72), "yellow": (249, 222, 106), "green": (122, 190, 110),
               "blue": (104, 158, 230), "purple": (160, 120, 205), "pink": (246, 178, 200), "white": (250, 250, 250),
               "gray": (165, 170, 178), "brown": (150, 108, 78)}
TEMPLATES = ("", "", "", "a photo of ", "a picture of ", "an image of ")


@dataclass(frozen=True)
class Subject:
    """One drawn thing: a sprite number and what it shows ("cat", or a person)."""

    sprite: int
    what: str | Person
    style: str = ""


@dataclass(frozen=True)
class Scene:
    """A canvas of 64 pixels per subject, side by side (one to three), 64 high, and its caption."""

    subjects: tuple[Subject, ...]
    background: str
    caption: str


def name(subject: Subject, rng: random.Random, keep: float) -> str:
    """Words for one subject."""
    if isinstance(subject.what, Person):
        return describe(subject.what, rng, keep)
    if rng.random() < 0.5:
        return f"a {subject.style} {subject.what}"
    return f"{'an' if subject.what[0] in 'aeu' else 'a'} {subject.what}"


def make_scene(subjects: tuple[Subject, ...], rng: random.Random) -> Scene:
    """Choose a background and write the caption. Some captions are short on purpose."""
    background = rng.choice(list(BACKGROUNDS))
    keep = rng.choice((0.9, 0.9, 0.9, 0.5, 0.0))
    if len(subjects) == 1:
        text = name(subjects[0], rng, keep)
    else:
        words = [name(s, rng, keep) for s in subjects]
        middle = f", {words[1]} in the middle" if len(words) == 3 else ""
        text = f"{words[0]} on the left{middle} and {words[-1]} on the right"
    if rng.random() < 0.85:
        text += f", {background} background"
    return Scene(subjects, background, rng.choice(TEMPLATES) + text)
