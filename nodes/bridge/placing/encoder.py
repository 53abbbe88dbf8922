"""The texts of one Place as its concepts' text encoders read them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.regional.clauses import said_of
from ..host.text import LayeredText, encode_layered, vocabulary_of
from .words import NOBODY, owners_of_tokens, read_by_words


@dataclass(frozen=True, eq=False)
class Encoder:
    """Encodes every text once per CLIP. ``clips``: the CLIP of each routed concept; None stands for the base's.

    ``by_words``: the concepts whose words in the base's text are read as their own, if they are read word by word;
    ``placed``: the numbers of those that have a place of their own, drawn or looked for.
    """

    clips: dict[int | None, object]
    net: nn.Module
    layers: int
    by_words: Sequence[ConceptUse] = ()
    placed: Collection[int] = ()
    made_for: tuple[str, int] | None = None
    done: dict = field(default_factory=dict)

    def __call__(self, text: str, where: str, owner: int | None = None) -> LayeredText:
        if (text, owner) not in self.done:
            found = encode_layered(self.clips[owner], text, self.layers, where)
            kind_of(self.net).check_text(found.extras, where)
            self.done[text, owner] = found
        return self.done[text, owner]

    def base(self, text: str, where: str, owner: int | None) -> tuple[LayeredText, Tensor | None]:
        """The text of the whole picture, and whose each of its tokens is where it is read word by word."""
        if not self.by_words:
            return self(text, where, owner), None
        return self.read_with(text, where, owner)

    def found(self, text: str, where: str, concept: int) -> tuple[Tensor, Tensor]:
        """What is read where this concept was found, and whose each of its tokens is."""
        found, owners = self.read_with(self.said(text, concept), where, concept)
        return as_read(found), owners

    def said(self, text: str, concept: int) -> str:
        """What the text says of a concept and not of others with a place: their names lie in the rows of all words
        behind them, too."""
        called = vocabulary_of(self.clips[None]).called
        names = {number: {entry.name for entry in self.by_words[number].concept.entries} for number in self.placed}

        def named(part: str) -> list[int]:
            heard = called(part)
            return [number for number, own in names.items() if not heard.isdisjoint(own)]

        return said_of(text, concept, named)

    def read_with(self, text: str, where: str, concept: int | None) -> tuple[LayeredText, Tensor]:
        """A text in which every word is read by its own concept, what is nobody's by this one (None: by the base).

        A LoRA without learned words has learned its person in every token of a caption, padding included.
        """
        owners = owners_of_tokens(self.clips[None], text, self.by_words)
        owners = torch.tensor([found if found in self.clips else NOBODY for found in owners.tolist()])
        return read_by_words(lambda number: self(text, where, concept if number is None else number), owners), owners


def as_read(text: LayeredText) -> Tensor:
    return text.context if text.layers is None else text.layers
