"""A cast: the list of concepts and LoRAs of one node, as one versioned JSON string (docs/cast.schema.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from .concept import MAX_STRENGTH, ROLES
from .errors import MixOfShowError, short

VERSION = 1
MAX_BYTES = 262_144
MAX_ROWS = 64
MAX_TEXT = 1_000
EMPTY = '{"version": 1, "rows": []}'


@dataclass(frozen=True)
class CastRow:
    """One row. Empty `name` and `trigger`: as the file says. `text_strength` None: the same as `strength`.

    `strength` is for the UNet, `text_strength` for the text encoder; `role` as in ConceptUse.
    """

    file: str
    on: bool = True
    name: str = ""
    trigger: str = ""
    strength: float = 1.0
    text_strength: float | None = None
    role: str = "auto"

    def __post_init__(self) -> None:
        for name in ("file", "name", "trigger"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > MAX_TEXT:
                raise MixOfShowError(f"{name} must be a text of at most {MAX_TEXT} characters, got {short(value)}.")
        if not isinstance(self.on, bool):
            raise MixOfShowError(f"on must be true or false, got {short(self.on)}.")
        for name in ("strength", "text_strength"):
            value = getattr(self, name)
            if name == "text_strength" and value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not -MAX_STRENGTH <= value <= MAX_STRENGTH:
                raise MixOfShowError(
                    f"{name} must be a number from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}, got {short(value)}."
                )
        if self.role not in ROLES:
            raise MixOfShowError(f"role is {short(self.role)}; use one of {', '.join(ROLES)}.")


def parse_cast(text: str) -> tuple[CastRow, ...]:
    """The rows of a cast, also those that are off; MixOfShowError names the row, the field and the remedy."""
    if len(text) > MAX_BYTES:
        raise MixOfShowError(f"The cast has {len(text)} characters; at most {MAX_BYTES} are accepted.")
    if not text.strip():
        return ()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MixOfShowError(f"The cast is no JSON ({error}); empty the field to begin anew.") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise MixOfShowError(f'The cast must be an object with "version": {VERSION}, as docs/cast.schema.json says.')
    rows = found.get("rows", [])
    if set(found) - {"version", "rows"} or not isinstance(rows, list):
        raise MixOfShowError('The cast holds "version" and "rows" (a list) and nothing else.')
    if len(rows) > MAX_ROWS:
        raise MixOfShowError(
            f"The cast has {len(rows)} rows; at most {MAX_ROWS} are accepted. Remove some, or chain a second Cast node."
        )
    return tuple(_parse_row(number, row) for number, row in enumerate(rows, 1))


def _parse_row(number: int, row: object) -> CastRow:
    if not isinstance(row, dict):
        raise MixOfShowError(f"Row {number} of the cast is {short(row)}; an object is needed.")
    if unknown := sorted(set(map(str, row)) - {field.name for field in fields(CastRow)}):
        raise MixOfShowError(f"Row {number} of the cast has unknown fields: {', '.join(unknown)[:200]}. Remove them.")
    try:
        parsed = CastRow(**{"file": "", **row})
    except MixOfShowError as error:
        raise MixOfShowError(f"Row {number} of the cast: {error}") from error
    if parsed.on and not parsed.file.strip():
        raise MixOfShowError(f"Row {number} of the cast has no file: choose one, switch the row off, or remove it.")
    return parsed
