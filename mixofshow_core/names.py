"""What counts as a concept's name in a text: the one rule of captions, prompts and tables.

A name is found whole and in any case; of several that begin at one place the longest wins. Letters of scripts that are
written without spaces, full-width Latin letters, ``:`` and ``/`` may stand beside it (``character:mara``); a hyphen may
not (``mara-lynn`` is another name). ``embedding:...`` and ``<lora:...>`` are file names and never looked into.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Kana, ideographs, Hangul (whose particles are attached) and Thai: a Latin name ends where they begin.
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff66-\uff9f"
LETTER = rf"[^\W{UNSPACED}]"
FILES = r"(?:embedding:[^\s,()\[\]{}]+|<(?:lora|lyco|hypernet):[^>\n]*>)"
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # as many characters as before


def whole(names: Iterable[str], follows: str = "") -> re.Pattern[str]:
    """A pattern, for `narrow` text, of any of `names` as a whole word, with what `follows` matches behind it."""
    choices = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
    return re.compile(rf"(?<!{LETTER})(?<![<-])(?:{choices})(?!{LETTER})(?![>-]){follows}", re.IGNORECASE)


def narrow(text: str) -> str:
    """The text with full-width Latin letters, digits and signs as ordinary ones; every character keeps its place."""
    return text.translate(FULL_WIDTH)


def names_in(text: str, names: Iterable[str]) -> bool:
    """Whether the text holds one of the names."""
    return bool(_spans(text, whole(names)))


def starts_with_name(text: str, name: str) -> bool:
    return whole([name]).match(narrow(text)) is not None


def replace_names(text: str, targets: Mapping[str, str], follows: str = "") -> str:
    """The text with every name of `targets` (keys in lower case) replaced; the rest stays as it is, to the letter."""
    if not targets:
        return text
    parts, end = [], 0
    for start, stop, found in _spans(text, whole(targets, follows)):
        known = found.lower()
        name = known if known in targets else max((n for n in targets if known.startswith(n)), key=len)
        parts += [text[end:start], targets[name]]
        end = stop
    return "".join([*parts, text[end:]])


def _spans(text: str, pattern: re.Pattern[str]) -> list[tuple[int, int, str]]:
    """Where the pattern is found outside file names, and as what."""
    both = re.compile(f"(?P<file>{FILES})|{pattern.pattern}", re.IGNORECASE)
    return [(*m.span(), m.group()) for m in both.finditer(narrow(text)) if m["file"] is None]
