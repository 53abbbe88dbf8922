"""Which concept names a file brings, read from little: a safetensors header, or a file that is small anyway."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import MixOfShowError
from ..names import name_of_file
from .edlora import EMBEDDINGS
from .header import check_header
from .native import METADATA_KEY, is_native
from .read import LORA_MARKS, read_any
from .textual_inversion import BUNDLE

SAFETENSORS = (".safetensors", ".sft")
SMALL = 32 * 2**20  # bytes: embeddings and ED-LoRA files, which are read whole to know their words


def names_in_file(path: Path) -> tuple[str, ...] | None:
    """The plain names in the file's order, a LoRA's from its file name; None where only loading would tell."""
    try:
        names = _names_in_header(path) if path.suffix.lower() in SAFETENSORS else None
        if names is not None or os.path.getsize(path) > SMALL:
            return names
        concept = read_any(path).concept
        return tuple(entry.name for entry in concept.entries) if concept else (name_of_file(path.stem),)
    except (MixOfShowError, OSError, SafetensorError):
        return None  # the run says what is wrong with it


def _names_in_header(path: Path) -> tuple[str, ...] | None:
    check_header(path)
    with safe_open(path, framework="pt") as file:
        keys, metadata = list(file.keys()), file.metadata() or {}
    if is_native(metadata):
        try:
            return tuple(str(item["name"]) for item in json.loads(metadata[METADATA_KEY])["concepts"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
    if any(BUNDLE.fullmatch(key) or key.startswith(("params.", *(f"{part}." for part in EMBEDDINGS))) for key in keys):
        return None
    is_lora = any(mark in key for key in keys for mark in LORA_MARKS)
    return (name_of_file(path.stem),) if is_lora else None
