"""Which words CLIP knows, from the tokenizer file that the host ships for every model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import comfy.sd1_clip

# Tokens are numbered by how often they were seen; the last of the 49,152 words are rare (48,927 is `maar`).
COMMON = 40_000


@lru_cache(maxsize=1)
def _words() -> Mapping[str, int]:
    path = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer" / "vocab.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def is_vocabulary_word(name: str) -> bool:
    """Whether CLIP's tokenizer has a token for exactly this word."""
    return f"{name.lower()}</w>" in _words()


def is_common_word(word: str) -> bool:
    """Whether the word is a frequent one of CLIP's vocabulary, hence hardly a misspelt name."""
    return _words().get(f"{word.lower()}</w>", COMMON) < COMMON
