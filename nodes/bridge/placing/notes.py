"""What Place says on its node: who is named where, and what will not do what its writer means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ....mixofshow_core.concept import ConceptEntry, ConceptUse
from ....mixofshow_core.families.family import CELL
from ....mixofshow_core.names import near_names
from ....mixofshow_core.regional.attention import cover
from ....mixofshow_core.regional.raster import RegionMap
from ....mixofshow_core.regional.syntax import note_foreign_syntax
from ..host.text import Vocabulary
from ..host.vocabulary import is_common_word

WHOLE = "the whole picture"
Texts = Iterable[tuple[str, str]]  # (where, prompt)


def is_called(prompt: str, entries: Sequence[ConceptEntry], vocabulary: Vocabulary) -> bool:
    """Whether the prompt calls one of these concepts, and not by letters of a longer call of another one."""
    return not vocabulary.called(prompt).isdisjoint(entry.name for entry in entries)


def texts_as_written(prompt: str, negative: str, placed: RegionMap | None) -> list[tuple[str, str]]:
    """Every text that a person typed, with what it is called in a message."""
    regions = placed.regions.regions if placed is not None else ()
    return [("prompt", prompt), ("negative prompt", negative)] + [
        (f"{what} of region {region.name!r}", text)
        for region in regions
        for what, text in (("prompt", region.prompt), ("negative prompt", region.negative))
    ]


def note_texts(texts: Texts, vocabulary: Vocabulary) -> list[str]:
    """What in the texts is read as plain words though something else was meant."""
    texts = list(texts)
    known = [*vocabulary.names, *(word.text.strip("<>") for entry in vocabulary.entries for word in entry.words)]
    slips = [
        f"WARNING: {word!r} in the {where} is no concept and is read as a plain word; did you mean {name}?"
        for where, text in texts
        for word, name in near_names(text, known, is_common_word)
    ]
    return note_foreign_syntax(texts) + slips


def note_regions(placed: RegionMap) -> list[str]:
    """Regions without effect: too thin for a token (with whole-token edges they vanish), or empty."""
    spec = placed.regions
    size = (max(1, spec.height // CELL), max(1, spec.width // CELL))
    if not spec.regions:
        return []
    covered = cover(placed.masks[None].float() / 255, size, spec.edges)
    thin = [
        f"WARNING: Region {region.name!r} covers no whole 8 x 8 pixel token and has no effect; enlarge it."
        for region, tokens in zip(spec.regions, covered[0], strict=True)
        if region.claims and not tokens.any()
    ]
    return [*thin, *(f"WARNING: Region {note}" for note in placed.idle_notes())]


def note_routes(
    cast: Sequence[ConceptUse], owners, background, found, placed: RegionMap | None, vocabulary: Vocabulary
) -> list[str]:
    """A line per routed concept: where it acts, or that nothing calls it. found: those whose places are looked for."""
    notes = []
    for number, use in enumerate(cast):
        where = (
            []
            if placed is None
            else [
                f"region {region.name!r}"
                for region, owner in zip(placed.regions.regions, owners, strict=True)
                if owner == number
            ]
        )
        where += [WHOLE if placed is None else "the background"] if background == number else []
        where += ["where its words are found"] if number in found else []
        if where:
            notes.append(f"{use.label}{_called_by(use)} at {_strengths(use)}: {', '.join(where)}")
        elif placed is not None and any(is_called(text, use.concept.entries, vocabulary) for text in placed.elsewhere):
            notes.append(f"{use.label}: the region that names it is not here, so it is not used")
        else:
            caller = "the prompt does not name" if placed is None else "no region names"
            notes.append(f"WARNING: {caller} concept {use.label!r}; it is not used.")
    return notes


def note_whole(uses: Sequence[ConceptUse]) -> list[str]:
    """A line per use that acts on the whole picture; a LoRA that nothing calls says how to call it."""
    notes = []
    for use in uses:
        line = f"{use.label} at {_strengths(use)}: {WHOLE}"
        if use.role == "auto" and use.is_community:
            entry = use.concept.entries[0]
            other = f" (or {entry.trigger!r})" if entry.trigger else ""
            line = (
                f"WARNING: {line}, because no prompt calls it. To keep it in one place, write {entry.name}{other} "
                "in a region's prompt; for a speed, detail or style LoRA all is well: set its role to add-on."
            )
        notes.append(line)
    return notes


def _called_by(use: ConceptUse) -> str:
    """The words that its name stands for: those it has learned, or its trigger."""
    words = [
        " ".join(word.text for word in e.words) or repr(e.trigger) for e in use.concept.entries if e.words or e.trigger
    ]
    return f" ({', '.join(words)})" if words else ""


def _strengths(use: ConceptUse) -> str:
    text = use.strength_of_text
    return f"{use.strength:g}" if text == use.strength else f"{use.strength:g} (text {text:g})"


def note_names(
    entries: Sequence[ConceptEntry],
    base: str,
    regions: Sequence[str],
    placed: RegionMap | None,
    vocabulary: Vocabulary,
) -> list[str]:
    """Where each concept that CLIP knows is named; `base` and `regions` are the prompts as they are encoded."""
    lines, silent = [], []
    own = (
        []
        if placed is None
        else [
            (f"region {region.name!r}", text)
            for region, text in zip(placed.regions.regions, regions, strict=True)
            if region.claims
        ]
    )
    for entry in entries:
        where = [
            name
            for name, text in [(WHOLE if placed is None else "the background", base), *own]
            if is_called(text, (entry,), vocabulary)
        ]
        if where:
            lines.append(f"{entry.name}: {', '.join(where)}")
        else:
            silent.append(entry.name)
    return lines + ([f"known here and named nowhere: {', '.join(silent)}"] if silent else [])
