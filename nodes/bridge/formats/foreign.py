"""Community LoRA files through the host's own parser: kohya, PEFT, diffusers and LyCORIS names become our layer names.

No checkpoint is needed: the host's key maps are built from its SD1.5 and SDXL classes on the meta device (no memory).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
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

from ....mixofshow_core import formats
from ....mixofshow_core.concept import COMMUNITY, LAYER_PATTERN, BaseInfo, Concept, ConceptEntry
from ....mixofshow_core.delta import Delta, Dense, LowRank
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.formats.diffusers_names import PEFT_PREFIX, peft_alphas, to_kohya_names
from ....mixofshow_core.formats.native import check_finite
from ....mixofshow_core.formats.read import load_tree
from ....mixofshow_core.formats.side_files import side_facts
from ....mixofshow_core.names import name_of_file
from ....mixofshow_core.topology import TEXT_PREFIX, UNET_PREFIX
from ..host.model import UNKNOWN_FAMILY
from .exporting import LiveWeights

log = logging.getLogger("mixofshow")

CONTEXT_WIDTHS = {768: "sd15", 2048: "sdxl"}
EXPECTED = "lora_unet_*, lora_te_*, unet.down_blocks.*, text_encoder.* or diffusion_model.* of SD1.5's or SDXL's layers"
CONFIG_BYTES = 2**20  # of an adapter_config.json, which is text of a few kilobytes
TEXT_KEY = re.compile(r"(?:lora_te|text_encoder|clip_[lgh]\b|te\d?[._])")
PEFT_DORA = "lora_magnitude_vector"
TURNS_THE_WEIGHT = {
    comfy.weight_adapter.OFTAdapter: "OFT", comfy.weight_adapter.BOFTAdapter: "BOFT",
    comfy.weight_adapter.GLoRAAdapter: "GLoRA",
}  # fmt: skip


@dataclass(frozen=True)
class ReadFile:
    """A concept file of any dialect. skipped: keys that were left out; tags: the most frequent training tags.

    skipped_share: norm of what was left out, as it is stored, as a share of the whole file's.
    """

    concept: Concept
    dialect: str
    skipped: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    skipped_share: float = 0.0
    trigger_source: str = ""

    def warning(self) -> str:
        """One line on what was left out; empty when everything is used."""
        if not self.skipped:
            return ""
        share = f", {self.skipped_share:.0%} of the file's norm" if self.skipped_share else ""
        return f"WARNING: {len(self.skipped)} keys are not used{share}, the first: {', '.join(self.skipped[:3])}"


def read_any(path: Path, name: str = "", base: Mapping[str, Tensor] | None = None) -> ReadFile:
    """Read a file of any dialect; `name` renames a single concept, or names a LoRA that brings none.

    `base` gives weights by layer name for files that hold whole weights (fused nets, Custom Diffusion) or changes
    that depend on them (DoRA, OFT, BOFT, GLoRA). A live base also tells how foreign names map to its own layers.
    """
    result = formats.read_any(path, base, name)
    if result.kind != "lora":
        return ReadFile(result.concept, result.kind, tuple(f"{key} ({why})" for key, why in result.skipped))
    tensors, metadata = load_tree(path)
    check_finite({key: value for key, value in tensors.items() if isinstance(value, Tensor)}, path.name)
    tensors = {key: value for key, value in tensors.items() if key not in result.used and isinstance(value, Tensor)}
    found = _read_foreign(path, tensors, metadata, "" if result.concept else name, base)
    if result.concept is None:
        return found
    concept = replace(found.concept, entries=result.concept.entries)
    return replace(found, concept=concept.renamed(name) if name else concept)


def _read_foreign(
    path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str], name: str, base: Mapping[str, Tensor] | None
) -> ReadFile:
    named = to_kohya_names(tensors)
    tensors = named | _peft_alphas(path, tensors, named)
    magnitude = next((key for key in tensors if PEFT_DORA in key), None)
    if magnitude is not None:
        raise MixOfShowError(
            f"{path.name}: {magnitude!r} belongs to a DoRA in PEFT's layout, which ComfyUI's parser passes over (the "
            "result would be another LoRA). Merge it in PEFT, or get it in kohya's layout (dora_scale)."
        )
    try:
        return _parse(path, comfy.lora_convert.convert_lora(dict(tensors)), metadata, name, base)
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise MixOfShowError(
            f"{path.name}: ComfyUI's LoRA parser stops at {str(error)[:200]}: a part is missing or has a wrong shape. "
            "Copy or download the file again."
        ) from error


def _peft_alphas(path: Path, tensors: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the adapter_config.json beside a PEFT file says of its scale; nothing where there is none to read."""
    beside = path.with_name("adapter_config.json")
    if not any(key.startswith(PEFT_PREFIX) for key in tensors):
        return {}
    try:
        config = json.loads(beside.read_bytes()[:CONFIG_BYTES])
    except (OSError, ValueError, RecursionError):
        log.warning("%s: no adapter_config.json to read beside it, so alpha is taken to be the rank.", path.name)
        return {}
    ranks = {
        key.removesuffix(".lora_A.weight"): value.shape[0]
        for key, value in named.items() if key.endswith(".lora_A.weight")
    }  # fmt: skip
    return peft_alphas(config, tensors, ranks) if isinstance(config, dict) else {}


