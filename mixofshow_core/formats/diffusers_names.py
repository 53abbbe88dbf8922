"""Names that diffusers and PEFT write today, as the kohya names that ComfyUI's parser knows.

diffusers: ``unet.<module>.lora.down.weight``, ``unet.<module>.lora_A.weight``, ``text_encoder.encoder.layers...`` or
``text_encoder.text_model.encoder.layers...`` (``text_encoder_2`` for SDXL's second encoder). PEFT puts
``base_model.model.`` in front of a module of the net that was trained, and may put the adapter's name behind
``lora_A``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

MAX_ALPHA = 1e6  # of a side file; NaN is not below it, and no integer of it is too long for a float
PEFT_PREFIX = "base_model.model."
UNET = re.compile(r"(?:unet\.)?((?:down_blocks|up_blocks|mid_block|time_embedding|add_embedding|conv_in|conv_out)\b.*)")
TEXT = re.compile(r"(?:text_encoder(_2)?\.)?(?:text_model\.)?(encoder\.layers\.\d+\..*)")
ENDING = re.compile(
    r"\.(?:lora_[AB](?:\.\w+)?\.weight|(?:lora_|lora\.|lora_linear_layer\.)(?:up|mid|down)\.weight|alpha|dora_scale"
    r"|hada_\w+|lokr_\w+|oft_blocks|[ab][12]\.weight|diff|diff_b|w_norm|b_norm)$"
)
ADAPTER = re.compile(r"\.(lora_[AB])\.\w+\.weight$")


def to_kohya_name(key: str) -> str:
    """The key with its module's name as kohya spells it; a key that is spelt otherwise comes back as it is."""
    name = key.removeprefix(PEFT_PREFIX)
    ending = ENDING.search(name)
    if ending is None or ".processor." in name:  # the spelling of 2023, which ComfyUI knows
        return key
    module, rest = name[: ending.start()], ADAPTER.sub(r".\1.weight", ending.group())
    unet, text = UNET.fullmatch(module), TEXT.fullmatch(module)
    if unet:
        return f"lora_unet_{unet[1].replace('.', '_')}{rest}"
    if text:
        # te1 is the first encoder to both families; te alone is not known to SDXL.
        return f"lora_te{2 if text[1] else 1}_text_model_{text[2].replace('.', '_')}{rest}"
    return key


def to_kohya_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under kohya's names. What stands twice counts once; what differs keeps its key."""
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = to_kohya_name(key)
        if name not in found:
            found[name] = value
        elif not torch.equal(found[name], value):
            found[key] = value
    return found


def peft_alphas(config: Mapping[str, object], keys: Iterable[str], ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """``alpha`` per module, under kohya's names, as an adapter_config.json states it (the weights file does not).

    ranks: rank by kohya name of the module. A pattern of the config means the modules whose path ends with it. With
    rank-stabilised LoRA the scale is alpha / sqrt(rank), so alpha grows by sqrt(rank). Odd values are passed over.
    """
    patterns = config.get("alpha_pattern")
    patterns = patterns if isinstance(patterns, Mapping) else {}
    found = {}
    for key in keys:
        ending = ENDING.search(key)
        if ending is None or not ending.group().startswith(".lora_A"):
            continue
        module = key[: ending.start()]
        fits = [value for pattern, value in patterns.items() if f".{module}".endswith(f".{pattern}")]
        alpha, name = (fits or [config.get("lora_alpha")])[0], to_kohya_name(key).removesuffix(".lora_A.weight")
        known = isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and abs(alpha) < MAX_ALPHA
        if known and name in ranks:
            found[f"{name}.alpha"] = torch.tensor(alpha * (ranks[name] ** 0.5 if config.get("use_rslora") else 1.0))
    return found
