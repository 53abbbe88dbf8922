"""Community LoRA files through the host's own parser: kohya, PEFT, diffusers and LyCORIS names become our layer names.

No checkpoint is needed: the host's key maps are built from its SD1.5 and SDXL classes on the meta device (no memory).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import comfy.model_base
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.weight_adapter
import torch
from torch import Tensor

from ...mixofshow_core import formats
from ...mixofshow_core.concept import LAYER_PATTERN, BaseInfo, Concept, ConceptEntry, Delta, Dense, LowRank
from ...mixofshow_core.errors import MixOfShowError
from ...mixofshow_core.formats.native import check_finite
from ...mixofshow_core.formats.read import load_tree
from ...mixofshow_core.topology import TEXT_PREFIX, UNET_PREFIX
from .model import UNKNOWN_FAMILY

log = logging.getLogger("mixofshow")

COMMUNITY = "community LoRA"
CONTEXT_WIDTHS = {768: "sd15", 2048: "sdxl"}
EXPECTED = "names like lora_unet_*, lora_te_*, unet.*, text_encoder.* or diffusion_model.*"


@dataclass(frozen=True)
class ReadFile:
    """A concept file of any dialect. skipped: keys that were left out; tags: the most frequent training tags."""

    concept: Concept
    dialect: str
    skipped: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def read_any(path: Path, name: str = "", base: Mapping[str, Tensor] | None = None) -> ReadFile:
    """Read a file of any dialect; `name` renames a single concept, or names a LoRA that brings none.

    `base` gives weights by layer name for files that hold whole weights (fused nets, Custom Diffusion).
    """
    result = formats.read_any(path, base, name)
    if result.kind != "lora":
        return ReadFile(result.concept, result.kind, tuple(f"{key} ({why})" for key, why in result.skipped))
    tensors, metadata = load_tree(path)
    check_finite({key: value for key, value in tensors.items() if isinstance(value, Tensor)}, path.name)
    tensors = {key: value for key, value in tensors.items() if key not in result.used and isinstance(value, Tensor)}
    found = _read_foreign(path, tensors, metadata, "" if result.concept else name)
    if result.concept is None:
        return found
    concept = replace(found.concept, entries=result.concept.entries)
    return replace(found, concept=concept.renamed(name) if name else concept)


def _read_foreign(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str], name: str) -> ReadFile:
    try:
        return _parse(path, comfy.lora_convert.convert_lora(dict(tensors)), metadata, name)
    except MixOfShowError:
        raise
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise MixOfShowError(
            f"{path.name}: ComfyUI's LoRA parser stops at {str(error)[:200]}: a part is missing or has a wrong shape. "
            "Copy or download the file again."
        ) from error


def _parse(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> ReadFile:
    best: tuple[dict, Mapping[str, torch.Size], set[str]] = ({}, {}, set())
    for family in ("sd15", "sdxl"):
        key_map, shapes = _key_map(family)
        loaded = comfy.lora.load_lora(dict(tensors), key_map, log_missing=False)
        if len(loaded) > len(best[0]):
            best = (loaded, shapes, {prefix for prefix in key_map if _brings(tensors, prefix)})
    patches, shapes, prefixes = best
    deltas, skipped = _to_deltas(patches, shapes, path.name)
    skipped += [key for key in tensors if not any(key.startswith(f"{prefix}.") for prefix in prefixes)]
    if not deltas:
        first = ", ".join(sorted(tensors)[:4]) or "nothing"
        raise MixOfShowError(f"{path.name} holds no LoRA for SD1.5 or SDXL. It has: {first}. Expected {EXPECTED}.")
    if skipped:
        log.info("%s: %d keys are not used, the first: %s", path.name, len(skipped), ", ".join(sorted(skipped)[:3]))
    entries = (ConceptEntry(f"lora-{name.lower()}", name),) if name else ()
    concept = Concept(entries, dict(sorted(deltas.items())), BaseInfo(_family(deltas)), {"source": COMMUNITY})
    return ReadFile(concept, COMMUNITY, tuple(sorted(skipped)), _tags(metadata))


def _brings(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    endings = ("lora_up.weight", "lora_A.weight", "lora.up.weight", "diff", "hada_w1_a", "lokr_w1", "lokr_w1_a",
               "lora_B.default.weight", "lora_linear_layer.up.weight", "lora_B.weight", "lora_B", "lora_A")  # fmt: skip
    return any(f"{prefix}.{ending}" in tensors or f"{prefix}_{ending}" in tensors for ending in endings)


def _key_map(family: str) -> tuple[dict[str, str], dict[str, torch.Size]]:
    """The host's LoRA names for one family -> weight keys, and the weights' shapes."""
    common = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_temporal_attention": False,
        "use_temporal_resblock": False, "use_spatial_transformer": True, "legacy": False, "use_checkpoint": False,
        "dtype": torch.float16,
    }  # fmt: skip
    if family == "sd15":
        config = comfy.supported_models.SD15(common | {
            "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2,
            "transformer_depth_middle": 1, "transformer_depth_output": [1] * 9 + [0] * 3, "num_heads": 8,
            "num_head_channels": -1, "use_linear_in_transformer": False, "context_dim": 768, "adm_in_channels": None,
        })  # fmt: skip
        model_class, text_class = comfy.model_base.BaseModel, comfy.sd1_clip.SD1ClipModel
    else:
        config = comfy.supported_models.SDXL(common | {
            "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10, "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3, "num_heads": -1,
            "num_head_channels": 64, "use_linear_in_transformer": True, "context_dim": 2048, "adm_in_channels": 2816,
            "num_classes": "sequential",
        })  # fmt: skip
        model_class, text_class = comfy.model_base.SDXL, comfy.sdxl_clip.SDXLClipModel
    config.set_inference_dtype(torch.float16, None)
    model = model_class(config, device="meta")
    text = text_class(device="meta", dtype=torch.float16)
    keys = comfy.lora.model_lora_keys_unet(model, {})
    keys = comfy.lora.model_lora_keys_clip(text, keys)
    shapes = {key: value.shape for module in (model, text) for key, value in module.state_dict().items()}
    return {name: key for name, key in keys.items() if isinstance(key, str)}, shapes


def _to_deltas(
    patches: Mapping[str, object], shapes: Mapping[str, torch.Size], file_name: str
) -> tuple[dict[str, Delta], list[str]]:
    """The host's patches as deltas by layer name; what is no change of a weight matrix goes to the second list."""
    deltas: dict[str, Delta] = {}
    skipped: list[str] = []
    for key, patch in patches.items():
        name = (key if key.startswith(UNET_PREFIX) else TEXT_PREFIX + key).removesuffix(".weight")
        delta = _to_delta(patch, shapes.get(key), f"{file_name}: {name}")
        if delta is None or not key.endswith(".weight") or not LAYER_PATTERN.fullmatch(name):
            skipped.append(key)
        else:
            deltas[name] = delta
    return deltas, skipped


