"""Whose each token of a prompt is, and a text in which every concept's words are read by its own text encoder.

A prompt is encoded once by the base's CLIP and once by that of each concept it names; rows of a concept's words come
from its own encoding, all others from the base's, and where a concept was found from that concept's. Nothing is fused,
so nothing is lost, whatever the number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.names import fold
from ..host.text import CONCEPT, TEXT, LayeredText, token_kinds

NOBODY = -1  # the owner of the base's tokens


def owners_of_tokens(clip, prompt: str, cast: Sequence[ConceptUse]) -> Tensor:
    """[T]: the number of the concept that each token of the encoded prompt belongs to, or NOBODY.

    A concept's learned words are its own, with the class word behind them where it was trained so; of a community LoRA
    the tokens of its trigger. The longest phrase wins.
    """
    tokens, content = tokens_of(clip, prompt)
    owners = [NOBODY] * len(tokens)
    number_of = {fold(entry.name): n for n, use in enumerate(cast) for entry in use.concept.entries}
    for position in content:
        if isinstance(tokens[position], dict) and "concept" in tokens[position]:
            owners[position] = number_of.get(fold(tokens[position]["concept"]), NOBODY)
    for phrase, number, behind in _phrases(clip, cast):
        for start in range(len(content) - len(phrase) + 1):
            places = content[start : start + len(phrase)]
            free = all(owners[place] == NOBODY for place in places)
            called = not behind or (start > 0 and owners[content[start - 1]] == number)
            if free and called and [tokens[place] for place in places] == phrase:
                for place in places:
                    owners[place] = number
    return torch.tensor(owners)


def tokens_of(clip, text: str) -> tuple[list, list[int]]:
    """(every token as the first text encoder gets it, positions of those that are text)."""
    chunks = next(iter(clip.tokenize(text).values()))
    kinds = next(iter(token_kinds(clip, text).values())).flatten().tolist()
    tokens = [token[0] for chunk in chunks for token in chunk]
    return tokens, [position for position, kind in enumerate(kinds) if kind in (TEXT, CONCEPT)]


def _phrases(clip, cast: Sequence[ConceptUse]) -> list[tuple[list, int, bool]]:
    """(tokens, concept, whether it must stand behind that concept's words), the longest first."""
    found = []
    for number, use in enumerate(cast):
        for entry in use.concept.entries:
            text = entry.class_word if entry.words and entry.with_class else "" if entry.words else entry.expansion
            tokens, content = tokens_of(clip, text) if text.strip() else ([], [])
            phrase = [tokens[position] for position in content if isinstance(tokens[position], int)]
            if phrase:
                found.append((phrase, number, bool(entry.words)))
    return sorted(found, key=lambda item: -len(item[0]))


def read_by(owners: Tensor, nobody: int | None) -> list[int | None]:
    """Whose changes each token is read with: its owner's, where it has none those of `nobody` (None: the base's)."""
    return [nobody if owner == NOBODY else owner for owner in owners.tolist()]


def read_by_words(encode: Callable[[int | None], LayeredText], owners: Tensor) -> LayeredText:
    """The text whose row t comes from ``encode(owner of t)``; ``encode(None)`` has nobody's, and the pooled texts."""
    base = encode(None)
    context, layers = base.context, base.layers
    for number in sorted(set(owners.tolist()) - {NOBODY}):
        mine = (owners == number).to(context.device)[:, None]
        own = encode(number)
        context = torch.where(mine, own.context.to(context), context)
        layers = None if layers is None else torch.where(mine, own.layers.to(layers), layers)
    return LayeredText(context, layers, base.extras)
