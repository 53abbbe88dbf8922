"""Mix-of-Show's own ED-LoRA files: both key dialects and the older names, read and written.

A file is a tree ``{new_concept_embedding: {word: [layers, D]}, text_encoder: {...}, unet: {...}}`` in diffusers' names,
usually inside ``params``. Its scale is a plain factor, never divided by the rank, and it is not stored: 1 is assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..bounds import meaning
from ..concept import CONTEXT, Concept
from ..delta import Dense
from ..errors import MixOfShowError
from ..families.known import ENCODERS, encoder_of_width
from ..families.layers import TEXT_PREFIX
from ..families.names import NameTable, guess_layout
from ..families.nets import reads_text
from .dialect import (
    TEXT_LAYER,
    Reading,
    ReadResult,
    as_layer,
    guess_base,
    is_kernel,
    make_entries,
)

EMBEDDINGS = ("new_concept_embedding", "new_concept_token", "modifier_token")  # newest name first
PARTS = {"unet": "", **{encoder.part: encoder.name for encoder in ENCODERS.values()}}
FACTOR = re.compile(r"(?P<path>.+?)(?:\.lora_(?P<new>up|down)\.weight|_lora\.(?P<old>up|down)\.weight)")
STYLES = {"main": ".lora_{}.weight", "research": "_lora.{}.weight"}  # how the keys of a factor end


def is_edlora(tree: Mapping) -> bool:
    """True for a tree (already taken out of ``params``) with parts of an ED-LoRA and low-rank factors or word rows."""
    parts = [tree[part] for part in PARTS if isinstance(tree.get(part), dict)]
    factors = any(FACTOR.fullmatch(key) for part in parts for key in part)
    words = any(isinstance(tree.get(name), dict) for name in EMBEDDINGS)
    return factors or (words and not any(parts))


def nest(tensors: Mapping[str, Tensor]) -> dict:
    """The tree of an ED-LoRA that was saved flat, as a safetensors file must be: ``unet.<path>...``."""
    tree: dict[str, dict] = {}
    for key, value in tensors.items():
        key = key.removeprefix("params.")
        part, _, rest = key.partition(".")
        if part in PARTS or part in EMBEDDINGS:
            tree.setdefault(part, {})[rest] = value
        else:
            tree[key] = value
    return tree


def read_edlora(tree: Mapping, file_name: str) -> ReadResult:
    """A Concept from an ED-LoRA tree. MixOfShowError names the key and the reason."""
    reading = Reading(file_name)
    for key, value in tree.items():
        if key not in PARTS and key not in EMBEDDINGS:
            reading.skip(key, "not a part of an ED-LoRA file", value)
        elif not isinstance(value, Mapping):
            raise reading.fail(key, f"holds a {type(value).__name__}; a table of tensors belongs there")
    words = _read_words(tree, reading)
    pairs = {part: _pair_up(tree.get(part, {}), part, reading) for part in PARTS}
    paths = list(pairs["unet"])
    width = next((_width(pairs["unet"][path]["down"][1]) for path in paths if reads_text(path)), None)
    layout = guess_layout(paths, width)
    names = NameTable(layout, {})
    for part, found in pairs.items():
        for path, factors in found.items():
            layer = _layer_name(part, path, names)
            if layer is None:
                for key, value in factors.values():
                    reading.skip(key, f"no such layer in a net with {layout.cross_attention_count} layers", value)
                continue
            reading.low_rank(layer, f"{part}.{path}", factors["up"][1], factors["down"][1])
            reading.used += [key for key, _ in factors.values()]
    rows = {value.shape[0] for encoders in words.values() for value in encoders.values()} - {1}
    if paths and rows - {layout.cross_attention_count}:
        raise MixOfShowError(
            f"{file_name}: a word has {max(rows)} rows, but the file's own UNet layers belong to a net with "
            f"{layout.cross_attention_count} cross-attention layers."
        )
    entries = make_entries(words, reading, joined=True)
    return reading.result("ED-LoRA", entries, guess_base(reading.deltas, entries))


def _width(value: object) -> int | None:
    return value.shape[1] if isinstance(value, Tensor) and value.dim() > 1 else None


def _read_words(tree: Mapping, reading: Reading) -> dict[str, dict[str, Tensor]]:
    words: dict[str, dict[str, Tensor]] = {}
    for part in EMBEDDINGS:
        for word, value in tree.get(part, {}).items():
            key = f"{part}.{word}"
            if word in words:
                reading.skip(key, "the word has rows under a newer key as well", value)
                continue
            rows = reading.tensor(key, value, (1, 2))
            rows = rows[None] if rows.dim() == 1 else rows
            words[word] = {encoder_of_width(rows.shape[1]): rows}
            reading.used.append(key)
    return words


def _pair_up(part: Mapping, part_name: str, reading: Reading) -> dict[str, dict[str, tuple[str, object]]]:
    """{diffusers path: {up, down}}, each with its key in the file; a factor without its partner is an error."""
    pairs: dict[str, dict[str, tuple[str, object]]] = {}
    for key, value in part.items():
        match = FACTOR.fullmatch(key)
        if match is None:
            reading.skip(f"{part_name}.{key}", "not a low-rank factor", value)
            continue
        path = match["path"].replace(".processor.to_", ".to_")
        path = f"{path}.0" if path.endswith(".to_out") else path
        pairs.setdefault(path, {})[match["new"] or match["old"]] = f"{part_name}.{key}", value
    for path, factors in pairs.items():
        if len(factors) != 2:
            raise reading.fail(f"{part_name}.{path}", f"has lora {next(iter(factors))} but not its partner")
    return pairs


def _layer_name(part: str, path: str, names: NameTable) -> str | None:
    if part == "unet":
        row = names.by_diffusers.get(("unet", path))
        return row.layer if row else None
    match = TEXT_LAYER.fullmatch(path)
    return f"{TEXT_PREFIX}{PARTS[part]}.transformer.text_model.{match[1]}" if match else None


def edlora_tree(concept: Concept, names: NameTable, style: str = "main", where: str = "the concept") -> dict:
    """The tree of a reference-compatible ED-LoRA; scales are folded into `up`, one row per layer is written.

    Raises MixOfShowError for what the format cannot hold: a second text encoder, and full-rank changes (compress
    them first).
    """
    meaning("ED-LoRA key style", style, STYLES)
    if any(CONTEXT in e.rows for entry in concept.entries for e in entry.embeddings):
        raise MixOfShowError(f"{where} has words as rows of an encoded text; the ED-LoRA format has no such words.")
    if any(name.startswith(f"{TEXT_PREFIX}clip_g") for name in concept.deltas) or any(
        set(e.rows) != {"clip_l"} for entry in concept.entries for e in entry.embeddings
    ):
        raise MixOfShowError(f"{where} uses two text encoders (SDXL); the ED-LoRA format has one. Choose another.")
    tree: dict[str, dict[str, Tensor]] = {EMBEDDINGS[0]: {}, "text_encoder": {}, "unet": {}}
    layers = names.layout.cross_attention_count
    for entry in concept.entries:
        for word, embedding in zip(entry.words, entry.embeddings, strict=True):
            rows = embedding.per_layer("clip_l")
            tree[EMBEDDINGS[0]][word.text] = rows.expand(layers, -1) if embedding.layers == 1 else rows
    for layer, delta in concept.deltas.items():
        row = names.of(layer, where)
        if isinstance(delta, Dense):
            raise MixOfShowError(f"{where}: layer {layer!r} has a full-rank change; choose a `size` to compress it.")
        if is_kernel(layer):
            raise MixOfShowError(
                f"{where} changes {layer!r}, a 3x3 convolution; ED-LoRA files hold linear layers and "
                "1x1 convolutions. Choose the format kohya, diffusers or concept."
            )
        for side, matrix in (("down", delta.down), ("up", delta.scaled(1.0).up)):
            key = row.path + meaning("ED-LoRA key style", style, STYLES).format(side)
            tree[row.part][key] = as_layer(layer, matrix, concept.base.family, side)
    return tree


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Tensor]:
    """A nested tree of tensors with dotted keys."""
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
