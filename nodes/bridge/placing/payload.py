"""What one conditioning of Place carries to the sampler: other texts, the places where they are read, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.regional.attention import repeat_tokens
from ....mixofshow_core.regional.gating import Gates
from ....mixofshow_core.regional.raster import RegionMap
from .routing import Routes
from .words import read_by

KEY = "mixofshow_regions"


@dataclass(frozen=True, eq=False)
class Payload:
    """What one conditioning entry adds to plain cross-attention.

    ``tokens``: length of the plain context it belongs to, ``text`` a copy of that, by which a change is noticed
    (None: the length only). ``layers``: [L, T, C], one context per cross-attention layer
    for the whole picture, or None. ``texts``: per region a context [L or 1, T, C]. ``placed``: the regions, or None.
    ``routes``: unfused concepts, each acting in its own regions, or None. ``node``: who made it and will say what goes
    wrong while sampling; None outside the host's executor. ``words`` [T]: whose each token of the plain text is, where
    concepts are read word by word; ``chosen`` [T, K x 2]: the words by which they are looked for, of a positive.
    ``found``: per concept that is looked for (text [L or 1, T, C], whose each of its tokens is [T] or None): what is
    read where it is found, which is what the plain text says of it, nobody's tokens read by this concept.
    ``extras``: what the encoder gave with the base's text and with every region's, where the net works on texts before
    it reads them; none once it has. ``made_for``: the family and the cross-attention layers of the MODEL at Place.
    """

    tokens: int
    layers: Tensor | None = None
    texts: tuple[Tensor, ...] = ()
    placed: RegionMap | None = None
    routes: Routes | None = None
    text: Tensor | None = None
    node: str | None = None
    words: Tensor | None = None
    chosen: Tensor | None = None
    extras: tuple[Mapping[str, object], ...] = ()
    found: tuple[tuple[Tensor, Tensor | None], ...] = ()
    made_for: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        regions = len(self.placed.regions.regions) if self.placed is not None else 0
        if len(self.texts) != regions:
            raise MixOfShowError(f"A payload has {len(self.texts)} region texts for {regions} regions.")
        search = None if self.routes is None else self.routes.search
        if self.found and len(self.found) != (0 if search is None else len(search.concepts)):
            raise MixOfShowError(f"A payload has {len(self.found)} texts for other concepts than it looks for.")

    def read_with(self, length: int) -> Gates:
        """Gates [texts, 1 or length, K]: whose K, V each token of a region's and then of a found concept's text has.

        A region's whole text is read with its concept. In the text of a concept that was found every word has its
        owner's, and what is nobody's has the concept's, as a LoRA without learned words was trained.
        """
        regions = self.routes.one_hot(self.routes.owners).values
        if not self.found:
            return Gates(regions)
        texts = zip(self.found, self.routes.search.concepts, strict=True)
        own = [word_gates(self.routes, words, concept, length) for (_, words), concept in texts]
        return Gates(torch.cat([regions.expand(-1, length, -1), torch.stack(own)]))


def payload_of(cond: dict) -> Payload | None:
    found = cond.get("model_conds", {}).get(KEY)
    return found.cond if found is not None else None


def word_gates(routes: Routes, words: Tensor | None, nobody: int | None, length: int) -> Tensor:
    """[length, K]: one-hot rows of each token's owner, a text repeated to `length` as the host repeats it.

    words [T]: the owners, or None where nobody owns a token. nobody: the concept that reads what nobody owns, if any.
    """
    owners = [nobody] if words is None else read_by(words, nobody)
    return repeat_tokens(routes.one_hot(owners).values[:, 0], length)
