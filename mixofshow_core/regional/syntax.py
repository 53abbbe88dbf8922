"""Prompt syntax of other programs that means nothing here: it would be read as plain words, and nobody told."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..names import LORA_TAG

FOREIGN = (
    (re.compile(LORA_TAG, re.IGNORECASE), "connect the file by Cast or Load Concept, and it is read"),
    (re.compile(r"\b(?:MASK|AREA|COUPLE|FILL|FEATHER)\([^)\n]*\)?"), "draw a region in Regions instead"),
    (re.compile(r"\bBREAK\b"), "long prompts are cut into parts by themselves"),
    (re.compile(r"\bAND\b"), "draw a region per subject in Regions, or write a comma"),
)


def note_foreign_syntax(texts: Iterable[tuple[str, str]]) -> list[str]:
    """A line per piece of foreign syntax in `texts` (where, prompt), naming it, the place and the remedy."""
    return [
        f"WARNING: {found.group()!r} in the {where} means nothing here and is read as words; {remedy}."
        for where, text in texts
        for pattern, remedy in FOREIGN
        for found in [pattern.search(text)]
        if found
    ]
