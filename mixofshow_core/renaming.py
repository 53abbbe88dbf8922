"""The `name` field: another plain name for a file's concept, or `old=new, old2=new2` for some of several."""

from __future__ import annotations

from dataclasses import replace

from .concept import Concept
from .errors import MixOfShowError
from .names import fold


def renamed(concept: Concept, text: str) -> Concept:
    """The concept under other plain names; its words and ids stay what they were. Empty text changes nothing."""
    text = text.strip()
    if not text:
        return concept
    names = [entry.name for entry in concept.entries]
    listed = ", ".join(names) or "none"
    if "=" not in text:
        if len(names) != 1:
            example = f"{names[0]}={names[0]}-b" if names else "old=new"
            raise MixOfShowError(
                f"This file holds {len(names)} concepts ({listed}), so `name` needs to say which: old=new, several "
                f"separated by commas, as in `{example}`."
            )
        wanted = {fold(names[0]): text}
    else:
        wanted = _pairs(text)
        if strange := [old for old in wanted if old not in {fold(name) for name in names}]:
            raise MixOfShowError(f"`name` renames {', '.join(strange)}, which is not in this file: it holds {listed}.")
    entries = tuple(replace(entry, name=wanted.get(fold(entry.name), entry.name)) for entry in concept.entries)
    new = [fold(entry.name) for entry in entries]
    if twice := sorted({name for name in new if new.count(name) > 1}):
        raise MixOfShowError(f"`name` {text!r} calls two concepts of this file {twice[0]!r}; choose another name.")
    about = {key: value for key, value in concept.training.items() if key != "named_by"}
    return replace(concept, entries=entries, training=about)


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.replace("\n", ",").split(","))):
        old, _, new = (piece.strip() for piece in part.partition("="))
        old = fold(old.strip("<>"))
        if not old or not new or old in pairs:
            raise MixOfShowError(
                f"`name` has {part!r}: write old=new, every old name once, several separated by commas, as in "
                "`mara=mara-b, tom=tim`."
            )
        pairs[old] = new
    return pairs
