"""Learned words that are rows of an encoded text, put where the concept's name stands: for nets whose text encoder is
larger than the net, so that nobody learns through it.

While the encoder reads, the name's class noun stands there as an ordinary token, once for each word. Nodes that know
nothing of this (CLIP Text Encode) therefore read the class noun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....mixofshow_core.concept import CONTEXT, LayeredEmbedding
from ....mixofshow_core.errors import MixOfShowError


class ContextToken(int):
    """A token id for the host's encoder, and what the net reads in its place: ``rows`` [R, C] by ``index``."""

    rows: Tensor
    index: tuple[int, ...]
    concept: str


class ContextTokens:
    """What the host's tokenizer expects of an embedding: a 2-d shape and rows to take, each row a token."""

    def __init__(self, embeddings: Sequence[LayeredEmbedding], noun: int, concept: str):
        self.tokens = []
        for embedding in embeddings:
            token = ContextToken(noun)
            token.rows, token.index, token.concept = embedding.rows[CONTEXT], embedding.index, concept
            self.tokens.append(token)
        self.shape = (len(self.tokens), 0)

    def __getitem__(self, row: int) -> ContextToken:
        return self.tokens[row]


@dataclass(frozen=True, eq=False)
class Placed:
    """One word in a text: its position in what the encoder writes, its token and its weight in the prompt."""

    position: int
    token: ContextToken
    weight: float


def find_words(tokens: Mapping[str, list]) -> tuple[Placed, ...]:
    """The words of a tokenized text. MixOfShowError where several encoders read it: then no row is one encoder's."""
    found = []
    for chunks in tokens.values():
        flat = [token for chunk in chunks for token in chunk]
        found += [Placed(n, t[0], float(t[1])) for n, t in enumerate(flat) if isinstance(t[0], ContextToken)]
    if found and len(tokens) > 1:
        raise MixOfShowError(
            f"Concept {found[0].token.concept!r} has learned words as rows of one encoder's text, and CLIP reads texts "
            f"with {' and '.join(tokens)} (Anima writes them anew while sampling). Take the MODEL and CLIP that it was "
            "trained on, or train it with the preset LoRA."
        )
    return tuple(found)


def put_words(
    context: Tensor, layers: Tensor | None, placed: Sequence[Placed], count: int, empty: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(context [1, T, C] with the words' mean rows, [L, T, C] with each layer's) of an encoded text.

    ``layers`` stays None where all layers read the same. ``count``: cross-attention layers of MODEL. ``empty``
    [1, T, C]: the empty text, towards which the host weakens a word that has a weight; only asked where one has.
    """
    rows = {one.position: _per_layer(one, count, context, empty) for one in placed}
    context = context.clone()
    if layers is not None or any(bool((found != found[:1]).any()) for found in rows.values()):
        layers = (context if layers is None else layers).expand(count, -1, -1).clone()
        for position, found in rows.items():
            layers[:, position] = found
    for position, found in rows.items():
        context[0, position] = found.mean(0)
    return context, layers


def _per_layer(placed: Placed, count: int, context: Tensor, empty: Tensor | None) -> Tensor:
    token = placed.token
    if token.rows.shape[1] != context.shape[-1]:
        raise MixOfShowError(
            f"Concept {token.concept!r} has learned words {token.rows.shape[1]} wide, and CLIP writes texts "
            f"{context.shape[-1]} wide: it was made for another base. Connect the MODEL and CLIP it was trained on."
        )
    if len(token.index) not in (1, count):
        raise MixOfShowError(
            f"A concept in this prompt has embeddings for {len(token.index)} cross-attention layers; MODEL has "
            f"{count}. Take MODEL and CLIP from the same node, or a concept that was trained on this base."
        )
    rows = token.rows[list(token.index)].to(context).expand(count, -1)
    if placed.weight != 1.0 and empty is not None:
        plain = empty[0, placed.position].to(rows)
        rows = torch.lerp(plain.expand_as(rows), rows, placed.weight)
    return rows
