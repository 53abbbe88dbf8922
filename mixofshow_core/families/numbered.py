"""SD1.5's layers in the order in which programs of 2023 numbered them: that of diffusers' modules, not of execution."""

from __future__ import annotations

from dataclasses import dataclass

from .known import CLIP_L, SD15
from .layers import TEXT_PREFIX
from .names import NameTable

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")
LEVELS = (1, 2, 4, 4)  # channels of the resolutions, in those of the first
GEGLU = 8  # its output's width, in its input's


@dataclass(frozen=True)
class Numbered:
    """One linear: its layer's name, and what it writes and reads in channels of the first resolution; 0: the text."""

    layer: str
    writes: int
    reads: int


def numbered_unet(feed_forward: bool) -> tuple[Numbered, ...]:
    """Down, up, and then the middle block; `feed_forward`: with its first linear, between the two attentions."""
    names, found = NameTable(SD15.layout, {}).by_diffusers, []
    blocks = [block for _, block, kind, _ in SD15.layout.blocks() if kind == "attn"]
    for block in sorted(blocks, key=lambda block: block.startswith("mid_block")):  # stable
        wide = _channels(block)
        slots = [(f"attn1.{slot}", wide, wide) for slot in ATTENTION]
        slots += [("ff.net.0.proj", GEGLU * wide, wide)] * feed_forward
        slots += [(f"attn2.{slot}", wide, 0 if slot in ("to_k", "to_v") else wide) for slot in ATTENTION]
        found += [
            Numbered(names["unet", f"{block}.transformer_blocks.0.{slot}"].layer, writes, reads)
            for slot, writes, reads in slots
        ]
    return tuple(found)


def numbered_text() -> tuple[str, ...]:
    """The attention linears of CLIP, layer by layer."""
    prefix = f"{TEXT_PREFIX}{CLIP_L.name}.transformer.text_model.encoder.layers"
    return tuple(f"{prefix}.{layer}.self_attn.{slot}" for layer in range(CLIP_L.layers) for slot in TEXT)


def _channels(block: str) -> int:
    """Of `down_blocks.1.attentions.0` and the like, in those of the first resolution."""
    kind, level = block.split(".")[:2]
    if kind == "mid_block":
        return LEVELS[-1]
    return LEVELS[int(level)] if kind == "down_blocks" else LEVELS[-1 - int(level)]
