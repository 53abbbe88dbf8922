"""Names that diffusers and PEFT write today, as the kohya names that ComfyUI's parser knows.

diffusers: ``unet.<module>.lora.down.weight``, ``unet.<module>.lora_A.weight``, ``text_encoder.encoder.layers...`` or
``text_encoder.text_model.encoder.layers...`` (``text_encoder_2`` for SDXL's second encoder). PEFT puts
``base_model.model.`` in front of a module of the net that was trained, and may put the adapter's name behind
``lora_A``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MixOfShowError

MAX_ALPHA = 1e6  # of a side file; NaN is not below it, and no integer of it is too long for a float
PEFT_PREFIX = "base_model.model."
ANY_PEFT = re.compile(
    r"((?:unet|text_encoder(?:_2)?)\.)?base_model\.model\."
)  # a part of a pipeline may stand before it
PEFT_PARTS = ("unet", "text_encoder", "text_encoder_2")  # folders of an adapter, each with the two files below
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
UNET = re.compile(
    r"(?:unet\.)?((?:down_blocks|up_blocks|mid_block|time_embedding|add_embedding|conv_in|conv_norm_out|conv_out)\b.*)"
)
TEXT = re.compile(
    r"(?:text_encoder(_2)?\.)?(?:text_model\.)?(encoder\.layers\.\d+\..*|embeddings\.\w+|final_layer_norm)"
)
PROJECTION = re.compile(r"(?:text_encoder(_2)?\.)?text_projection")
ENDING = re.compile(
    r"\.(?:lora_[AB](?:\.[^.]+)?\.(?:weight|bias)|(?:lora_|lora\.|lora_linear_layer\.)(?:up|mid|down)\.weight|alpha|dora_scale"
    r"|hada_\w+|lokr_\w+|oft_blocks|[ab][12]\.weight|diff|diff_b|w_norm|b_norm)$"
)
RANKED = (".lora_A.weight", ".hada_w1_b", ".lokr_w1_b", ".lokr_w2_b")  # the factors whose first side is the rank
ADAPTER = re.compile(r"\.(lora_[AB])\.[^.]+\.(weight|bias)$")
PART = re.compile(r"^(?:unet|text_encoder(?:_2)?)\.")
PLAIN_PATTERN = re.compile(r"[\w.]+")
SLOW_PATTERN = re.compile(r"\)[*+?{]|\\[1-9]|\(\?[^:]")  # a repeated group, a reference, a look around
UP_BIAS = ".lora_B.bias"  # PEFT's lora_bias: added to a layer's output, times the scale, as a change of its bias


def peft_parts(folder: Path) -> list[Path]:
    """The weight files of a PEFT adapter that has a folder for every net."""
    return [path for part in PEFT_PARTS if (path := folder / part / PEFT_WEIGHTS).is_file()]


def to_kohya_name(key: str, second: bool = False) -> str:
    """The key with its module's name as kohya spells it; a key that is spelt otherwise comes back as it is.

    second: a PEFT file is of the second text encoder, which its names do not tell.
    """
    name = ANY_PEFT.sub(lambda found: found[1] or "", key, count=1) if ANY_PEFT.match(key) else key
    ending = ENDING.search(name)
    if ending is None or ".processor." in name:  # the spelling of 2023, which ComfyUI knows
        return key
    module, rest = name[: ending.start()], ADAPTER.sub(r".\1.\2", ending.group())
    unet, text, projection = (pattern.fullmatch(module) for pattern in (UNET, TEXT, PROJECTION))
    if unet:
        return f"lora_unet_{unet[1].replace('.', '_')}{rest}"
    # te1 is the first encoder to both families; te alone is not known to SDXL.
    if text:
        return f"lora_te{2 if second or text[1] else 1}_text_model_{text[2].replace('.', '_')}{rest}"
    return f"lora_te{2 if second or projection[1] else 1}_text_projection{rest}" if projection else key


def to_kohya_names(tensors: Mapping[str, Tensor], second: bool = False) -> dict[str, str]:
    """{kohya's name: key in the file}. What stands twice counts once; what differs keeps its key."""
    found: dict[str, str] = {}
    for key, value in tensors.items():
        name = to_kohya_name(key, second)
        if name not in found:
            found[name] = key
        elif value.shape != (other := tensors[found[name]]).shape or not torch.equal(other.float(), value.float()):
            found[key] = key
    return found


def peft_ranks(named: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Rank by kohya's name of the module, for the kinds of PEFT whose scale is alpha / rank: LoRA, LoHa, LoKr."""
    return {
        name.removesuffix(end): tensors[key].shape[0]
        for name, key in named.items()
        for end in RANKED
        if name.endswith(end) and tensors[key].dim()
    }


def peft_alphas(config: Mapping[str, object], named: Mapping[str, str], ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """``alpha`` per module, under kohya's names, as PEFT's configuration states it (the weights do not).

    named: {kohya's name: key in the file}; ranks: see `peft_ranks`. LoRA calls it ``lora_alpha``, LoHa and LoKr
    ``alpha``; ``alpha_pattern`` has other values for some modules. With rank-stabilised LoRA the scale is
    alpha / sqrt(rank), so alpha grows by sqrt(rank). Odd values are passed over.
    """
    found = {}
    for name, module in _modules(named, RANKED).items():
        alpha = _setting(config, "alpha", module) if name in ranks else None
        if alpha is not None:
            found[f"{name}.alpha"] = torch.tensor(alpha * (ranks[name] ** 0.5 if config.get("use_rslora") else 1.0))
    return found


def peft_scales(config: Mapping[str, object], named: Mapping[str, str], ranks: Mapping[str, int]) -> dict[str, float]:
    """alpha / rank by kohya's name of a whole second factor of LoKr, for modules without a factor that has the rank.

    PEFT scales these too; kohya's files do not, so that the host would not.
    """
    found = {}
    for name, module in _modules(named, (".lokr_w2",)).items():
        alpha, rank = (_setting(config, what, module) for what in ("alpha", "r"))
        if name not in ranks and alpha is not None and rank:
            found[f"{name}.lokr_w2"] = alpha / rank
    return found


def _modules(named: Mapping[str, str], ends: tuple[str, ...]) -> dict[str, str]:
    """{kohya's name of a module: what PEFT calls it} of the keys with one of these endings."""
    found = {}
    for full_name, key in named.items():
        end = next((end for end in ends if full_name.endswith(end)), None)
        if end is not None:
            plain = PART.sub("", ANY_PEFT.sub("", key, count=1))
            ending = ENDING.search(plain)  # which may hold the adapter's name, too
            found[full_name.removesuffix(end)] = plain[: ending.start()] if ending else plain
    return found


def _setting(config: Mapping[str, object], what: str, module: str) -> float | None:
    """``alpha`` or ``r`` of one module: of the first pattern that is its name or ends it, else the general one."""
    patterns = config.get("rank_pattern" if what == "r" else "alpha_pattern")
    patterns = patterns if isinstance(patterns, Mapping) else {}
    value = next((value for pattern, value in patterns.items() if _fits(str(pattern), module)), None)
    value = config.get(what, config.get(f"lora_{what}")) if value is None else value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < MAX_ALPHA else None


def _fits(pattern: str, module: str) -> bool:
    """As PEFT's ``get_pattern_key``; MixOfShowError for an expression that could take for ever, or is none."""
    if PLAIN_PATTERN.fullmatch(pattern):
        return f".{module}".endswith(f".{pattern}")
    try:
        slow = len(pattern) > 300 or SLOW_PATTERN.search(pattern) or len(re.findall(r"[*+{]", pattern)) > 3
        if not slow:
            return len(module) <= 200 and re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        pass
    raise MixOfShowError(
        f"{PEFT_CONFIG} (or the file's header) gives an alpha or a rank for the expression {pattern[:80]!r}, which is "
        "not read here. Write the names of the modules instead."
    )


def biases_for_the_host(named: Mapping[str, str], tensors: Mapping[str, Tensor], alphas: Mapping[str, Tensor]):
    """({kohya's name of a change of a bias: key in the file}, {that name: values}) of PEFT's biases."""
    keys, values = {}, {}
    for name, key in named.items():
        if name.endswith(UP_BIAS):
            module = name.removesuffix(UP_BIAS)
            alpha, down = alphas.get(f"{module}.alpha"), named.get(f"{module}.lora_A.weight")
            scale = 1.0 if alpha is None or down is None else float(alpha) / tensors[down].shape[0]
            keys[f"{module}.diff_b"], values[f"{module}.diff_b"] = key, tensors[key].float() * scale
    return keys, values


def configs_in(metadata: Mapping[str, str]) -> dict[str, dict]:
    """{part of the pipeline: PEFT's configuration} that diffusers writes into the header of its files since 2025."""
    try:
        found = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        items = [(*key.partition(".")[::2], value) for key, value in found.items()]
    except (ValueError, AttributeError, RecursionError):
        return {}
    parts: dict[str, dict] = {}
    for part, name, value in items:
        parts.setdefault(part, {})[name] = value
    return parts
