"""Files that hold whole weights: Custom Diffusion's "deltas", diffusers' layout of them, and Mix-of-Show's fused nets.

Whole weights say nothing without the base they came from, so these readers take the base's weights and keep the
difference. Only Custom Diffusion's compressed files hold true differences (``u @ v``) and need no base.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from ..concept import Concept, LayeredEmbedding
from ..delta import Delta, Dense, LowRank
from ..errors import MixOfShowError
from ..families.family import UNetLayout
from ..families.known import ENCODERS, encoder_of_width
from ..families.layers import BIAS, ROLE_CROSS_KV, TEXT_PREFIX, UNET_PREFIX
from ..families.names import NameTable, guess_layout
from ..families.nets import reads_text, role_of
from .dialect import TEXT_LAYER, Reading, ReadResult, guess_base, make_entries
from .edlora import EMBEDDINGS, FACTOR

BaseWeights = Mapping[str, Tensor]  # layer name -> weight, fp32 or as stored; may be lazy
HOST_PREFIX = "model.diffusion_model."
TEXT_PARTS = {encoder.part: encoder.name for encoder in ENCODERS.values()}
CUSTOM_KEY = re.compile(r"(.+\.attn2)\.processor\.(to_[kqv]|to_out)_custom_diffusion(\.0)?\.(weight|bias)")


def is_absolute(tree: Mapping) -> bool:
    """True for a tree (out of ``params`` or not) that holds whole weights by module, or compressed differences."""
    return bool(_unet_table(tree)) and not any(FACTOR.fullmatch(key) for key in _unet_table(tree))


def _unet_table(tree: Mapping) -> dict[str, object]:
    """The UNet part of any of these files, with its keys as they stand but without the prefix."""
    if isinstance(tree.get("unet"), Mapping):
        return {k: v for k, v in tree["unet"].items() if k.endswith((".weight", ".bias"))}
    state = tree.get("state_dict") if isinstance(tree.get("state_dict"), Mapping) else tree
    found = {k.removeprefix(HOST_PREFIX): v for k, v in state.items() if k.startswith(HOST_PREFIX)}
    return found or {k: v for k, v in state.items() if CUSTOM_KEY.fullmatch(k)}


def read_absolute(
    tree: dict,
    file_name: str,
    base: BaseWeights | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> ReadResult:
    """A Concept whose deltas are the file's weights minus those of `base` (layers that did not change are left out).

    `tree` is used up: its tensors become the differences, so that no file needs more than twice its size in memory.
    Raises MixOfShowError when whole weights are met without a base, or when their shapes differ. `step(done, total)` is
    called for every key.
    """
    reading = Reading(file_name)
    table, words = _unet_table(tree), _read_words(tree, reading)
    width = next((_width(v) for k, v in table.items() if reads_text(k.removesuffix(".weight"))), None)
    host = any(k.startswith(("input_blocks", "output_blocks", "middle_block")) for k in table)
    layout = _layout(table, width, base)
    names = NameTable(layout, {})
    # <potter1> <potter2> of a fused net are one concept; Custom Diffusion numbers its concepts <new1>, <new2>.
    joined, texts = EMBEDDINGS[0] in tree, {part: tree.pop(part, None) for part in TEXT_PARTS}
    for part in tree.values():
        if isinstance(part, dict):
            part.clear()
    tree.clear()
    total, done = len(table) + sum(len(text) for text in texts.values() if isinstance(text, dict)), 0
    for key in list(table):
        step(done := done + 1, total)
        value = table.pop(key)
        path, kind = _path_of(key)
        row = names.by_layer.get(UNET_PREFIX + path) if host else names.by_diffusers.get(("unet", path))
        if row is None or kind not in ("weight", "bias"):
            why = f"no such layer in a net with {layout.cross_attention_count} cross-attention layers"
            reading.skip(key, why, value)
        else:
            _add(reading, row.layer + (BIAS if kind == "bias" else ""), f"unet.{key}", value, base)
    for part, encoder in TEXT_PARTS.items():
        text = texts[part] if isinstance(texts[part], dict) else {}
        for key in list(text):
            step(done := done + 1, total)
            value = text.pop(key)
            path, _, kind = key.rpartition(".")
            match = TEXT_LAYER.fullmatch(path)
            if match and kind in ("weight", "bias"):
                layer = f"{TEXT_PREFIX}{encoder}.transformer.text_model.{match[1]}{BIAS if kind == 'bias' else ''}"
                _add(reading, layer, f"{part}.{key}", value, base)
            else:
                reading.skip(f"{part}.{key}", "only the layers of a text encoder are compared", value)
    entries = make_entries(words, reading, joined=joined)
    kind = "Custom Diffusion" if all(role_of(layer) == ROLE_CROSS_KV for layer in reading.deltas) else "fused weights"
    return reading.result(kind, entries, guess_base(reading.deltas, entries))


def _width(value: object) -> int | None:
    value = value.get("v") if isinstance(value, Mapping) else value
    return value.shape[1] if isinstance(value, Tensor) and value.dim() > 1 else None


def _layout(table: Mapping[str, object], width: int | None, base: BaseWeights | None) -> UNetLayout:
    """The base knows its own layout best; else the file's names tell."""
    if base is not None:
        paths = [name.removeprefix(UNET_PREFIX) for name in base if name.startswith(UNET_PREFIX)]
        if paths:
            return guess_layout(paths)
    return guess_layout((_path_of(key)[0] for key in table), width)


