"""The rows, and who belongs to which. A new family is a row at the end (and whatever its kind of net needs)."""

from __future__ import annotations

import re
from collections.abc import Collection

from .family import COSMOS, UNET, Family, LanguageModel, TextEncoder, UNetLayout

UNKNOWN = "unknown"  # the family of a file that does not say and whose shapes do not tell
V_PREDICTION = "-v"  # behind a family's name

CLIP_L = TextEncoder("clip_l", "text_encoder", 768, 12, "quick_gelu")
CLIP_G = TextEncoder("clip_g", "text_encoder_2", 1280, 32, "gelu")
ENCODERS = {encoder.name: encoder for encoder in (CLIP_L, CLIP_G)}

SD15 = Family(
    name="sd15",
    title="SD1.5",
    encoders=(CLIP_L,),
    context_width=768,
    native_size=512,
    linear_projections=False,
    layout=UNetLayout(((1, 1), (1, 1), (1, 1), (0, 0)), 1, ((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1))),
    architecture="stable-diffusion-v1",
    base_version="sd_v1",
    batch=2,
)
SDXL = Family(
    name="sdxl",
    title="SDXL",
    encoders=(CLIP_L, CLIP_G),
    context_width=2048,
    native_size=1024,
    linear_projections=True,
    layout=UNetLayout(((0, 0), (2, 2), (10, 10)), 10, ((10, 10, 10), (2, 2, 2), (0, 0, 0))),
    architecture="stable-diffusion-xl-v1-base",
    base_version="sdxl_base_v1-0",
    mark="diffusion_model.label_emb.0.0",
    batch=1,
)
# Its text encoder is not one of ours. Named like every net of unknown context: sd-<width>.
SD2 = Family(
    name="sd-1024",
    title="SD2",
    encoders=(),
    context_width=1024,
    native_size=512,
    linear_projections=True,
    layout=SD15.layout,
    architecture="sd-1024",
    base_version="sd-1024",
    batch=2,
    runs=False,
)
QWEN3 = LanguageModel("qwen3_06b", width=1024, inner=2048, keys=1024, hidden=3072, layers=28)
# Both are one kind of net, and their files cannot be told apart: 2 B has 28 blocks of width 2048.
COSMOS2 = Family(
    name="cosmos2",
    title="Anima or Cosmos-Predict2",
    layout=None,
    encoders=(),
    context_width=1024,
    native_size=1024,
    linear_projections=True,
    architecture="anima",
    base_version="anima",
    batch=1,
    kind=COSMOS,
    depth=28,
)
FAMILIES = (SD15, SDXL, SD2, COSMOS2)

# What keys of other nets' LoRAs have in them: only for messages, so the first that is found is good enough.
SIGNS = {
    "Flux": r"(double|single)_blocks|single_transformer_blocks",
    "Qwen-Image": r"transformer_blocks[._]\d+[._](img|txt)_m(lp|od)|transformer_blocks[._]\d+[._]attn[._]to_",
    "SD3": r"joint_blocks",
    "Z-Image or Lumina2": r"layers[._]\d+[._](attention|feed_forward)[._]",
    "Wan": r"blocks[._]\d+[._](self|cross)_attn[._][qkvo]([._]|$)",
}


def plain_name(name: str) -> str:
    """The family's name whatever the net predicts."""
    return name.removesuffix(V_PREDICTION)


def find_family(name: str) -> Family | None:
    """The row of a name, with or without "-v"."""
    return next((row for row in FAMILIES if row.name == plain_name(name)), None)


def family_of_width(context_width: int | None) -> Family | None:
    """The row of a UNet whose cross-attention reads a text this wide."""
    return family_of_kind(UNET, context_width)


def family_of_kind(kind: str, context_width: int | None) -> Family | None:
    """The row of one kind of net: by the width of its text where the kind has several."""
    rows = [row for row in FAMILIES if row.kind == kind]
    return rows[0] if len(rows) == 1 else next((row for row in rows if row.context_width == context_width), None)


def family_of_layers(names: Collection[str], context_width: int | None) -> Family | None:
    """The row of a net with these layers, which a lean one of its kind shares, else of one that reads such a text."""
    marked = (row for row in FAMILIES if row.mark and row.mark in names)
    return next(marked, None) or family_of_width(context_width)


def name_of_width(context_width: int | None) -> str:
    """The name of a family that can be used, by the width of its text."""
    row = family_of_width(context_width)
    return row.name if row is not None and row.runs else UNKNOWN


def family_by_signs(keys: Collection[str]) -> str:
    """What people call the net that these keys of a LoRA are for, of those without a row; empty if nothing tells."""
    return next((title for title, sign in SIGNS.items() if any(re.search(sign, key) for key in keys)), "")


def encoder_of_width(width: int) -> str:
    """The text encoder whose rows are this wide, clip_l if none is."""
    return next((encoder.name for encoder in ENCODERS.values() if encoder.width == width), CLIP_L.name)
