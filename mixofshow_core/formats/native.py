"""Our own concept file: a safetensors file that the host's stock LoraLoader can read too.

Deltas stand under ``<layer name>.lora_up.weight|lora_down.weight|alpha`` (or ``.diff``; of its bias ``.diff_b``),
embeddings under ``mixofshow.embedding.<n>.<encoder>`` as [rows, D]; everything else is JSON in the header
(docs/formats.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from ..concept import BaseInfo, Concept, ConceptEntry, LayeredEmbedding, Word, concept_tensors, describe_entry
from ..delta import Delta, Dense, LowRank
from ..errors import MixOfShowError
from ..families.layers import BIAS
from .community import community_metadata
from .header import check_header

FORMAT_VERSION = 1
METADATA_KEY = "mixofshow"
EMBEDDING_PREFIX = "mixofshow.embedding."
DELTA_SUFFIXES = (".lora_up.weight", ".lora_down.weight", ".alpha", ".diff", ".diff_b")


def save_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically: a crash or a full disk never damages what was there."""
    plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    try:
        with replacing(Path(path)) as part:
            save_file(plain, part, metadata=dict(metadata))
            with open(part, "rb+") as written:
                _sort_header(written)
    except (OSError, SafetensorError) as error:
        raise MixOfShowError(f"Could not write {path}: {error}. Free some space or choose another folder.") from error


def _sort_header(file: BinaryIO) -> None:
    """Put the header's keys in order: the library writes metadata in random order, and same content is same bytes."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    ordered = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    if len(ordered) <= length:  # shorter is padded with spaces, as the format allows
        file.seek(8)
        file.write(ordered.ljust(length))


def load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the header's metadata; a broken file is a MixOfShowError that names it."""
    path = Path(path)
    if not path.is_file():
        raise MixOfShowError(f"No file {path}. Put it into models/loras or models/loras/mixofshow and refresh.")
    check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise MixOfShowError(
            f"{path.name} is not a complete safetensors file ({error}). Copy or download it again."
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The header's metadata alone; empty for a file that has none, or is none."""
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (MixOfShowError, SafetensorError, OSError, ValueError):
        return {}


def check_finite(tensors: Mapping[str, Tensor], file_name: str) -> None:
    """Raise MixOfShowError at the first tensor that holds NaN or infinity."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise MixOfShowError(f"{file_name}: tensor {key!r} holds NaN or infinity; the file is damaged or diverged.")


def write_concept(path: Path, concept: Concept) -> None:
    """Save a concept; the file appears whole or not at all."""
    tensors = concept_tensors(concept)
    check_finite(tensors, Path(path).name)
    header = {
        "version": FORMAT_VERSION,
        "concepts": [describe_entry(entry) for entry in concept.entries],
        "base": {
            "family": concept.base.family,
            "fingerprint": concept.base.fingerprint,
            "layers": concept.base.layers,
        },
        "training": dict(concept.training),
        "content_hash": concept.content_hash,
    }
    metadata = {METADATA_KEY: json.dumps(header, sort_keys=True), **community_metadata(concept)}
    save_safetensors(path, tensors, metadata)


def is_native(metadata: Mapping[str, str]) -> bool:
    return METADATA_KEY in metadata


def read_concept(path: Path) -> Concept:
    """Load and check a concept file of ours; MixOfShowError names the file, the key and the reason."""
    tensors, metadata = load_safetensors(path)
    return parse_concept(tensors, metadata, Path(path).name)


def parse_concept(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file_name: str) -> Concept:
    """Build a Concept from a file's content (also used for tensors that are already in memory)."""
    if not is_native(metadata):
        raise MixOfShowError(f"{file_name} carries no {METADATA_KEY!r} header; it was not written by these nodes.")
    check_finite(tensors, file_name)
    try:
        header = json.loads(metadata[METADATA_KEY])
        version = header["version"]
        if version != FORMAT_VERSION:
            raise MixOfShowError(f"{file_name} has format version {version}; this release reads {FORMAT_VERSION}.")
        base = BaseInfo(
            str(header["base"]["family"]), header["base"].get("fingerprint"), int(header["base"].get("layers", 0))
        )
        entries = _parse_entries(header["concepts"], tensors, file_name)
        training = dict(header.get("training", {}))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise MixOfShowError(f"{file_name}: the {METADATA_KEY!r} header is not readable ({error!r}).") from error
    deltas = parse_deltas(tensors, file_name)
    try:
        return Concept(entries, deltas, base, training)
    except MixOfShowError as error:
        raise MixOfShowError(f"{file_name}: {error}") from error


def _parse_entries(described: list, tensors: Mapping[str, Tensor], file_name: str) -> tuple[ConceptEntry, ...]:
    entries, number = [], 0
    for item in described:
        words, embeddings = [], []
        for word in item["words"]:
            prefix = f"{EMBEDDING_PREFIX}{number}."
            rows = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            if not rows:
                raise MixOfShowError(f"{file_name}: no embedding tensor for word {word['text']!r} ({prefix}*).")
            words.append(Word(str(word["text"]), str(word.get("init", ""))))
            embeddings.append(LayeredEmbedding(rows, tuple(int(row) for row in word["index"])))
            number += 1
        entries.append(
            ConceptEntry(
                str(item["id"]),
                str(item["name"]),
                str(item.get("class", "")),
                str(item["kind"]),
                tuple(words),
                tuple(embeddings),
                bool(item.get("with_class", False)),
                str(item.get("trigger", "")),
            )
        )
    return tuple(entries)


def parse_deltas(tensors: Mapping[str, Tensor], file_name: str) -> dict[str, Delta]:
    """Deltas by layer name from the flat keys of a native file; an odd key is an error, not a silence."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(EMBEDDING_PREFIX):
            continue
        suffix = next((s for s in DELTA_SUFFIXES if key.endswith(s)), None)
        if suffix is None:
            raise MixOfShowError(f"{file_name}: key {key!r} is unknown; expected one of {', '.join(DELTA_SUFFIXES)}.")
        layer = key[: -len(suffix)]
        if suffix == ".diff_b":
            layer, suffix = layer + BIAS, ".diff"
        parts.setdefault(layer, {})[suffix] = tensor
    return {name: _parse_delta(name, found, file_name) for name, found in sorted(parts.items())}


def _parse_delta(name: str, found: Mapping[str, Tensor], file_name: str) -> Delta:
    try:
        if set(found) == {".diff"}:
            return Dense(found[".diff"])
        alpha = float(found[".alpha"]) if ".alpha" in found else None
        if alpha is not None and not math.isfinite(alpha):
            raise MixOfShowError(f"alpha is {alpha}.")
        return LowRank(found[".lora_up.weight"], found[".lora_down.weight"], alpha)
    except KeyError as error:
        raise MixOfShowError(f"{file_name}: layer {name!r} lacks {error.args[0]!r}.") from error
    except (MixOfShowError, RuntimeError, ValueError) as error:
        raise MixOfShowError(f"{file_name}: layer {name!r}: {error}") from error