def _parse(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str,
    base: Mapping[str, Tensor] | None,
) -> ReadFile:  # fmt: skip
    maps = [_live_key_map(base)] if isinstance(base, LiveWeights) else []
    best: tuple[dict, Mapping[str, str], Mapping[str, torch.Size]] = ({}, {}, {})
    for key_map, shapes in (*maps, _key_map("sd15"), _key_map("sdxl")):
        loaded = comfy.lora.load_lora(dict(tensors), key_map, log_missing=False)
        if len(loaded) > len(best[0]):
            best = (loaded, key_map, shapes)
    patches, key_map, shapes = best
    used = {key: prefix for key in tensors if (prefix := _prefix(key, key_map)) and key_map[prefix] in patches}
    places = {key_map[prefix]: prefix for prefix in used.values()}
    deltas, skipped = {}, [key for key in tensors if key not in used]
    for key, patch in patches.items():
        layer = (key if key.startswith(UNET_PREFIX) else TEXT_PREFIX + key).removesuffix(".weight")
        where = f"{path.name}: {places.get(key, layer)!r} ({layer})"
        delta = _to_delta(patch, _Target(layer, shapes.get(key), base, where))
        if delta is None or not key.endswith(".weight") or not LAYER_PATTERN.fullmatch(layer):
            skipped.append(key)
        else:
            deltas[layer] = delta
    foreign_net = [key for key in skipped if key in tensors and not TEXT_KEY.match(key)]
    if not deltas or (foreign_net and not any(name.startswith(UNET_PREFIX) for name in deltas)):
        first = ", ".join(sorted(foreign_net or tensors)[:4]) or "nothing"
        raise MixOfShowError(f"{path.name} holds no LoRA for SD1.5 or SDXL. It has: {first}. Expected {EXPECTED}.")
    facts = side_facts(path, metadata)
    plain = name or name_of_file(path.stem)
    entries = (ConceptEntry(f"lora-{plain.lower()}", plain, trigger=facts.trigger),)
    about = {"source": COMMUNITY} | ({} if name else {"named_by": "file"})
    concept = Concept(entries, dict(sorted(deltas.items())), BaseInfo(_family(deltas)), about)
    found = ReadFile(
        concept, COMMUNITY, tuple(sorted(skipped)), facts.suggestions, trigger_source=facts.source
    )
    if skipped:
        left_out = _norm(tensors[key] for key in skipped if key in tensors)
        found = replace(found, skipped_share=left_out / (_norm(tensors.values()) or 1.0))
        log.warning("%s: %s", path.name, found.warning())
    return found


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(float(value.float().norm()) ** 2 for value in tensors) ** 0.5


def _prefix(key: str, key_map: Mapping[str, str]) -> str | None:
    """The layer's name in front of ``.lora_up.weight``, ``_lora.up.weight``, ``.hada_w1_a`` and the like."""
    while "." in key:
        key = key.rpartition(".")[0]
        for candidate in (key, key.removesuffix("_lora")):
            if candidate in key_map:
                return candidate
    return None


def _live_key_map(base: LiveWeights) -> tuple[dict[str, str], Mapping[str, torch.Size]]:
    """The names of the connected model; those of a text encoder that is not connected come from the host's classes."""
    keys = comfy.lora.model_lora_keys_unet(base.model.model, {})
    if base.clip is not None:
        keys = comfy.lora.model_lora_keys_clip(base.clip.cond_stage_model, keys)
        return {name: key for name, key in keys.items() if isinstance(key, str)}, {}
    family = "sdxl" if isinstance(base.model.model, comfy.model_base.SDXL) else "sd15"
    generic, shapes = _key_map(family)
    text = {name: key for name, key in generic.items() if not key.startswith(UNET_PREFIX)}
    return text | {name: key for name, key in keys.items() if isinstance(key, str)}, {
        key: shape for key, shape in shapes.items() if not key.startswith(UNET_PREFIX)
    }


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