def _path_of(key: str) -> tuple[str, str]:
    match = CUSTOM_KEY.fullmatch(key)
    if match:
        return f"{match[1]}.{match[2]}{'.0' if match[2] == 'to_out' else ''}", match[4]
    path, _, kind = key.rpartition(".")
    return path, kind


def _add(reading: Reading, layer: str, key: str, value: object, base: BaseWeights | None) -> None:
    if isinstance(value, Mapping):
        if set(value) != {"u", "v"}:
            raise reading.fail(key, f"holds {sorted(value)[:4]}; a compressed layer holds u and v")
        reading.low_rank(layer, key, value["u"], value["v"])
        reading.used.append(key)
        return
    weight = reading.tensor(key, value, (1, 2, 4))
    if base is None:
        raise MixOfShowError(
            f"{reading.file_name} holds whole weights ({key!r}), not a difference: give the base model it was made "
            "from (connect MODEL and CLIP, or --base CHECKPOINT)."
        )
    if layer not in base:
        reading.skip(key, "the base has no such layer", value)
        return
    original = base[layer]
    if original.shape != weight.shape:
        raise reading.fail(key, f"is {tuple(weight.shape)}, but the base has {tuple(original.shape)} there")
    reading.used.append(key)
    # Compared in the file's own precision: rounding the base to fp16 is no change.
    if not bool((original.to(weight.dtype) == weight).all()):
        # Kept in that precision too: the change is smaller than the weight, so its rounding is as well.
        reading.deltas[layer] = Dense(weight.float().sub_(original.float()).to(weight.dtype))


def _read_words(tree: Mapping, reading: Reading) -> dict[str, dict[str, Tensor]]:
    words: dict[str, dict[str, Tensor]] = {}
    state = tree.get("state_dict") if isinstance(tree.get("state_dict"), Mapping) else {}
    tables: list[tuple[str, Iterable[tuple[str, object]]]] = [
        (part, tree[part].items()) for part in EMBEDDINGS if isinstance(tree.get(part), Mapping)
    ]
    if "embed" in state:
        rows = reading.tensor("state_dict.embed", state["embed"], (1, 2))
        tables.append(("embed", [(f"<new{n + 1}>", row) for n, row in enumerate(rows.reshape(-1, rows.shape[-1]))]))
    for part, items in tables:
        for word, value in items:
            encoders = value if isinstance(value, Mapping) else {"": value}  # fused SDXL folders have two
            for encoder, rows in encoders.items():
                rows = reading.tensor(f"{part}.{word}", rows, (1, 2))
                rows = rows[None] if rows.dim() == 1 else rows
                encoder = encoder if encoder in ENCODERS else encoder_of_width(rows.shape[1])
                words.setdefault(word, {})[encoder] = rows
            reading.used.append(f"{part}.{word}")
    return words


def custom_diffusion_tree(
    deltas: Mapping[str, Delta], concept: Concept, names: NameTable, base: BaseWeights | None
) -> tuple[dict, list[str]]:
    """A Custom Diffusion file's tree in diffusers' names, and what it cannot hold.

    Low-rank deltas become ``{u, v}`` when `base` is None (the compressed form), else whole weights. Only
    cross-attention keys and values fit, and one embedding row per word.
    """
    lost, tree = [], {"unet": {}, "modifier_token": {}}
    for layer, delta in deltas.items():
        if role_of(layer) != ROLE_CROSS_KV:
            continue
        key = f"{names.of(layer).path}.weight"
        if base is None:
            if not isinstance(delta, LowRank):
                raise MixOfShowError(f"Layer {layer!r} has a full-rank change; the compressed form needs low rank.")
            tree["unet"][key] = {"u": delta.scaled(1.0).up, "v": delta.down}
        elif layer in base:
            tree["unet"][key] = base[layer].float() + delta.dense()
        else:
            raise MixOfShowError(f"The base model has no layer {layer!r}; give the base this concept was made for.")
    others = sum(role_of(layer) != ROLE_CROSS_KV for layer in deltas)
    if others:
        lost.append(f"{others} of {len(deltas)} layers: only cross-attention keys and values fit")
    for entry in concept.entries:
        for word, embedding in zip(entry.words, entry.embeddings, strict=True):
            tree["modifier_token"][word.text] = mean_row(embedding)
            if embedding.layers > 1:
                lost.append(f"the layers of {word.text}: one mean row of {embedding.layers} is kept")
    return tree, lost


def mean_row(embedding: LayeredEmbedding) -> Tensor:
    """[D], in the embedding's own dtype; MixOfShowError for words with rows for two text encoders."""
    if set(embedding.rows) != {"clip_l"}:
        raise MixOfShowError(f"A word has rows for {sorted(embedding.rows)}; this format holds one text encoder.")
    rows = embedding.rows["clip_l"]
    return rows[embedding.index[0]] if len(set(embedding.index)) == 1 else embedding.mean("clip_l").to(rows.dtype)
