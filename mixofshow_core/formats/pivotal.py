"""Pivotal-tuning files of 2023 (the ``lora`` package, ED-LoRA's ancestor): numbered factors of SD1.5, and its words.

``unet:N:up|down`` and ``text_encoder:N:up|down`` are numbered in the order in which the program walked diffusers'
modules: down blocks, up blocks, and then the middle one; keys, values, queries and outputs of each layer of the text
encoder. ``<s1>`` is one vector for all layers. The scale is 1, and no alpha is stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from torch import Tensor

from ..families.known import CLIP_L, SD15, encoder_of_width
from ..families.layers import TEXT_PREFIX
from ..families.names import NameTable
from ..names import name_of_file
from .dialect import Reading, ReadResult, guess_base, make_entries

FACTOR = re.compile(r"(unet|text_encoder):(\d{1,4}):(up|down)")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = "ff.net.0.proj"  # there where the program was told to walk GEGLU, too
TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")
LEVELS = (1, 2, 4, 4)  # channels of SD1.5's resolutions, in those of the first
Factors = dict[int, dict[str, object]]


def is_pivotal(tree: Mapping) -> bool:
    """True for a tree with a numbered factor."""
    return any(FACTOR.fullmatch(key) for key in tree)


def read_pivotal(tree: Mapping, file_name: str) -> ReadResult:
    """A Concept from such a file. MixOfShowError where its numbers, or its widths, are not those of SD1.5."""
    reading = Reading(file_name)
    parts: dict[str, Factors] = {"unet": {}, "text_encoder": {}}
    words: dict[str, dict[str, Tensor]] = {}
    for key, value in tree.items():
        if match := FACTOR.fullmatch(key):
            parts[match[1]].setdefault(int(match[2]), {})[match[3]] = value
            reading.used.append(key)
        elif key.startswith("<") and key.endswith(">"):
            rows = reading.tensor(key, value, (1, 2))
            rows = rows[None] if rows.dim() == 1 else rows
            words[key] = {encoder_of_width(rows.shape[1]): rows}
            reading.used.append(key)
        else:
            reading.skip(key, "neither a numbered factor nor a word", value)
    for part, factors in parts.items():
        layers = _layers(part, len(factors), reading) if factors else []
        for number, layer in enumerate(layers):
            if set(factors.get(number, {})) != {"up", "down"}:
                raise reading.fail(f"{part}:{number}", "lacks one of its factors, or both; the numbers have no gaps")
            reading.low_rank(layer, f"{part}:{number}", factors[number]["up"], factors[number]["down"])
    _check_widths(reading)
    entries = make_entries(words, reading, joined=True, name=name_of_file(PurePath(file_name).stem))
    return reading.result("pivotal tuning", entries, guess_base(reading.deltas, entries))


def _layers(part: str, count: int, reading: Reading) -> list[str]:
    """Our names of that many layers, in the file's order."""
    if part == "text_encoder":
        possible = {len(names): names for names in [_text_layers()]}
    else:
        possible = {len(names): names for names in map(_unet_layers, (True, False))}
    if count not in possible:
        raise reading.fail(
            f"{part}:{count - 1}",
            f"{count} layers are numbered; in SD1.5 there are {' or '.join(map(str, sorted(possible)))} in attention "
            "(and its feed-forward). Files of other nets, and those with convolutions, are not read",
        )
    return possible[count]


def _unet_layers(feed_forward: bool) -> list[str]:
    names = NameTable(SD15.layout, {}).by_diffusers
    blocks = [block for _, block, kind, _ in SD15.layout.blocks() if kind == "attn"]
    walked = sorted(blocks, key=lambda block: block.startswith("mid_block"))  # stable: down, up, middle
    slots = [f"attn1.{slot}" for slot in ATTENTION] + [FEED_FORWARD] * feed_forward + [f"attn2.{s}" for s in ATTENTION]
    return [names["unet", f"{block}.transformer_blocks.0.{slot}"].layer for block in walked for slot in slots]


def _text_layers() -> list[str]:
    prefix = f"{TEXT_PREFIX}{CLIP_L.name}.transformer.text_model.encoder.layers"
    return [f"{prefix}.{layer}.self_attn.{slot}" for layer in range(CLIP_L.layers) for slot in TEXT]


def _check_widths(reading: Reading) -> None:
    """Each block is as wide as SD1.5's is beside the first: another order would put a change elsewhere in silence."""
    names = NameTable(SD15.layout, {}).by_layer
    first = None
    for layer, delta in reading.deltas.items():
        if layer.startswith(TEXT_PREFIX):
            continue
        path = names[layer].path
        width = delta.shape[1] if ".attn2.to_k" not in path and ".attn2.to_v" not in path else delta.shape[0]
        block = path.partition(".transformer_blocks")[0]
        first = first or width / _channels(block)
        out = 8 * width if path.endswith(FEED_FORWARD) else width
        if width != first * _channels(block) or delta.shape[0] != out:
            raise reading.fail(path, f"the change is {delta.shape}, which does not fit SD1.5's layer of that number")


def _channels(block: str) -> int:
    """Of `down_blocks.1.attentions.0` and the like, in those of the first resolution."""
    kind, level = block.split(".")[:2]
    return {"down_blocks": LEVELS, "up_blocks": LEVELS[::-1], "mid_block": LEVELS[-1:]}[kind][
        0 if kind == "mid_block" else int(level)
    ]
