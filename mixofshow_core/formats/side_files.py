"""What the files beside a LoRA say of it: its trigger, suggestions for one, and a picture.

Read: `.metadata.json` (LoRA Manager), `.civitai.info` (Civitai Helper), `.json` (A1111's own), `.txt`, then the file's
own header (`modelspec.trigger_phrase`). All of them come from the web: they are small, or ignored; whatever is not a
short plain text is dropped; nothing in them is an error.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..names import LORA_TAG

MAX_BYTES = 2**20
MAX_TRIGGER = 200  # characters
MAX_SUGGESTIONS = 12
TEXTS = (".metadata.json", ".civitai.info", ".json", ".txt")  # in the order in which they are believed
PICTURES = (".preview.png", ".png", ".preview.webp", ".webp", ".preview.jpg", ".jpg", ".preview.jpeg", ".jpeg")
TAGS = re.compile(r"<[^<>]{0,200}>")
LORA = re.compile(LORA_TAG, re.IGNORECASE)


@dataclass(frozen=True)
class SideFacts:
    """trigger: the text that calls the LoRA up, from `source` (a file's name, or "header"); empty where none says so.

    suggestions: other words that may do; picture: a preview beside the file.
    """

    trigger: str = ""
    source: str = ""
    suggestions: tuple[str, ...] = ()
    picture: Path | None = None


def side_facts(path: Path, metadata: Mapping[str, str]) -> SideFacts:
    """Facts about a LoRA file from its neighbours and its header; the first place that names a trigger wins."""
    found: list[tuple[str, list[str]]] = []
    readers = (_from_manager, _from_civitai, _from_a1111, _from_text)
    for suffix, read in zip(TEXTS, readers, strict=True):
        beside = path.with_name(f"{path.stem}{suffix}")
        phrases = [phrase for phrase in map(plain, read(beside)) if phrase] if beside.is_file() else []
        if phrases:
            found.append((beside.name, phrases))
    if header := plain(metadata.get("modelspec.trigger_phrase", "")):
        found.append(("header", [header]))
    trigger, source = (found[0][1][0], found[0][0]) if found else ("", "")
    others = [phrase for _, phrases in found for phrase in phrases] + list(frequent_tags(metadata))
    suggestions = tuple(dict.fromkeys(phrase for phrase in others if phrase != trigger))[:MAX_SUGGESTIONS]
    return SideFacts(trigger, source, suggestions, picture_of(path))


def picture_of(path: Path) -> Path | None:
    """The preview beside a LoRA file, as LoRA managers name it."""
    beside = (path.with_name(f"{path.stem}{suffix}") for suffix in PICTURES)
    return next((picture for picture in beside if picture.is_file()), None)


def frequent_tags(metadata: Mapping[str, str], count: int = MAX_SUGGESTIONS) -> tuple[str, ...]:
    """The most frequent tags of kohya's ss_tag_frequency: suggestions, never used unasked."""
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        total: Counter = Counter()
        for tags in folders.values():
            total.update({str(tag).strip(): int(number) for tag, number in tags.items()})
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return ()
    return tuple(tag for tag, _ in total.most_common(count))


def plain(value: object) -> str:
    """One short line of text: without HTML, control characters and `<lora:...>`; empty for what is none."""
    if not isinstance(value, str) or len(value) > 20 * MAX_TRIGGER:
        return ""
    text = TAGS.sub(" ", html.unescape(LORA.sub(" ", value)))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split()).strip(" ,")
    return text if len(text) <= MAX_TRIGGER else ""


def _from_manager(path: Path) -> list:
    civitai = _json(path).get("civitai")
    return _words(civitai if isinstance(civitai, dict) else {})


def _from_civitai(path: Path) -> list:
    return _words(_json(path))


def _from_a1111(path: Path) -> list:
    return [_json(path).get("activation text")]


def _from_text(path: Path) -> list:
    """The first line; kohya's and Civitai's downloads put the trigger there."""
    text = _bytes(path).decode("utf-8", "replace").strip()
    return text.splitlines()[:1]


def _words(facts: Mapping) -> list:
    words = facts.get("trainedWords")
    return words[:MAX_SUGGESTIONS] if isinstance(words, list) else []


def _json(path: Path) -> dict:
    try:
        facts = json.loads(_bytes(path))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _bytes(path: Path) -> bytes:
    """Empty for a file that is too large, or cannot be read."""
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    except OSError:
        return b""
