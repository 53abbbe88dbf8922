"""Our deltas as ordinary LoRA files: the host's keys, kohya's, diffusers' and PEFT's, each with its own scale rule.

The community's rule is alpha / rank. kohya and PEFT files carry alpha, so factors keep their bits; diffusers' single
file has none, so the scale goes into `up`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..concept import Concept, layer_tensors
from ..delta import Delta, Dense, LowRank
from ..errors import MixOfShowError
from ..families.layers import module_of
from ..families.names import NameTable
from .dialect import as_layer
from .native import save_safetensors


def stock_tensors(concept: Concept) -> dict[str, Tensor]:
    """The host's own generic keys, without embeddings: what the stock LoraLoader reads in every version."""
    tensors: dict[str, Tensor] = {}
    for layer, delta in concept.deltas.items():
        tensors |= layer_tensors(module_of(layer), layer, delta)
    return tensors


def kohya_tensors(concept: Concept, names: NameTable) -> dict[str, Tensor]:
    """kohya's flat names; alpha is always written (equal to the rank where the scale is 1)."""
    tensors: dict[str, Tensor] = {}
    family = concept.base.family
    for layer, delta in concept.deltas.items():
        prefix = names.of(layer).kohya
        if isinstance(delta, Dense):
            tensors |= layer_tensors(prefix, layer, delta)
            continue
        tensors[f"{prefix}.lora_up.weight"] = as_layer(layer, delta.up, family, "up")
        tensors[f"{prefix}.lora_down.weight"] = as_layer(layer, delta.down, family, "down")
        tensors[f"{prefix}.alpha"] = torch.tensor(float(delta.rank if delta.alpha is None else delta.alpha))
    return tensors


def diffusers_tensors(concept: Concept, names: NameTable) -> dict[str, Tensor]:
    """diffusers' single LoRA file (``load_lora_weights``); the scale is inside `lora_B`."""
    tensors: dict[str, Tensor] = {}
    family = concept.base.family
    for layer, delta in concept.deltas.items():
        row, factors = names.of(layer), _low_rank(layer, delta, "diffusers").scaled(1.0)
        tensors[f"{row.part}.{row.path}.lora_A.weight"] = as_layer(layer, factors.down, family, "down")
        tensors[f"{row.part}.{row.path}.lora_B.weight"] = as_layer(layer, factors.up, family, "up")
    return tensors


def write_peft(folder: Path, concept: Concept, names: NameTable) -> list[Path]:
    """PEFT adapter folders ``unet``, ``text_encoder``, ``text_encoder_2``, each for ``PeftModel.from_pretrained``."""
    parts: dict[str, dict[str, LowRank]] = {}
    for layer, delta in concept.deltas.items():
        row = names.of(layer)
        parts.setdefault(row.part, {})[row.path] = _low_rank(layer, delta, "PEFT")
    written = []
    for part, deltas in parts.items():
        tensors = {}
        for path, delta in deltas.items():
            layer = names.by_diffusers[part, path].layer
            # transformers 5 dropped `text_model.` from the paths of CLIP: both spellings are written, one is found.
            for spelling in {path, path.removeprefix("text_model.")}:
                prefix = f"base_model.model.{spelling}"
                tensors[f"{prefix}.lora_A.weight"] = as_layer(layer, delta.down, concept.base.family, "down")
                tensors[f"{prefix}.lora_B.weight"] = as_layer(layer, delta.up, concept.base.family, "up")
        target = Path(folder) / part
        save_safetensors(target / "adapter_model.safetensors", tensors, {"format": "pt"})
        config = json.dumps(_peft_config(deltas), indent=1, sort_keys=True)
        (target / "adapter_config.json").write_text(config, encoding="utf-8")
        written += [target / "adapter_model.safetensors", target / "adapter_config.json"]
    return written


def _peft_config(deltas: Mapping[str, LowRank]) -> dict:
    deltas = {path.removeprefix("text_model."): delta for path, delta in deltas.items()}  # matched by their endings
    ranks = {path: delta.rank for path, delta in deltas.items()}
    alphas = {path: delta.rank if delta.alpha is None else delta.alpha for path, delta in deltas.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(deltas),
        "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
    }


def _low_rank(layer: str, delta: Delta, dialect: str) -> LowRank:
    if isinstance(delta, LowRank):
        return delta
    raise MixOfShowError(f"Layer {layer!r} has a full-rank change; {dialect} files hold low rank only. Choose a size.")
