"""Checks on the header of a safetensors file before anything is allocated for it.

The library checks most of this too; here every refusal names the key, and sizes are bounded before JSON is parsed.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from ..errors import MixOfShowError

MAX_HEADER = 8 * 2**20  # bytes; a thumbnail and the community's tag lists take about one megabyte
MAX_TENSORS = 20_000  # an SDXL checkpoint has about 2,500
MAX_BRACKETS = 200_000  # JSON lists and objects cost far more memory than their text
MAX_KEY = 512  # characters
MAX_DIMENSIONS = 6
OTHERS = {  # what comes under a model's name when a download went wrong
    b"<!doc": "a web page, not a model: its site asked for a login or an agreement. Download it in a browser.",
    b"<html": "a web page, not a model: its site asked for a login or an agreement. Download it in a browser.",
    b"version ": "the pointer of a file in Git LFS, not the file. Run git lfs pull there, and copy it again.",
    b"gguf": "a GGUF file, which ComfyUI-GGUF loads as MODEL. As a concept take the LoRA's safetensors file.",
    b"\x1f\x8b": "an archive (gzip). Unpack it first.",
    b"7z\xbc\xaf": "an archive (7-Zip). Unpack it first.",
    b"rar!": "an archive (RAR). Unpack it first.",
}
ITEM_SIZE = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "U32": 4,
    "U64": 8,
}


def check_key(key: object, file_name: str) -> str:
    """The key itself; MixOfShowError for names that are no plain, short text or that look like paths."""
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise MixOfShowError(f"{file_name}: tensor name {str(key)[:80]!r} is not a short printable text.")
    if ".." in key or "/" in key or "\\" in key:
        raise MixOfShowError(f"{file_name}: tensor name {key[:80]!r} looks like a path; such files are not read.")
    return key


def check_header(path: Path) -> None:
    """Raise MixOfShowError when the file's header is oversized, has duplicate keys, odd dtypes or wrong extents."""
    path = Path(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if other := next((what for sign, what in OTHERS.items() if start.lower().startswith(sign)), None):
            raise MixOfShowError(f"{path.name} is {other}")
        if size < 10 or length > size - 8:
            raise MixOfShowError(
                f"{path.name} is not a complete safetensors file (its header claims {length} bytes of {size}). "
                "Copy or download it again."
            )
        if length > MAX_HEADER:
            raise MixOfShowError(f"{path.name}: its header has {length} bytes; at most {MAX_HEADER} are read.")
        text = file.read(length)
    entries = _parse(text, path.name)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MixOfShowError(f"{path.name}: its metadata is not a table of texts.")
    if len(entries) > MAX_TENSORS:
        raise MixOfShowError(f"{path.name} holds {len(entries)} tensors; at most {MAX_TENSORS} are read.")
    for key, entry in entries.items():
        _check_entry(check_key(key, path.name), entry, size - 8 - length, path.name)


def _parse(text: bytes, file_name: str) -> dict:
    if text.count(b"[") + text.count(b"{") > MAX_BRACKETS:
        raise MixOfShowError(f"{file_name}: its header holds more than {MAX_BRACKETS} lists; that is no model file.")
    try:
        parsed = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, file_name))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise MixOfShowError(
            f"{file_name} is not a complete safetensors file (header: {error}). Copy or download it again."
        ) from error
    if not isinstance(parsed, dict):
        raise MixOfShowError(f"{file_name}: its header is a {type(parsed).__name__}, not a table.")
    return parsed


def _unique(pairs: list[tuple[str, object]], file_name: str) -> dict:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise MixOfShowError(f"{file_name}: key {key[:80]!r} is there twice; it is unclear which one counts.")
        found[key] = value
    return found


def _check_entry(key: str, entry: object, available: int, file_name: str) -> None:
    try:
        dtype, shape, (begin, end) = entry["dtype"], list(entry["shape"]), entry["data_offsets"]
        if dtype not in ITEM_SIZE:
            raise MixOfShowError(f"{file_name}: tensor {key!r} has dtype {str(dtype)[:20]!r}, which is not read here.")
        if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            raise MixOfShowError(f"{file_name}: tensor {key!r} has the shape {str(shape)[:80]}.")
        if 0 <= begin <= end and end > available:
            raise MixOfShowError(
                f"{file_name} is not a complete safetensors file (tensor {key!r} ends at byte {end} of {available}). "
                "Copy or download it again."
            )
        if not 0 <= begin <= end or end - begin != math.prod(shape) * ITEM_SIZE[dtype]:
            raise MixOfShowError(
                f"{file_name}: tensor {key!r} ({dtype}, {shape}) does not fit its place {begin}..{end} in the "
                f"{available} bytes of data. Copy or download the file again."
            )
    except (KeyError, TypeError, ValueError) as error:
        raise MixOfShowError(f"{file_name}: the description of tensor {key!r} is not readable ({error!r}).") from error
