"""``<lora:alice:0.8>`` in a prompt: the connected LoRA of that name or file, at that strength."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from ..concept import MAX_STRENGTH, ConceptUse
from ..errors import MixOfShowError
from ..names import fold, name_of_file, names_in

TAG = re.compile(r"<lora:([^:>\n]+)((?::[^:>\n]*){0,2})>", re.IGNORECASE)


@dataclass
class Tags:
    """Replaces tags by names, and keeps at which strengths (UNet, text encoder) the uses were asked for."""

    uses: Sequence[ConceptUse]
    asked: dict[int, tuple[float, float]] = field(default_factory=dict)

    def read(self, text: str) -> str:
        """The text with every tag of a connected LoRA replaced by its name, or taken out where its name stands.

        Other tags stay, and are told elsewhere. One number is for both parts; of two, the first is the text encoder's,
        as A1111 has it. MixOfShowError for what is no number, and for one LoRA at two strengths.
        """
        rest = TAG.sub(" ", text)
        return TAG.sub(lambda found: self._name(found, rest), text)

    def _name(self, found: re.Match, rest: str) -> str:
        wanted = found.group(1).strip()
        place = next((n for n, use in enumerate(self.uses) if _is_called(use, wanted)), None)
        if place is None:
            return found.group()
        strengths = _strengths(found)
        if strengths is not None and self.asked.setdefault(place, strengths) != strengths:
            raise MixOfShowError(
                f"{found.group()!r} asks for another strength than an earlier tag of the same LoRA; it acts at one "
                f"strength. Load the file twice under two names, or give both tags the same number."
            )
        entries = self.uses[place].concept.entries
        calls = [call for entry in entries for call in (entry.name, entry.trigger) if call]
        return "" if names_in(rest, calls) else entries[0].name

    def strengthened(self) -> tuple[ConceptUse, ...]:
        """The uses at the strengths that tags asked for."""
        return tuple(
            use if n not in self.asked else replace(use, strength=self.asked[n][0], text_strength=self.asked[n][1])
            for n, use in enumerate(self.uses)
        )


def _is_called(use: ConceptUse, wanted: str) -> bool:
    stem = PurePath(use.path).stem
    names = {stem, name_of_file(stem), *(entry.name for entry in use.concept.entries)} if stem else set()
    return bool(use.concept.entries) and fold(wanted) in map(fold, names)


def _strengths(found: re.Match) -> tuple[float, float] | None:
    """(UNet, text encoder), or None where the tag has no number."""
    parts = [part.strip() for part in found.group(2).split(":")[1:] if part.strip()]
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [float("nan")]
    if any(not -MAX_STRENGTH <= number <= MAX_STRENGTH for number in numbers):
        raise MixOfShowError(f"{found.group()!r}: strength must be a number from -10 to 10, as in <lora:alice:0.8>.")
    if not numbers:
        return None
    return (numbers[-1], numbers[0])
