"""What a concept's name is, and what counts as one in a text: the one rule of captions, prompts, tables and files.

Names are made of letters and marks of any script, digits, ``-`` and ``_``. They are kept in Unicode's form NFKC and are
the same where their case-folded forms are (`fold`), so full-width, half-width and decomposed letters meet.

In a text a name is found whole and in any case; of several that begin at one place the longest wins. Letters of scripts
that are written without spaces, ``:`` and ``/`` may stand beside it (``character:mara``); a hyphen may not
(``mara-lynn`` is another name). ``embedding:...`` and ``<lora:...>`` are file names and never looked into.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from os.path import commonprefix

MAX_NAME, MAX_WORD = 64, 82  # characters; a word stands in < >
LORA_TAG = r"<(?:lora|lyco|hypernet):[^>\n]*>"
FILES = rf"embedding:[^\s,()\[\]{{}}]+|{LORA_TAG}"
# Scripts without spaces (and Hangul, whose particles are attached): a name ends where they begin, and they may go on.
UNSPACED = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1100, 0x11FF),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x31FF),
    (0x3400, 0x9FFF),
    (0xA960, 0xA97F),
    (0xAC00, 0xD7FF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
UNSEEN = "\u00ad\u200b\u200c\u200d\u2060\ufeff"  # joiners and soft hyphens: how a word looks, not which it is


def normal(text: str) -> str:
    """The form in which names and words are kept: NFKC, without characters that cannot be seen."""
    plain = text if text.isascii() else "".join(char for char in text if char not in UNSEEN)
    return unicodedata.normalize("NFKC", plain)


def fold(text: str) -> str:
    """The form in which names and words are compared."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", normal(text).casefold())
    return folded.replace("i\u0307", "i")  # what a Turkish capital I with a dot leaves


def is_name(text: str) -> bool:
    """Whether a text in normal form can be a concept's plain name."""
    return 0 < len(text) <= MAX_NAME and _kind(text[0]) == "L" and all(_is_part(char) or char == "-" for char in text)


def is_word(text: str) -> bool:
    """Whether a text in normal form can be a concept word, such as ``<mara-1>``."""
    core = text[1:-1]
    whole = text == f"<{core}>" and 2 < len(text) <= MAX_WORD
    return whole and _kind(core[0]) in "LN" and all(_is_part(char) or char in "+-" for char in core)


def legal(text: str, gap: str, more: str = "") -> str:
    """The text in normal form, with `gap` for every run of characters that no name may hold; may be empty."""
    plain = "".join(char if _is_part(char) or char in f"-{more}" else "\0" for char in normal(text))
    plain = re.sub("\0+", gap, plain).strip("-_+")
    begin = next((n for n, char in enumerate(plain) if _kind(char) != "M"), len(plain))
    return plain[begin:]


def name_of_file(stem: str) -> str:
    """A legal plain name for a file: spaces, dots and brackets become `_`."""
    name = re.sub("_+", "_", legal(stem, "_"))
    if not name or _kind(name[0]) != "L":
        name = f"lora_{name}".rstrip("_")
    return name[:MAX_NAME].rstrip("_-")


def _kind(char: str) -> str:
    return unicodedata.category(char)[0]


def _is_part(char: str) -> bool:
    """Whether a character can belong to a word of plain text."""
    return char == "_" or _kind(char) in "LM" or unicodedata.category(char) == "Nd"


def _joins(char: str) -> bool:
    """Whether a neighbour makes a name part of a longer word."""
    return char != "" and (char == "_" or _kind(char) in "LMN") and not any(a <= ord(char) <= b for a, b in UNSPACED)


def _is_whole(folded: str, start: int, stop: int) -> bool:
    before, after = folded[start - 1 : start], folded[stop : stop + 1]
    if after and _kind(after) == "M":  # a mark belongs to the letter before it, in every script
        return False
    if _is_part(folded[start]) and (before in ("<", "-") or (_joins(folded[start]) and _joins(before))):
        return False
    return not (_is_part(folded[stop - 1]) and (after in (">", "-") or (_joins(folded[stop - 1]) and _joins(after))))


