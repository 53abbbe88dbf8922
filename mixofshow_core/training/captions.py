"""Captions: the concept's name put in front where it is missing, templates around it, order of phrases shuffled."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from ..bounds import meaning
from ..errors import MixOfShowError
from ..names import fold, names_in, starts_with_name

MODES = ("auto", "files", "templates", "sentences", "booru tags")
STYLES = ("sentences", "booru tags")
TAG = re.compile(r"\b(\d\+?(girl|boy)s?|solo|[a-z]+_[a-z_]+)\b(?=\s*(,|$))", re.IGNORECASE)
TEMPLATES = {
    "character": ("{}", "a photo of {}", "a picture of {}", "an image of {}"),
    "object": ("{}", "a photo of {}", "a picture of {}", "an image of {}"),
    "scene": ("{}", "a photo of {}", "a picture of {}", "a view of {}"),
    "style": ("a picture in the style of {}", "an image in the style of {}", "a drawing in the style of {}"),
}


def clean(caption: str) -> str:
    """One line, single spaces."""
    return " ".join(caption.split())


def with_name(caption: str, name: str) -> str:
    """The caption with the concept's name in it: put in front where it is missing."""
    caption = clean(caption)
    if not caption:
        return name
    return caption if names_in(caption, [name]) else f"{name}, {caption}"


def concept_words(name: str, count: int) -> tuple[str, ...]:
    """The learned words behind a plain name: ``<mara-1>``, ``<mara-2>``."""
    return tuple(f"<{name}-{number}>" for number in range(1, count + 1))


def looks_like_tags(captions: Sequence[str]) -> bool:
    """Whether most captions are lists of short phrases, as booru sites write them, and not sentences."""

    def listed(caption: str) -> bool:
        parts = [part.split() for part in caption.replace("_", " ").split(",") if part.strip()]
        short = len(parts) >= 6 and sum(map(len, parts)) / len(parts) <= 2.5
        return short or bool(TAG.search(caption))

    return 2 * sum(map(listed, captions)) > len(captions)


def as_tags(caption: str) -> str:
    """Tags as the models that know them were trained: spaces for underscores, one comma and space between."""
    return ", ".join(clean(part.replace("_", " ")) for part in caption.split(",") if part.strip())


def class_prompt(class_word: str, kind: str, style: str) -> str:
    """What pictures of the bare class are drawn with, for prior preservation."""
    if meaning("Caption style", style, {"booru tags": True, "sentences": False}):
        return class_word
    if kind == "style":
        return f"a picture in the style of {class_word}"
    return f"a photo of {'an' if class_word[:1].lower() in 'aeiou' else 'a'} {class_word}"


def vary(
    caption: str, name: str, kind: str, rng: random.Random, templates: bool, shuffle: bool, style: str = "sentences"
) -> str:
    """One training caption: phrases after the first comma shuffled, then a template around a caption that starts
    with the name (any other sentence already reads as one; tags take no template)."""
    if shuffle and "," in caption:
        first, *rest = [part.strip() for part in caption.split(",") if part.strip()]
        rng.shuffle(rest)
        caption = ", ".join([first, *rest])
    takes_template = meaning("Caption style", style, {"booru tags": False, "sentences": True})
    if templates and takes_template and starts_with_name(caption, name):
        template = rng.choice(meaning("Concept kind", kind, TEMPLATES))
        caption = template.format(caption.replace("{", "(").replace("}", ")"))
    return caption


def check_names(name: str, class_word: str) -> None:
    """Raise MixOfShowError when name and class word cannot serve together."""
    if not class_word.strip():
        raise MixOfShowError(f"class word of {name!r} is empty; give a plain noun such as person, dog or castle.")
    if fold(name) == fold(class_word.strip()):
        raise MixOfShowError(
            f"The name {name!r} equals its class word; pick a name that is not the noun itself, such as my{name}."
        )
