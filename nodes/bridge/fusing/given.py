"""Statistics that lie beside a concept's file: compared with what this fusion asks for, checked, and used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.fusion.foreign_statistics import check_statistics
from ....mixofshow_core.fusion.statistics import Statistics
from ....mixofshow_core.fusion.store import read_statistics

# What has to be the same, and what another value means. torch and threads may differ: other rounding, the same inputs.
SAID = {
    "base": "another base",
    "concepts": "the concept as it was, or at another strength or trigger",
    "plan": "another calibration",
    "prompts": "other prompts",
    "pictures": "other pictures",
    "mode": "another stage",
    "fixed": "other fused layers",
}


def given_statistics(
    use: ConceptUse, manifest: Mapping[str, object], widths: Mapping[str, int], prior: Statistics | None, notes: list
) -> Statistics | None:
    """None, with a note, where they are of something else; MixOfShowError where they cannot be what they say.

    widths: inputs of every group that is asked for.
    """
    found, header = read_statistics(Path(use.statistics))
    name, other = Path(use.statistics).name, differences(found.manifest, manifest)
    if other:
        notes.append(f"{name} is not used: it was collected for {'; '.join(other)}")
        return None
    if missing := set(widths) - set(header["asked"]):
        notes.append(f"{name} is not used: {len(missing)} of the layers that change here are not in it")
        return None
    check_statistics(found, widths, {} if prior is None else prior.grams, f"{use.path or use.label}: {name}")
    notes.append(f"{use.label}: statistics came with the concept ({name})")
    return found


def differences(said: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """What statistics were collected for, in words, where it is not what is wanted."""
    return [
        words
        for key, words in SAID.items()
        # A client that watches every layer has prompts and pictures; a fusion asks only for what it solves.
        if said.get(key) != wanted[key] and not (key in ("prompts", "pictures") and not wanted[key])
    ]
