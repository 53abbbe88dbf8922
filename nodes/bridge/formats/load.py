"""From a chosen file to an element of the CONCEPTS wire: what Load Concept, Cast and the command line share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ....mixofshow_core.cast import CastRow
from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.fusion.store import BESIDE
from ....mixofshow_core.names import fold
from ..host.files import resolve_concept_file
from ..host.progress import Steps
from .foreign import ReadFile, read_with_host


def load_row(row: CastRow, base: Mapping[str, Tensor] | None = None) -> tuple[ConceptUse, ReadFile]:
    """Read one row's file. The typed trigger, else the one that the file or its neighbours name, calls a LoRA up."""
    path = resolve_concept_file(row.file)
    found = read_with_host(path, row.name.strip(), base, Steps())
    concept, trigger = found.concept, row.trigger.strip()
    if trigger and len(concept.entries) == 1 and not concept.entries[0].words:
        concept = replace(concept, entries=(replace(concept.entries[0], trigger=trigger),))
        found = replace(found, concept=concept, trigger_source="typed")
    beside = path.with_suffix(BESIDE)
    given = str(beside) if beside.is_file() else ""
    return ConceptUse(concept, row.strength, row.role, trigger, row.file, row.text_strength, given), found


def load_rows(rows: tuple[CastRow, ...], base: Mapping[str, Tensor] | None = None) -> list[tuple[ConceptUse, ReadFile]]:
    """All rows that are on; MixOfShowError names the row."""
    loaded = []
    for number, row in enumerate(rows, 1):
        if not row.on:
            continue
        try:
            loaded.append(load_row(row, base))
        except MixOfShowError as error:
            raise MixOfShowError(f"Cast, row {number} ({row.file}): {error}") from error
    check_triggers([use for use, _ in loaded])
    return loaded


def check_triggers(uses: list[ConceptUse]) -> None:
    """Two rows that a person gave the same trigger could never be told apart in a prompt."""
    owners: dict[str, ConceptUse] = {}
    for use in uses:
        key = fold(use.trigger).strip()
        if not key or not use.is_community:
            continue
        if (other := owners.setdefault(key, use)) is not use:
            raise MixOfShowError(
                f"{other.path} and {use.path} both have the trigger {use.trigger.strip()!r}; give one of them another "
                f"`trigger`, or empty it: then its name calls it."
            )
