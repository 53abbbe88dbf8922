"""What MixOfShowPlace does: find each region's text, encode it, and hand it to the regional attention."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ...mixofshow_core.concept import ConceptEntry
from ...mixofshow_core.errors import MixOfShowError
from ...mixofshow_core.regional.attention import cover
from ...mixofshow_core.regional.raster import RegionMap
from ...mixofshow_core.topology import cross_attention_layers
from .model import unet_of
from .region_attention import Payload
from .regions import patch_model, with_payload
from .text import LayeredText, Vocabulary, encode_layered, vocabulary_of

log = logging.getLogger("mixofshow")

LATENT_PIXELS = 8


@dataclass(frozen=True)
class PlacedPrompts:
    """The texts of one polarity: for the whole picture and per region (the same string where a region has none)."""

    base: str
    regions: tuple[str, ...]

    @property
    def regional(self) -> bool:
        return any(text != self.base for text in self.regions)


def place(model, clip, prompt: str, negative: str, placed: RegionMap | None = None, concepts=None):
    """(MODEL, positive, negative) for a sampler.

    Without regions and concept words the result is what stock nodes give: the same model object and plain texts.
    """
    if concepts:
        raise MixOfShowError(
            "Place: routing unfused concepts to regions is not built yet. Fuse the concepts first, take MODEL and CLIP "
            "from Fuse, and leave `concepts` open."
        )
    vocabulary = vocabulary_of(clip)
    positives, negatives = write_prompts(prompt, negative, placed, vocabulary)
    if placed is not None:
        warn_about_vanishing(placed)
    layers = len(cross_attention_layers(unet_of(model)))
    encoded: dict[str, LayeredText] = {}

    def encode(text: str, where: str) -> LayeredText:
        if text not in encoded:
            encoded[text] = encode_layered(clip, text, layers, where)
        return encoded[text]

    entries = [
        _conditioning(encode, prompts, placed, what)
        for prompts, what in ((positives, "prompt"), (negatives, "negative prompt"))
    ]
    needed = any(payload is not None for _, payload in entries)
    return patch_model(model) if needed else model, *(conditioning for conditioning, _ in entries)


def _conditioning(encode: Callable, prompts: PlacedPrompts, placed: RegionMap | None, what: str):
    base = encode(prompts.base, what)
    texts, regions = (), None
    if prompts.regional:
        regions = placed
        found = [
            encode(text, f"{what} of region {region.name!r}")
            for text, region in zip(prompts.regions, placed.regions.regions, strict=True)
        ]
        texts = tuple(text.context if text.layers is None else text.layers for text in found)
    payload = None
    if texts or base.layers is not None:
        payload = Payload(base.context.shape[1], base.layers, texts, regions)
    return with_payload(base.context, base.extras, payload), payload


def write_prompts(prompt: str, negative: str, placed: RegionMap | None, vocabulary: Vocabulary):
    """The positive and the negative PlacedPrompts.

    A region without prompt and concept keeps Place's prompt, one without negative keeps Place's negative. A region's
    concept is put in front of its prompt unless the prompt names it; the suffix goes behind every region's own prompt.
    """
    if placed is None:
        return PlacedPrompts(prompt, ()), PlacedPrompts(negative, ())
    spec = placed.regions
    base = _with_concept(prompt, spec.background.concept, "the background", vocabulary)
    texts = []
    for region in spec.regions:
        text = _with_concept(region.prompt, region.concept, f"region {region.name!r}", vocabulary)
        texts.append(_join(text, spec.suffix) if text.strip() else base)
    negatives = tuple(region.negative if region.negative.strip() else negative for region in spec.regions)
    return PlacedPrompts(base, tuple(texts)), PlacedPrompts(negative, negatives)


def _join(*parts: str) -> str:
    return ", ".join(part.strip().strip(",") for part in parts if part.strip())


def _with_concept(prompt: str, concept: str, where: str, vocabulary: Vocabulary) -> str:
    if not concept.strip():
        return prompt
    entry = find_entry(concept, where, vocabulary)
    mentioned = Vocabulary((entry,)).rewrite(prompt) != prompt
    return prompt if mentioned else _join(entry.name, prompt)


def find_entry(concept: str, where: str, vocabulary: Vocabulary) -> ConceptEntry:
    """The entry with this name or id; MixOfShowError that lists the known names otherwise."""
    wanted = concept.strip().strip("<>").lower()
    for entry in vocabulary.entries:
        if wanted in (entry.name.lower(), entry.id.lower()):
            return entry
    known = ", ".join(vocabulary.names) or "none; take CLIP from Fuse or connect concepts"
    raise MixOfShowError(f"Place: {where} names concept {concept!r}, which CLIP does not know. Known: {known}.")


def warn_about_vanishing(placed: RegionMap) -> None:
    """Log which regions own no token of the finest layer: with whole-token edges a thin region disappears."""
    spec = placed.regions
    size = (max(1, spec.height // LATENT_PIXELS), max(1, spec.width // LATENT_PIXELS))
    if not spec.regions:
        return
    covered = cover(placed.masks[None].float() / 255, size, spec.edges)
    for region, tokens in zip(spec.regions, covered[0], strict=True):
        if not tokens.any():
            log.warning("Region %r covers no whole 8 x 8 pixel token and has no effect; enlarge it.", region.name)
