"""What counts as a concept's name in a text: the one rule of captions, prompts and tables.

A name is found whole and in any case; of several that begin at one place the longest wins. Letters of scripts that are
written without spaces, full-width Latin letters, ``:`` and ``/`` may stand beside it (``character:mara``); a hyphen may
not (``mara-lynn`` is another name). ``embedding:...`` and ``<lora:...>`` are file names and never looked into.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

# Kana, ideographs, Hangul (whose particles are attached) and Thai: a Latin name ends where they begin.
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff66-\uff9f"
LETTER = rf"[^\W{UNSPACED}]"
LORA_TAG = r"<(?:lora|lyco|hypernet):[^>\n]*>"
FILES = rf"embedding:[^\s,()\[\]{{}}]+|{LORA_TAG}"
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # as many characters as before


def find_names(text: str, names: Iterable[str], follows: str = "") -> Iterator[tuple[int, int, str]]:
    """(start, end, name) of every name in the text; `follows` is a pattern without groups that may belong to it.

    The name is the one of `names` that matched: its letters in the text can differ by more than case (``f\u0131nn``).
    """
    ordered = sorted(names, key=lambda name: (-len(name), name))
    choices = "|".join(f"({re.escape(name)})" for name in ordered)
    whole = rf"(?<!{LETTER})(?<![<-])(?:{choices})(?!{LETTER})(?![>-]){follows}"
    narrow = text.translate(FULL_WIDTH)
    for found in re.compile(rf"(?:{FILES})|{whole}", re.IGNORECASE).finditer(narrow):
        if found.lastindex:
            yield *found.span(), ordered[found.lastindex - 1]


def names_in(text: str, names: Iterable[str]) -> bool:
    """Whether the text holds one of the names."""
    return any(True for _ in find_names(text, names))


def starts_with_name(text: str, name: str) -> bool:
    return any(start == 0 for start, _, _ in find_names(text, [name]))


def replace_names(text: str, targets: Mapping[str, str], follows: str = "") -> str:
    """The text with every name of `targets` replaced; the rest stays as it is, to the letter."""
    parts, end = [], 0
    for start, stop, name in find_names(text, targets, follows):
        parts += [text[end:start], targets[name]]
        end = stop
    return "".join([*parts, text[end:]])


def name_of_file(stem: str) -> str:
    """A legal plain name for a file: spaces, dots and brackets become `_`, what no name may hold is dropped."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9-]+", "_", plain).strip("_-")
    if not name or not name[0].isalpha():
        name = f"lora_{name}".rstrip("_")
    return name[:64].rstrip("_-")
