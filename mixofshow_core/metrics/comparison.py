"""What a comparison paints: its rows (prompts), its columns (ways to use the concepts), and the table of its cells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from ..errors import MixOfShowError
from ..names import fold, names_in, replace_names

BASE, EACH, FUSED, ROUTED, CONNECTED = "base", "each", "fused", "routed", "connected"
WITH_REGIONS = "+ regions"
BY_WORDS = "by words"  # alone: unfused, found by their words; behind a merge: what reads text stays each concept's own
KINDS = ("base", "one concept", "merged", "with regions", "connected")
PLACEHOLDER = "{name}"
TABLE = "mixofshow.comparison"


@dataclass(frozen=True)
class Way:
    """One word of the `ways` widget. method: base, each, routed, by words, connected, or a method of Fuse."""

    method: str
    regions: bool = False
    words: bool = False


@dataclass(frozen=True)
class Row:
    """A prompt and the concepts that it names. single: written for one concept by ``{name}``."""

    prompt: str
    names: tuple[str, ...]
    single: bool = False


@dataclass(frozen=True)
class Column:
    """A way as painted. concept: number of the one concept of this column; kind: one of KINDS.

    words: of a merge, whether what reads text stays each concept's own.
    """

    label: str
    kind: str
    method: str
    regions: bool = False
    concept: int | None = None
    words: bool = False


@dataclass(frozen=True)
class Cell:
    """One picture. text: the prompt with class words in place of names; noise: place in the batch of the seed."""

    picture: int
    row: int
    column: str
    kind: str
    prompt: str
    text: str
    names: tuple[str, ...]
    seed: int
    noise: int


def parse_ways(text: str, methods: Sequence[str]) -> tuple[Way, ...]:
    """``base, each, sum, fused + regions, routed`` as ways; ``fused`` is exact. MixOfShowError if one is unknown."""
    known = (BASE, EACH, FUSED, *methods, ROUTED, BY_WORDS)
    alone = (BASE, EACH, ROUTED, BY_WORDS)
    ways: list[Way] = []
    for part in filter(None, (piece.strip().lower() for piece in re.split(r"[,\n]", text))):
        method, plus, rest = (piece.strip() for piece in part.partition("+"))
        words = method != BY_WORDS and method.endswith(f" {BY_WORDS}")
        method = method.removesuffix(BY_WORDS).strip() if words else method
        if method not in known or (plus and rest != "regions") or ((plus or words) and method in alone):
            raise MixOfShowError(
                f"`ways` on Compare names {part!r}; write {', '.join(known)}, separated by commas. Merges also exist "
                f"as `<method> {WITH_REGIONS}` and `<method> {BY_WORDS}`; routed always uses regions."
            )
        way = Way("exact" if method == FUSED else method, bool(plus) or method == ROUTED, words)
        if way not in ways:
            ways.append(way)
    if not ways:
        raise MixOfShowError("`ways` on Compare is empty: name at least one, for instance base, sum, fused.")
    return tuple(ways)


def _calls(name: str) -> tuple[str, str]:
    return name, f"<{name}>"


def mentions(text: str, name: str) -> bool:
    """True if the text names the concept as a whole word, or as ``<name>``."""
    return names_in(text, _calls(name))


def with_class_words(text: str, classes: Mapping[str, str]) -> str:
    """The text with every name replaced by its class word, which is not doubled if it follows already."""
    for name, word in classes.items():
        follows = rf"(?:\s+{re.escape(fold(word))}(?![\w-]))?" if word else ""
        text = replace_names(text, dict.fromkeys(_calls(name), word or "thing"), follows)
    return text


def expand_prompts(text: str, names: Sequence[str]) -> tuple[Row, ...]:
    """One row per line; a line with ``{name}`` becomes one row per concept."""
    rows: list[Row] = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        single = PLACEHOLDER in line
        if single and not names:
            raise MixOfShowError(f"`prompts` on Compare holds {line!r}, but no connected concept has a name.")
        filled = [line.replace(PLACEHOLDER, name) for name in names] if single else [line]
        rows += [Row(prompt, tuple(n for n in names if mentions(prompt, n)), single) for prompt in filled]
    if not rows:
        raise MixOfShowError("`prompts` on Compare is empty: write one prompt per line.")
    return tuple(rows)


def plan_columns(
    ways: Iterable[Way], labels: Sequence[str], regions: bool, connected: bool
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """(columns, notes on ways that are left out). labels: one per concept; connected: another model is wired."""
    columns: list[Column] = []
    notes: list[str] = []
    for way in ways:
        label = (FUSED if way.method == "exact" else way.method) + (f" {BY_WORDS}" if way.words else "")
        if way.regions and not regions:
            notes.append(f"{label}{'' if way.method == ROUTED else f' {WITH_REGIONS}'} is left out: no regions.")
        elif way.method == EACH:
            columns += [Column(f"{name} alone", KINDS[1], EACH, concept=n) for n, name in enumerate(labels)]
        elif way.method == BASE:
            columns.append(Column(BASE, KINDS[0], BASE))
        elif way.method not in (ROUTED, BY_WORDS) and len(labels) < 2:
            notes.append(f"{label} is left out: there is nothing to merge with one concept.")
        elif way.method == BY_WORDS:
            columns.append(Column(BY_WORDS, KINDS[2], BY_WORDS))
        elif way.method == ROUTED:
            columns.append(Column(ROUTED, KINDS[3], ROUTED, True))
        else:
            title = f"{label} {WITH_REGIONS}" if way.regions else label
            kind = KINDS[3 if way.regions else 2]
            columns.append(Column(title, kind, way.method, way.regions, words=way.words))
    if connected:
        columns.append(Column(CONNECTED, KINDS[4], CONNECTED))
    if not columns:
        raise MixOfShowError(f"Compare has nothing to paint. {' '.join(notes)}")
    return tuple(columns), tuple(notes)


def why_empty(row: Row, column: Column, names: Sequence[str]) -> str:
    """Why a cell is not painted, or "". names: the names that the column's one concept brings."""
    if column.regions and row.single:
        return "one concept: no regions"
    if column.concept is not None and row.names and names and not set(names) & set(row.names):
        return "not in this prompt"
    return ""


def write_table(cells: Sequence[Cell], facts: Mapping[str, object]) -> str:
    """JSON of a comparison: what each picture is, in the order of the pictures."""
    return json.dumps({"table": TABLE, "version": 1, **facts, "cells": [asdict(cell) for cell in cells]}, indent=1)


def read_table(text: str) -> tuple[Cell, ...] | None:
    """The cells of ``write_table``, or None if the text is something else; MixOfShowError if it is damaged."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
        if found.get("table") != TABLE:
            return None
        return tuple(Cell(**cell | {"names": tuple(cell["names"])}) for cell in found["cells"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MixOfShowError(f"The table of a comparison cannot be read ({error}); connect Compare's own.") from error
