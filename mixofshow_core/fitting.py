"""What can be wrong with a list of concepts, and between concepts and a base: one rule for every node and for cli.py.

The bridge's half, which looks at live modules, is nodes/bridge/host/fitting.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .concept import BaseInfo, ConceptEntry, ConceptUse, Word
from .errors import MixOfShowError
from .families.known import UNKNOWN, V_PREDICTION, find_family, plain_name
from .names import MAX_WORD, fold

RENAME = "give one of them another name in its `name` field (Load Concept, or its row in Cast; one of several: old=new)"


def place_of(use: ConceptUse) -> str:
    """What a person knows a use by: its file, else its name."""
    return use.path or use.label


def check_list(uses: Sequence[ConceptUse]) -> None:
    """No concept twice, no name twice, one family: known without a model, so Load Concept and Cast ask too.

    Words are not asked: they belong to their concept (`with_unique_words`).
    """
    seen: dict[str, ConceptUse] = {}
    owners: dict[str, ConceptUse] = {}
    for use in uses:
        if (first := seen.setdefault(use.concept.content_hash, use)) is not use:
            places = ", ".join(sorted({place_of(first), place_of(use)}))
            raise MixOfShowError(f"Concept {use.label!r} is listed twice in `concepts` ({places}); remove one.")
        for entry in use.concept.entries:
            if (other := owners.setdefault(fold(entry.name), use)) is not use:
                raise MixOfShowError(f"{place_of(other)} and {place_of(use)} both use {entry.name!r}; {RENAME}.")
    known = [use for use in uses if use.concept.base.family != UNKNOWN]
    for use in known[1:]:
        mine, theirs = (plain_name(one.concept.base.family) for one in (known[0], use))
        if mine != theirs:
            raise MixOfShowError(
                f"{place_of(known[0])} was made for {title_of(mine)}, {place_of(use)} for {title_of(theirs)}; no base "
                "takes both. Remove one of them."
            )


def check_once(uses: Sequence[ConceptUse], where: str) -> None:
    """Refuse the same changes under two names, which would act twice; concepts that keep to places may be such."""
    seen: dict[str, ConceptUse] = {}
    for use in uses:
        if use.concept.changes_hash and (first := seen.setdefault(use.concept.changes_hash, use)) is not use:
            raise MixOfShowError(
                f"{where}: {place_of(first)} ({first.label}) and {place_of(use)} ({use.label}) hold the very same "
                "changes, which would act twice. Remove one of them, or give each a region and leave them unfused."
            )


def check_base(base: BaseInfo, uses: Iterable[ConceptUse], knows_prediction: bool = True) -> list[str]:
    """Refuse concepts that were made for another kind of base; a line for each that was made for another base of it.

    Community LoRAs do not say whether their base predicts v or noise, so that part is not held against them.
    knows_prediction: whether `base` says what it predicts (a file that was not loaded does not).
    """
    notes = []
    for use in uses:
        theirs = use.concept.base
        if theirs.family != UNKNOWN and plain_name(theirs.family) != plain_name(base.family):
            mine, made_for = title_of(base.family), title_of(theirs.family)
            raise MixOfShowError(
                f"Concept {use.label!r} was made for {made_for}, but MODEL is {mine}. Connect a checkpoint of "
                f"{made_for}, or take a concept that was made for {mine}."
            )
        says = theirs.family != UNKNOWN and not use.is_community
        if says and knows_prediction and theirs.family != base.family:
            raise MixOfShowError(_other_prediction(use, base.family.endswith(V_PREDICTION)))
        if theirs.layers and base.layers and theirs.layers != base.layers:
            raise MixOfShowError(
                f"Concept {use.label!r} holds embeddings for {theirs.layers} cross-attention layers; MODEL has "
                f"{base.layers}. Connect the base that it was trained on, or another with as many."
            )
        if theirs.fingerprint and base.fingerprint and theirs.fingerprint != base.fingerprint:
            notes.append(
                f"Concept {use.label} was trained on base {theirs.fingerprint}; MODEL is {base.fingerprint} "
                "(same family, that is fine)."
            )
    return notes


def _other_prediction(use: ConceptUse, model_predicts_v: bool) -> str:
    theirs, mine = ("noise", "v") if model_predicts_v else ("v", "noise")
    node = "ModelSamplingDiscrete"
    advice = (
        f"If a {node} node before this one makes it so, take it away"
        if model_predicts_v
        else f"If this checkpoint predicts v, put a {node} node (v_prediction) before this one"
    )
    return (
        f"Concept {use.label!r} was trained on a base that predicts {theirs}, but MODEL predicts {mine}. {advice}; "
        f"else connect a checkpoint of {title_of(use.concept.base.family)} that predicts {theirs}."
    )


def title_of(family: str) -> str:
    """What people call a family: SD1.5, SDXL."""
    row = find_family(family)
    return row.title if row is not None else f"the {plain_name(family)} family"


def with_unique_words(entries: Iterable[ConceptEntry]) -> tuple[tuple[ConceptEntry, ...], list[str]]:
    """The entries with no word twice, and a line for each word that is called otherwise now.

    Words are internal (many files learn ``<new1>``); a person types names. The first keeps its word, so the order of
    the entries decides.
    """
    taken: set[str] = set()
    made, notes = [], []
    for entry in entries:
        words = []
        for number, word in enumerate(entry.words, 1):
            text, count = word.text, 1
            while fold(text) in taken:
                text = f"<{entry.name[: MAX_WORD - 16]}-{number}{'' if count == 1 else f'-{count}'}>"
                count += 1
            if text != word.text:
                notes.append(f"the word {word.text} of {entry.name} is called {text} here: another concept has it")
            taken.add(fold(text))
            words.append(word if text == word.text else Word(text, word.init))
        made.append(replace(entry, words=tuple(words)))
    return tuple(made), notes