def _to_delta(patch, shape: torch.Size | None, where: str) -> Delta | None:
    if isinstance(patch, tuple):
        kind, (value, *_) = patch
        return Dense(value) if kind == "diff" and value.dim() >= 2 else None
    weights = patch.weights
    if isinstance(patch, comfy.weight_adapter.LoRAAdapter):
        up, down, alpha, middle, dora, reshape = weights
        if dora is None and reshape is None and middle is None:
            return LowRank(up.flatten(1), down.flatten(1), alpha)
        if dora is None and reshape is None:
            return _by_host(patch, shape, where)
    elif isinstance(patch, comfy.weight_adapter.LoHaAdapter | comfy.weight_adapter.LoKrAdapter) and weights[-1] is None:
        return _by_host(patch, shape or _flat_shape(patch), where)
    raise MixOfShowError(
        f"{where} is a {type(patch).__name__} change that depends on the base weight (DoRA, OFT, GLoRA); "
        f"only LoRA, LoHa, LoKr and plain differences can be fused. Merge it into the checkpoint first."
    )


def _by_host(adapter, shape: torch.Size | None, where: str) -> Dense:
    """The change the host would add, computed by the host on a zero weight of the layer's shape."""
    if shape is None:
        raise MixOfShowError(f"{where}: the layer's shape is unknown")
    for candidate in (shape, _flat_shape(adapter)):
        if candidate is None:
            continue
        try:
            diff = adapter.calculate_weight(
                torch.zeros(candidate), where, 1.0, 1.0, None, lambda value: value, torch.float32, None
            )
        except RuntimeError:
            continue
        if bool(diff.any()):
            return Dense(diff)
    raise MixOfShowError(f"{where}: a change that does not fit a layer of shape {tuple(shape)}")


def _flat_shape(adapter) -> torch.Size | None:
    """[out, in] of a linear layer's LoHa or LoKr, for nets that are not as wide as the real ones."""
    parts = [part for part in adapter.weights if isinstance(part, Tensor)]
    if isinstance(adapter, comfy.weight_adapter.LoHaAdapter):
        return torch.Size((parts[0].shape[0], parts[1].shape[1]))
    if isinstance(adapter, comfy.weight_adapter.LoKrAdapter):
        w1, w2, _, w1_a, w1_b, w2_a, w2_b, *_ = adapter.weights
        first = w1.shape if w1 is not None else (w1_a.shape[0], w1_b.shape[1])
        second = w2.shape if w2 is not None else (w2_a.shape[0], w2_b.shape[1])
        return torch.Size((first[0] * second[0], first[1] * second[1]))
    return None


def _family(deltas: Mapping[str, Delta]) -> str:
    """From the width that cross-attention keys read; unknown when the file does not touch them."""
    for name, delta in deltas.items():
        if name.endswith(".attn2.to_k"):
            return CONTEXT_WIDTHS.get(delta.shape[1], UNKNOWN_FAMILY)
    return UNKNOWN_FAMILY


def _tags(metadata: Mapping[str, str], count: int = 12) -> tuple[str, ...]:
    """The most frequent tags of kohya's ss_tag_frequency: suggestions for `trigger`, never used unasked."""
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        total: Counter = Counter()
        for tags in folders.values():
            total.update({str(tag).strip(): int(number) for tag, number in tags.items()})
    except (ValueError, TypeError, AttributeError):
        return ()
    return tuple(tag for tag, _ in total.most_common(count))
