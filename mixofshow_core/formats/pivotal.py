"""Pivotal-tuning files of 2023 (the ``lora`` package, ED-LoRA's ancestor): numbered factors of SD1.5, and its words.

Which layer has which number stands in ``families/numbered.py``. ``<s1>`` is one vector for all layers. The scale is 1,
and no alpha is stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from torch import Tensor

from ..families.known import encoder_of_width
from ..families.numbered import Numbered, numbered_text, numbered_unet
from ..names import name_of_file
from .dialect import Reading, ReadResult, guess_base, make_entries

FACTOR = re.compile(r"(unet|text_encoder):(\d{1,4}):(up|down)")
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
        elif key.startswith("<") and key.endswith(">"):
            rows = reading.tensor(key, value, (1, 2))
            rows = rows[None] if rows.dim() == 1 else rows
            words[key] = {encoder_of_width(rows.shape[1]): rows}
        else:
            reading.skip(key, "neither a numbered factor nor a word", value)
            continue
        reading.used.append(key)
    if parts["unet"]:
        plans = {len(plan): plan for plan in map(numbered_unet, (True, False))}
        plan = plans[_checked_count("unet", parts["unet"], plans, reading)]
        _read_factors("unet", [layer.layer for layer in plan], parts["unet"], reading)
        _check_widths(plan, reading)
    if parts["text_encoder"]:
        layers = numbered_text()
        _checked_count("text_encoder", parts["text_encoder"], {len(layers): layers}, reading)
        _read_factors("text_encoder", layers, parts["text_encoder"], reading)
    entries = make_entries(words, reading, joined=True, name=name_of_file(PurePath(file_name).stem))
    return reading.result("pivotal tuning", entries, guess_base(reading.deltas, entries))


def _checked_count(part: str, factors: Factors, possible: Mapping[int, object], reading: Reading) -> int:
    if len(factors) not in possible:
        raise reading.fail(
            f"{part}:{max(factors)}",
            f"{len(factors)} layers are numbered; in SD1.5 there are {' or '.join(map(str, sorted(possible)))}. Files "
            "for other nets, and those that change convolutions, are not read",
        )
    return len(factors)


def _read_factors(part: str, layers, factors: Factors, reading: Reading) -> None:
    for number, layer in enumerate(layers):
        if set(factors.get(number, {})) != {"up", "down"}:
            raise reading.fail(f"{part}:{number}", "lacks one of its factors, or both; the numbers have no gaps")
        reading.low_rank(layer, f"{part}:{number}", factors[number]["up"], factors[number]["down"])


def _check_widths(plan: tuple[Numbered, ...], reading: Reading) -> None:
    """Widths follow from the first layer's: a file in another order would change other layers, without a word."""
    channels = reading.deltas[plan[0].layer].shape[1]
    text = next(reading.deltas[layer.layer].shape[1] for layer in plan if not layer.reads)
    for number, layer in enumerate(plan):
        shape, wanted = reading.deltas[layer.layer].shape, (layer.writes * channels, layer.reads * channels or text)
        if tuple(shape) != wanted:
            raise reading.fail(
                f"unet:{number}", f"changes a layer of {tuple(shape)}; SD1.5's layer of that number is {wanted}"
            )
