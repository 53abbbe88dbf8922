"""Textual-inversion files: A1111, diffusers, SDXL pairs, and embeddings bundled inside a LoRA (``bundle_emb``).

A file with n vectors stands for n consecutive words, each with one row that serves all cross-attention layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..concept import BaseInfo, ConceptEntry
from ..families.known import encoder_of_width, name_of_width
from .dialect import Reading, ReadResult, embedding_width, make_entries, safe_concept_name

MAX_VECTORS = 128  # more tokens than a prompt can hold are no embedding
BUNDLE = re.compile(r"bundle_emb\.(?P<name>[^.]+(?:\.[^.]+)*?)\.(?P<slot>string_to_param\.\*|clip_[lg]|emb_params)")
ENCODER_NAMES = {
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "text_encoders_0": "clip_l",
    "text_encoders_1": "clip_g",
    "emb": "clip_l",
    "emb2": "clip_g",
}


def is_textual_inversion(tree: Mapping) -> bool:
    """True for a file that holds embedding vectors and nothing else."""
    if "string_to_param" in tree or "emb_params" in tree or (set(tree) and set(tree) <= set(ENCODER_NAMES)):
        return True
    return (
        bool(tree)
        and len(tree) <= 64
        and all(
            isinstance(value, Tensor)
            and value.dim() in (1, 2)
            and "." not in key
            and value.shape[-1] >= 8
            and (value.dim() == 1 or value.shape[0] <= MAX_VECTORS)
            for key, value in tree.items()
        )
    )


def read_textual_inversion(tree: Mapping, file_name: str) -> ReadResult:
    """A Concept without deltas. The plain name is the token in the file, else the file's own name."""
    reading = Reading(file_name)
    stem = file_name.rsplit(".", 1)[0]
    if "string_to_param" in tree:
        table = tree["string_to_param"] if isinstance(tree["string_to_param"], Mapping) else {}
        given = tree.get("name")
        token = given if isinstance(given, str) and given else stem
        chosen = "*" if "*" in table else next(iter(table), "*")
        found = {token: {"": table.get(chosen)}}
        reading.used.append("string_to_param")
        for key in table:
            if key != chosen:
                reading.skip(f"string_to_param.{key}", "a second embedding in one file", table[key])
        for key in tree:
            if key not in ("string_to_param", "name"):
                reading.skip(key, "a note of the program that wrote the file")
    elif set(tree) <= set(ENCODER_NAMES):
        found = {stem: {ENCODER_NAMES[key]: value for key, value in tree.items()}}
        reading.used += list(tree)
    else:
        found = {stem if token in ("emb_params", "*") else token: {"": value} for token, value in tree.items()}
        reading.used += list(tree)
    words: dict[str, dict[str, Tensor]] = {}
    for token, encoders in found.items():
        words.update(_split(token, encoders, reading))
    entries = make_entries(words, reading, joined=True, name=next(iter(found)) if len(found) == 1 else "")
    return reading.result("textual inversion", entries, _base(entries))


def read_bundle(tree: Mapping, file_name: str) -> tuple[tuple[ConceptEntry, ...], tuple[str, ...]]:
    """Entries for the embeddings inside a LoRA file, and the keys they came from; ((), ()) when there are none."""
    reading = Reading(file_name)
    found: dict[str, dict[str, object]] = {}
    for key, value in tree.items():
        match = BUNDLE.fullmatch(key)
        if match:
            encoder = match["slot"] if match["slot"] in ENCODER_NAMES else ""
            found.setdefault(match["name"], {})[encoder] = value
            reading.used.append(key)
    entries: list[ConceptEntry] = []
    for token, encoders in found.items():
        entries += make_entries(_split(token, encoders, reading), reading, joined=True, name=token)
    return tuple(entries), tuple(reading.used)


def _split(token: str, encoders: Mapping[str, object], reading: Reading) -> dict[str, dict[str, Tensor]]:
    """{word: {encoder: [1, D]}} with one word per vector: ``<token>``, or ``<token-1> <token-2> ...``."""
    rows: dict[str, Tensor] = {}
    for encoder, value in encoders.items():
        tensor = reading.tensor(token, value, (1, 2))
        tensor = tensor[None] if tensor.dim() == 1 else tensor
        rows[encoder or encoder_of_width(tensor.shape[1])] = tensor
    counts = {tensor.shape[0] for tensor in rows.values()}
    if len(counts) != 1 or max(counts) > MAX_VECTORS:
        raise reading.fail(token, f"has {sorted(counts)} vectors; equal numbers up to {MAX_VECTORS} are possible")
    count = counts.pop()
    core = token[1:-1] if token.startswith("<") and token.endswith(">") else token
    texts = [token] if count == 1 else [f"<{core}-{n + 1}>" for n in range(count)]
    return {text: {k: t[n : n + 1] for k, t in rows.items()} for n, text in enumerate(texts)}


def _base(entries: tuple[ConceptEntry, ...]) -> BaseInfo:
    return BaseInfo(name_of_width(embedding_width(entries)))


def embedding_file(entry: ConceptEntry) -> dict[str, Tensor]:
    """One embedding file for a whole concept: the mean row of each of its words, in order, as [words, D].

    One text encoder gives diffusers' ``{"<name>": rows}``, two give ``{clip_l, clip_g}``; common loaders know both.
    """
    encoders = sorted({encoder for embedding in entry.embeddings for encoder in embedding.rows})
    stacked = {
        encoder: torch.stack([e.mean(encoder).to(e.rows[encoder].dtype) for e in entry.embeddings])
        for encoder in encoders
    }
    if encoders == ["clip_l"]:
        return {f"<{safe_concept_name(entry.name)}>": stacked["clip_l"]}
    return stacked