@dataclass(frozen=True)
class _Target:
    """The layer that a patch changes; `where` names the file and the key in it."""

    layer: str
    known_shape: torch.Size | None
    base: Mapping[str, Tensor] | None
    where: str

    def weight(self) -> Tensor | None:
        return self.base[self.layer].float() if self.base is not None and self.layer in self.base else None

    def shapes(self, adapter) -> Iterator[torch.Size]:
        """What the layer's shape may be, best first: SD1.5's and SDXL's own, then what the factors give."""
        weight = self.weight()
        yield from (s for s in (weight.shape if weight is not None else self.known_shape, _flat_shape(adapter)) if s)


def _to_delta(patch, target: _Target) -> Delta | None:
    """The patch as a change of a weight matrix; None for what is none (biases, norms, whole values)."""
    if isinstance(patch, tuple):
        kind, (value, *_) = patch
        return Dense(value) if kind == "diff" and value.dim() >= 2 else None
    weights, what = patch.weights, TURNS_THE_WEIGHT.get(type(patch), "DoRA")
    is_lora = isinstance(patch, comfy.weight_adapter.LoRAAdapter)
    if is_lora and weights[5] is not None:
        raise MixOfShowError(f"{target.where} changes the layer's shape; such a LoRA is for another kind of model.")
    if type(patch) in TURNS_THE_WEIGHT or weights[4 if is_lora else -1] is not None:
        return _by_host_on_base(patch, what, target)
    if is_lora and weights[3] is None:
        return LowRank(weights[0].flatten(1), weights[1].flatten(1), weights[2])
    return _by_host(patch, target)


def _by_host(adapter, target: _Target) -> Dense:
    """The change the host would add (LoHa, LoKr, Tucker), computed by the host on a zero weight."""
    for shape in target.shapes(adapter):
        diff = _calculate(adapter, torch.zeros(shape), target.where)
        if diff is not None and bool(diff.any()):
            return Dense(diff)
    raise MixOfShowError(f"{target.where}: its change does not fit the layer, or is zero.")


def _by_host_on_base(adapter, what: str, target: _Target) -> Dense:
    """W' - W for changes that depend on W, with W' computed by the host at strength 1."""
    weight = target.weight()
    if weight is None:
        raise MixOfShowError(
            f"{target.where} is a {what}: its change depends on the base's weight, which is not here. Connect the "
            "base's MODEL and CLIP to Load Concept (command line: --base CHECKPOINT)."
        )
    changed = _calculate(adapter, weight.clone(), target.where)
    if changed is None or torch.equal(changed, weight):
        raise MixOfShowError(f"{target.where}: ComfyUI cannot apply this {what} to a {tuple(weight.shape)} weight.")
    return Dense(changed - weight)


def _calculate(adapter, weight: Tensor, where: str) -> Tensor | None:
    try:
        return adapter.calculate_weight(weight, where, 1.0, 1.0, None, lambda value: value, torch.float32, None)
    except (RuntimeError, IndexError, TypeError):
        return None


def _flat_shape(adapter) -> torch.Size | None:
    """The shape that the factors themselves give, for nets that are not as wide as the real ones."""
    weights = adapter.weights
    if isinstance(adapter, comfy.weight_adapter.LoRAAdapter):
        return torch.Size((weights[0].shape[0], weights[1].shape[1], *weights[3].shape[2:]))
    if isinstance(adapter, comfy.weight_adapter.LoHaAdapter):
        first, second, core = weights[0], weights[1], weights[5]
        return torch.Size(_product(first, second, core))
    if isinstance(adapter, comfy.weight_adapter.LoKrAdapter):
        w1, w2, _, w1_a, w1_b, w2_a, w2_b, core, _ = weights
        outer = w1.shape if w1 is not None else (w1_a.shape[0], w1_b.shape[1])
        inner = w2.shape if w2 is not None else _product(w2_a, w2_b, core)
        return torch.Size((outer[0] * inner[0], outer[1] * inner[1], *inner[2:]))
    return None


def _product(first: Tensor, second: Tensor, core: Tensor | None) -> tuple[int, ...]:
    """Shape of first @ second, or of Tucker's form with a core [r, r, ...], where `first` is transposed."""
    if core is None:
        return first.shape[0], second.shape[1]
    return first.shape[1], second.shape[1], *core.shape[2:]


def _family(deltas: Mapping[str, Delta]) -> str:
    """From the width that cross-attention keys read; unknown when the file does not touch them."""
    for name, delta in deltas.items():
        if name.endswith(".attn2.to_k"):
            return CONTEXT_WIDTHS.get(delta.shape[1], UNKNOWN_FAMILY)
    return UNKNOWN_FAMILY
