"""What MixOfShowPlace does: find each region's text, encode it, and hand it to the regional attention."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ....mixofshow_core.bounds import meaning
from ....mixofshow_core.concept import ConceptEntry, ConceptUse
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.known import plain_name
from ....mixofshow_core.families.layers import TEXT_PREFIX
from ....mixofshow_core.families.nets import cross_attention_layers, kind_of
from ....mixofshow_core.fitting import check_once, title_of
from ....mixofshow_core.names import fold
from ....mixofshow_core.regional.finding import picker
from ....mixofshow_core.regional.raster import RegionMap
from ....mixofshow_core.regional.tags import Tags
from ..host.applied import apply_once, carries
from ..host.fitting import check_fit, check_pair
from ..host.model import apply_deltas, family, net_of
from ..host.show import WARNING, node_here
from ..host.text import Vocabulary, register_concepts, vocabulary_of
from .encoder import Encoder, as_read
from .notes import is_called, note_names, note_regions, note_routes, note_texts, note_whole, texts_as_written
from .payload import Payload
from .readings import make_search
from .routing import Routes, make_routes
from .wrappers import patch_model, with_payload

log = logging.getLogger("mixofshow")


@dataclass(frozen=True)
class PlacedPrompts:
    """The texts of one polarity: for the whole picture and per region (the same string where a region has none)."""

    base: str
    regions: tuple[str, ...]

    @property
    def regional(self) -> bool:
        return any(text != self.base for text in self.regions)


def place(
    model,
    clip,
    prompt: str,
    negative: str,
    placed: RegionMap | None = None,
    concepts=None,
    notes: list[str] | None = None,
):
    """(MODEL, positive, negative) for a sampler; what a person should know of it is added to `notes`.

    Without regions and concept words the result is what stock nodes give: the same model object and plain texts.
    ``concepts`` are unfused: each acts only in the regions that name it, in the UNet and in its text encoder.
    """
    check_pair(model, clip)
    cast, whole, notes = (), [], [] if notes is None else notes
    off = []
    if placed is not None:
        off, placed = [f"region {note}" for note in placed.off_notes()], placed.enabled()
    if concepts:
        notes += check_fit(model, clip, concepts)
        prompt, placed, concepts = take_tags(prompt, placed, concepts)
        clip = register_concepts(clip, concepts)
        acts_in_regions = {"concept": True, "style": False, "add-on": False}
        known = vocabulary_of(clip)
        routed = [use for use in concepts if meaning("A role", role_in(use, prompt, placed, known), acts_in_regions)]
        cast = tuple(use for use in sorted(routed, key=by_label) if not carries(model, use.concept))
        everywhere = [use for use in concepts if not any(use is chosen for chosen in cast)]
        for use in cast:
            check_once([use, *everywhere], "Place")
        check_once(everywhere, "Place")
        for use in everywhere:
            if carries(model, use.concept):
                notes.append(_describe_carried(clip, use, any(use is chosen for chosen in routed)))
            else:
                whole.append(use)  # styles and add-ons
            model, clip = apply_once(model, clip, use)
    vocabulary = vocabulary_of(clip)
    positives, negatives = write_prompts(prompt, negative, placed, vocabulary)
    notes += note_whole(whole)
    apart = {entry.id for use in (*cast, *whole) for entry in use.concept.entries}
    others = [entry for entry in vocabulary.entries if entry.id not in apart]
    notes += note_names(others, positives.base, positives.regions, placed, vocabulary)
    routes, clips, by_words, with_place = None, {None: clip}, (), frozenset()
    if cast:
        owners, background, open_ones = find_owners(cast, positives, placed, vocabulary)
        notes += note_routes(cast, owners, background, open_ones, placed, vocabulary)
        used = {*owners, background, *open_ones} - {None}
        if open_ones and not kind_of(net_of(model)).finds_words:
            names = ", ".join(cast[number].label for number in open_ones)
            raise MixOfShowError(
                f"Place: {names}: MODEL is {title_of(family(model))}, on which concepts without a region cannot be "
                "looked for by their words. Draw a region for each, or fuse them."
            )
        by_words, with_place = cast if open_ones else (), frozenset({*owners, *open_ones}) - {None, background}
        if used:
            search = make_search(model, cast, open_ones, notes)
            routes = make_routes(model, cast, owners, background, notes, search)
        for number in used:
            texts = {name: d for name, d in cast[number].concept.deltas.items() if name.startswith(TEXT_PREFIX)}
            texts = {} if carries(clip.patcher, cast[number].concept) else texts
            clips[number] = apply_deltas(None, clip, texts, cast[number].strength_of_text)[1] if texts else clip
    notes += note_texts(texts_as_written(prompt, negative, placed), vocabulary)
    notes += (note_regions(placed) if placed is not None else []) + off
    if not vocabulary.entries:
        notes.append("CLIP knows no concept here: the prompts are read as plain text.")
    for note in notes:
        if note.startswith(WARNING):
            log.warning("Place: %s", note.removeprefix(f"{WARNING}: "))
    net = net_of(model)
    layers = len(cross_attention_layers(net))
    encode = Encoder(clips, net, layers, by_words, with_place, (plain_name(family(model)), layers))
    if routes and routes.search:
        notes += [_describe_said(encode, positives.base, number) for number in open_ones]
    for_positive, for_negative = (placed and placed.claiming(), placed and placed.claiming(negative=True))
    entries = [
        _conditioning(encode, positives, for_positive, routes, "prompt", looks=True),
        _conditioning(encode, negatives, for_negative, routes, "negative prompt", looks=False),
    ]
    needed = any(payload is not None for _, payload in entries)
    return patch_model(model) if needed else model, *(conditioning for conditioning, _ in entries)


def _describe_said(encode: Encoder, text: str, number: int) -> str:
    return f"{encode.by_words[number].label} reads where it is found: {encode.said(text, number)!r}"


def by_label(use: ConceptUse) -> str:
    """The order in which concepts are worked on: whatever the order of wires, sums round alike."""
    return use.label


def take_tags(prompt: str, placed: RegionMap | None, concepts: Sequence[ConceptUse]):
    """(prompt, regions, concepts) with `<lora:alice:0.8>` of a connected LoRA read as its name at that strength."""
    tags = Tags(concepts)
    prompt = tags.read(prompt)
    if placed is not None:
        regions = tuple(replace(region, prompt=tags.read(region.prompt)) for region in placed.regions.regions)
        placed = replace(placed, regions=replace(placed.regions, regions=regions))
    return prompt, placed, tags.strengthened()


def _describe_carried(clip, use: ConceptUse, routed: bool) -> str:
    """What is said of a concept that MODEL has already; it is a pair with its CLIP, or nothing of it can be right."""
    has_text = any(name.startswith(TEXT_PREFIX) for name in use.concept.deltas)
    if routed and has_text and not carries(clip.patcher, use.concept):
        raise MixOfShowError(
            f"Place: {use.label!r} is part of MODEL already, but not of CLIP. Take both from the same Fuse or LoRA "
            f"loader, or both from before it."
        )
    return f"{use.label}: part of MODEL already (from Fuse, Place or a LoRA loader), so it is not applied again"


def _conditioning(
    encode: Encoder, prompts: PlacedPrompts, placed: RegionMap | None, routes: Routes | None, what: str, looks: bool
):
    """looks: whether concepts without a region are looked for in how this text is attended to."""
    base, words = encode.base(prompts.base, what, routes.background if routes else None)
    texts, regions, extras = (), None, (base.extras,)
    if placed is not None and (prompts.regional or routes):
        regions = placed
        owners = routes.owners if routes else (None,) * len(prompts.regions)
        found = [
            encode(text, f"{what} of region {region.name!r}", owner)
            for text, region, owner in zip(prompts.regions, placed.regions.regions, owners, strict=True)
        ]
        texts = tuple(map(as_read, found))
        extras += tuple(text.extras for text in found)
    payload, search = None, routes.search if routes else None
    if texts or base.layers is not None or routes:
        concepts = search.concepts if search else ()
        payload = Payload(
            base.context.shape[1],
            base.layers,
            texts,
            regions,
            routes,
            node=node_here(),
            words=words,
            chosen=picker(words.tolist(), concepts) if looks and search else None,
            extras=extras if kind_of(encode.net).rewrites_text else (),
            found=tuple(encode.found(prompts.base, what, concept) for concept in concepts),
            made_for=encode.made_for,
        )
    return with_payload(base.context, base.extras, payload), payload


def find_owners(cast: Sequence[ConceptUse], prompts: PlacedPrompts, placed: RegionMap | None, vocabulary: Vocabulary):
    """(concept number per region, that of the background or None, those whose places are to be found) for routing.

    A region belongs to the concept that its text names; it may name the background's concept as well. The background
    belongs to the concept that `background` names, else to the one that only Place's prompt names. Where the prompt
    names several that have no region, they are told apart by their words and their places are found.
    """
    scene = "" if placed is None else placed.regions.background.concept
    background = None
    if scene.strip():
        entry = find_entry(scene, "the background", vocabulary)
        holds = (any(fold(known.name) == fold(entry.name) for known in use.concept.entries) for use in cast)
        background = next((number for number, found in enumerate(holds) if found), None)
    owners = []
    for region, text in zip(() if placed is None else placed.regions.regions, prompts.regions, strict=True):
        own = text if region.prompt.strip() or region.concept.strip() else ""
        named = [number for number, use in enumerate(cast) if is_called(own, use.concept.entries, vocabulary)]
        if len(named) > 1:  # "mara in lagun": the scene is the background's, the region is mara's
            named = [number for number in named if number != background]
        if len(named) > 1:
            names = " or ".join(cast[number].label for number in named)
            raise MixOfShowError(
                f"Place: the prompt of region {region.name!r} names {len(named)} unfused concepts; name only {names} "
                "there, or fuse them."
            )
        owners.append(named[0] if named else None)
    left = [
        number
        for number, use in enumerate(cast)
        if number not in owners and number != background and is_called(prompts.base, use.concept.entries, vocabulary)
    ]
    if len(left) == 1 and background is None and not scene.strip():
        return tuple(owners), left[0], ()
    return tuple(owners), background, tuple(left) if len(left) > 1 else ()


def role_in(use: ConceptUse, prompt: str, placed: RegionMap | None, vocabulary: Vocabulary) -> str:
    """The role of one use in a picture. A community LoRA on auto is a concept where a prompt or a region calls it."""
    if use.role != "auto" or not use.is_community:
        return use.resolved_role
    texts = [prompt]
    if placed is not None:
        spec = placed.regions
        texts += [spec.background.concept, *(t for region in spec.regions for t in (region.prompt, region.concept))]
        texts += placed.elsewhere
    return "concept" if any(is_called(text, use.concept.entries, vocabulary) for text in texts) else "add-on"


def write_prompts(prompt: str, negative: str, placed: RegionMap | None, vocabulary: Vocabulary):
    """The positive and the negative PlacedPrompts.

    A region without prompt and concept has Place's prompt, one without negative Place's negative. A region's
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
    return prompt if is_called(prompt, (entry,), vocabulary) else _join(entry.name, prompt)


def find_entry(concept: str, where: str, vocabulary: Vocabulary) -> ConceptEntry:
    """The entry with this name or id; MixOfShowError that lists the known names otherwise."""
    wanted = fold(concept).strip(" <>")
    for entry in vocabulary.entries:
        if wanted in (fold(entry.name), fold(entry.id)):
            return entry
    known = ", ".join(vocabulary.names) or "none; take CLIP from Fuse or connect concepts"
    raise MixOfShowError(f"Place: {where} names concept {concept!r}, which CLIP does not know. Known: {known}.")


def attention_levels(model) -> tuple[int, ...]:
    """By how much the latent is downsampled where MODEL has cross-attention: 1, 2, 4, 8 for SD1.5; 2, 4 for SDXL."""
    net = net_of(model)
    return kind_of(net).levels(net)
