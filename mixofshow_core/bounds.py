"""What a setting may be, said once: in the field of its dataclass, for that class's checks and for nodes' widgets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import MixOfShowError

KEY = "bounds"


@dataclass(frozen=True)
class Bounds:
    """A number from low to high, or one of `choices`. auto: 0 is a number that stands for "chosen by the program"."""

    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    auto: bool = False

    @property
    def below(self) -> float:
        """A number that can say "not touched": 0 where that is automatic anyway, else one below all others."""
        return 0 if self.auto and self.low == 0 else self.low - 1


def number(default: float, low: float, high: float, auto: bool = False) -> Any:
    """A field of a dataclass: a number from low to high."""
    return field(default=default, metadata={KEY: Bounds(low, high, auto=auto)})


def choice(default: str, choices: tuple[str, ...]) -> Any:
    """A field of a dataclass: one of some words."""
    return field(default=default, metadata={KEY: Bounds(choices=choices)})


def bounds_of(settings: type) -> Mapping[str, Bounds]:
    """The bounds of every field that has some."""
    return {entry.name: entry.metadata[KEY] for entry in fields(settings) if KEY in entry.metadata}


def check_bounds(settings: object, what: str) -> None:
    """MixOfShowError for a number that is not finite, or a value out of its field's bounds; `what` begins its text."""
    for entry in fields(settings):
        value, bounds = getattr(settings, entry.name), entry.metadata.get(KEY)
        if isinstance(value, float) and not math.isfinite(value):
            raise MixOfShowError(f"{what} {entry.name} is {value}; give a finite number.")
        if bounds is None:
            continue
        if bounds.choices and value not in bounds.choices:
            raise MixOfShowError(f"{what} {entry.name} is {value!r}; choose one of {', '.join(bounds.choices)}.")
        if not bounds.choices and not bounds.low <= value <= bounds.high:
            raise MixOfShowError(f"{what} {entry.name} is {value}; it must be {bounds.low} to {bounds.high}.")


def meaning(what: str, value: object, table: Mapping[object, Any]) -> Any:
    """What one word of a choice stands for. A word without an entry is an error that lists all, never another's entry.

    Choices end here, or in a `raise`: a word that is added to a list and wired nowhere must not become its neighbour.
    """
    if value not in table:
        raise MixOfShowError(f"{what} is {value!r}; choose one of {', '.join(map(str, table))}.")
    return table[value]