def _extends(char: str) -> bool:
    """Whether a character is written together with the one before it: marks, half-width voicing, jamo, unseen ones."""
    return char in UNSEEN or char in "\uff9e\uff9f" or "\u1160" <= char <= "\u11ff" or _kind(char) == "M"


def _folded(text: str) -> tuple[str, list[int]]:
    """The text in its compared form, and for each of its characters (and its end) where that began in the text.

    -1 inside of what one character of the text became, or several together.
    """
    if text.isascii():
        return text.lower(), list(range(len(text) + 1))
    folded: list[str] = []
    places: list[int] = []
    start = 0
    for stop in range(1, len(text) + 1):
        if stop < len(text) and _extends(text[stop]):
            continue
        part = fold(text[start:stop])
        folded.append(part)
        places += [start, *[-1] * (len(part) - 1)][: len(part)]
        start = stop
    return "".join(folded), [*places, len(text)]


WORDS = re.compile(rf"(?:{FILES})|<[^>\s]*>|(?P<word>\w+(?:-\w+)*)", re.IGNORECASE)
SHORTEST = 4  # letters of a word or name that can be misspelt; shorter ones are too near to each other


def find_names(text: str, names: Iterable[str], follows: str = "") -> Iterator[tuple[int, int, str]]:
    """(start, end, name) of every name in the text; `follows` is a pattern in folded letters that may belong to it.

    The name is the one of `names` that matched: its letters in the text can differ by more than case (``f\u0131nn``).
    """
    wanted = sorted(((fold(name), name) for name in names if name), key=lambda pair: (-len(pair[0]), pair[0]))
    if not wanted:
        return
    folded, places = _folded(text)
    choices = "|".join(re.escape(form) for form, _ in wanted)
    end = 0
    for found in re.finditer(rf"(?:{FILES})|(?=(?:{choices}))", folded, re.IGNORECASE):
        if found.end() > found.start():
            end = max(end, found.end())
        for form, name in wanted if found.start() >= end else ():
            stop = found.start() + len(form)
            same = re.compile(re.escape(form), re.IGNORECASE).fullmatch(folded, found.start(), stop)
            if same is None or min(places[found.start()], places[stop]) < 0 or not _is_whole(folded, *same.span()):
                continue
            behind = re.compile(follows, re.IGNORECASE).match(folded, stop)
            end = stop if behind is None or places[behind.end()] < 0 else behind.end()
            yield places[found.start()], places[end], name
            break


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


def near_names(
    text: str, names: Iterable[str], is_common: Callable[[str], bool] = lambda word: False
) -> list[tuple[str, str]]:
    """(word, name) for every word that is one slip from a name and therefore calls nobody: `marra` for `mara`.

    A slip is a letter too many, missing, wrong or exchanged with its neighbour; words and names of three letters or
    less are not compared. So `maras` is found: a name has no plural. `mara's` is the name itself, and words that
    `is_common` knows (`fine` beside a concept `finn`) are meant as they are written.
    """
    known = {fold(name): name for name in names}
    long = [name for name in known if len(name) >= SHORTEST]
    found: dict[str, str] = {}
    for match in WORDS.finditer(normal(text)):
        word = fold(match["word"] or "")
        if len(word) < SHORTEST or word in known or word in found or is_common(word):
            continue
        near = next((name for name in long if _one_slip(word, name)), None)
        if near is not None:
            found[word] = known[near]
    return list(found.items())


def _one_slip(first: str, second: str) -> bool:
    """Damerau-Levenshtein distance 1, told from what is left between the common beginning and the common end."""
    start = len(commonprefix((first, second)))
    first, second = first[start:], second[start:]
    end = len(commonprefix((first[::-1], second[::-1])))
    first, second = (part[: len(part) - end] for part in (first, second))
    return sorted((len(first), len(second))) in ([0, 1], [1, 1]) or (len(first) == 2 and first == second[::-1])
