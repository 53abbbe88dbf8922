"""Captions: the concept's name put in front where it is missing, templates around it, order of phrases shuffled."""

from __future__ import annotations

import random
import re

from ..errors import MixOfShowError

MODES = ("auto", "files", "templates")
TEMPLATES = {
    "character": ("{}", "a photo of {}", "a picture of {}", "an image of {}"),
    "object": ("{}", "a photo of {}", "a picture of {}", "an image of {}"),
    "scene": ("{}", "a photo of {}", "a picture of {}", "a view of {}"),
    "style": ("a picture in the style of {}", "an image in the style of {}", "a drawing in the style of {}"),
}


def whole_name(name: str) -> re.Pattern[str]:
    """Matches ``name`` as a whole word, in any case; ``<name-1>`` and ``name-tag`` are other words."""
    return re.compile(rf"(?<![\w<-]){re.escape(name)}(?![\w>-])", re.IGNORECASE)


def clean(caption: str) -> str:
    """One line, single spaces."""
    return " ".join(caption.split())


def with_name(caption: str, name: str) -> str:
    """The caption with the concept's name in it: put in front where it is missing."""
    caption = clean(caption)
    if not caption:
        return name
    return caption if whole_name(name).search(caption) else f"{name}, {caption}"


def concept_words(name: str, count: int) -> tuple[str, ...]:
    """The learned words behind a plain name: ``<mara-1>``, ``<mara-2>``."""
    return tuple(f"<{name}-{number}>" for number in range(1, count + 1))


def expand_plain(caption: str, name: str, class_word: str) -> str:
    """For runs without learned words: the name is followed by its class word, which gives the text encoder a noun."""
    return whole_name(name).sub(f"{name} {class_word}", caption)


def vary(caption: str, name: str, kind: str, rng: random.Random, templates: bool, shuffle: bool) -> str:
    """One training caption: phrases after the first comma shuffled, then a template around a caption that starts
    with the name (any other sentence already reads as one)."""
    if shuffle and "," in caption:
        first, *rest = [part.strip() for part in caption.split(",") if part.strip()]
        rng.shuffle(rest)
        caption = ", ".join([first, *rest])
    if templates and whole_name(name).match(caption):
        caption = rng.choice(TEMPLATES[kind]).format(caption.replace("{", "(").replace("}", ")"))
    return caption


def check_names(name: str, class_word: str) -> None:
    """Raise MixOfShowError when name and class word cannot serve together."""
    if not class_word.strip():
        raise MixOfShowError(f"class word of {name!r} is empty; give a plain noun such as person, dog or castle.")
    if name.lower() == class_word.strip().lower():
        raise MixOfShowError(
            f"The name {name!r} equals its class word; pick a name that is not the noun itself, such as my{name}."
        )
