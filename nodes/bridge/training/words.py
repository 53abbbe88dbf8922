"""Whether every caption really calls its concept: what counts is its tokens, as the run will read them."""

from __future__ import annotations

import torch

from ....mixofshow_core.concept import LayeredEmbedding, Word
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.names import names_in
from ....mixofshow_core.training.captions import concept_words
from ..host.text import register_entries, rows_of
from .parts import word_widths
from .request import TrainRequest

SHOWN = 5


def check_captions(request: TrainRequest) -> None:
    """MixOfShowError for captions without the name, or whose tokens lack a learned word: they would teach nothing."""
    widths = word_widths(request)
    count = request.settings.words if request.settings.trains_embeddings else 0
    entries, places = [], []
    for plan in request.plans:
        rows = [{encoder: torch.zeros(1, width) for encoder, width in widths.items()} for _ in range(count)]
        embeddings = tuple(LayeredEmbedding(one, (0,)) for one in rows)
        entries.append(plan.entry(tuple(map(Word, concept_words(plan.name, count))), embeddings))
        places.append({id(tensor) for one in rows for tensor in one.values()})
    clip = register_entries(request.clip, entries)
    wrong = []
    for concept, wanted in zip(request.data.concepts, places, strict=True):
        for picture in concept.pictures:
            tokens = clip.tokenize(picture.caption, disable_weights=True)
            read = (token[0] for chunks in tokens.values() for chunk in chunks for token in chunk)
            found = {id(rows) for one in read if (rows := rows_of(one)) is not None}
            if not wanted <= found or not names_in(picture.caption, [concept.name, f"<{concept.name}>"]):
                wrong.append(f"{picture.source} ({picture.caption!r:.80})")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        names = ", ".join(concept.name for concept in request.data.concepts)
        raise MixOfShowError(
            f"Captions without the concept they belong to ({names}), which would teach it nothing: "
            f"{'; '.join(wrong[:SHOWN])}{more}. Write the name into them, as a word of its own."
        )
