"""Fusing and routing together: only layers with places are fused, what reads text stays each concept's own.

Text encoder, keys and values need no fusion where every token says whose it is (Place routes them by words). Widths are
shortest there, so that is where many concepts lose most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..concept import ConceptUse
from ..families.layers import ROLE_SPATIAL, TEXT_PREFIX
from ..families.nets import role_of

FUSED, OWN = "fused", "own"
WORDS = (FUSED, OWN)


def reads_words(layer: str) -> bool:
    """Whether a layer is read by words: of a text encoder, or keys and values of cross-attention."""
    return layer.startswith(TEXT_PREFIX) or role_of(layer) != ROLE_SPATIAL


def words_of(use: ConceptUse) -> ConceptUse:
    """The use with what reads text alone."""
    concept = use.concept
    deltas = {name: delta for name, delta in concept.deltas.items() if reads_words(name)}
    return replace(use, concept=replace(concept, deltas=deltas, training={**concept.training, "part": "words"}))


def better_apart(uses: Sequence[ConceptUse]) -> list[str]:
    """Labels of plain LoRAs that change how text is read without a word of their own, if there are two or more.

    Each has learned its subject in ordinary words (*person*), which one set of weights cannot read in two ways.
    """
    plain = [
        use.label
        for use in uses
        if not any(entry.words for entry in use.concept.entries) and any(map(reads_words, use.concept.deltas))
    ]
    return plain if len(plain) > 1 else []
