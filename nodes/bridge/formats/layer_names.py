"""What LoRA files call the layers of SD1.5, SDXL and Anima, or of a connected model of whatever kind.

No checkpoint is needed: the host's own tables are built from its own classes on the meta device (no memory).
Names that kohya's rule gives to layers which the host's table leaves out (norms of the text encoders) are added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import lru_cache

import comfy.lora
import comfy.model_base
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import torch

from ....mixofshow_core.families.family import UNET, UNetLayout
from ....mixofshow_core.families.known import COSMOS2, QWEN3, SD15, SDXL, find_family
from ....mixofshow_core.families.layers import TEXT_PREFIX, UNET_PREFIX
from ....mixofshow_core.families.names import NameTable
from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.families.text import text_blocks
from ....mixofshow_core.families.unet import unet_layout
from ..host.model import family, net_of, patch_key, text_models_of
from .live import LiveWeights

LANGUAGE_MODEL = re.compile(r"(\w+)\.transformer\.model\.(.+)\.weight")


@dataclass(frozen=True, eq=False)
class KeyMap:
    """``keys``: LoRA name of a layer -> the host's weight key, or (key, part of it); ``shapes``: by weight key, where
    known.
    """

    keys: Mapping[str, str | tuple]
    shapes: Mapping[str, torch.Size] = field(default_factory=dict)

    def prefix(self, key: str) -> str | None:
        """The layer's name in front of ``.lora_up.weight``, ``_lora.up.weight``, ``.hada_w1_a`` and the like."""
        while "." in key:
            key = key.rpartition(".")[0]
            for candidate in (key, key.removesuffix("_lora")):
                if candidate in self.keys:
                    return candidate
        return None


def key_map_of(base: LiveWeights) -> KeyMap:
    """The names of the connected model; those of a text encoder that is not connected come from its family's."""
    clip, row = base.clip, find_family(family(base.model))
    known = comfy.lora.model_lora_keys_unet(base.model.model, {})
    texts: dict[str, int] = {}
    if clip is not None:
        known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, known)
        texts = {name: len(list(text_blocks(module))) for name, module in text_models_of(clip).items()}
    there = base.weight_keys
    known |= _language_names(there)
    net = net_of(base.model)
    keys = _completed(known, there, unet_layout(net), texts) if kind_of(net).name == UNET else known
    if clip is not None or not (row or kind_of(net).name == UNET):
        return KeyMap(keys)
    generic = family_key_map(row.name if row and row.runs else SD15.name)
    text_keys = {name: key for name, key in generic.keys.items() if not _weight_of(key).startswith(UNET_PREFIX)}
    shapes = {key: shape for key, shape in generic.shapes.items() if not key.startswith(UNET_PREFIX)}
    return KeyMap(text_keys | keys, shapes)


def _weight_of(key: str | tuple) -> str:
    """The weight behind a target of the host: itself, or the one that it is a part of."""
    return key if isinstance(key, str) else key[0]


def _language_names(there: Iterable[str]) -> dict[str, str]:
    """kohya's names of the only language model among the text encoders: older hosts do not know them."""
    found = {key: LANGUAGE_MODEL.match(key) for key in there}
    return {
        f"lora_te_{match[2].replace('.', '_')}": key
        for key, match in found.items()
        if match and len({other[1] for other in found.values() if other}) == 1
    }


@lru_cache(maxsize=4)
def family_key_map(family: str) -> KeyMap:
    """The names and shapes of ``sd15``, ``sdxl`` or ``cosmos2``; kept, as building them takes longer than a file."""
    if family == COSMOS2.name:
        return _cosmos_key_map()
    common = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_checkpoint": False,
        "dtype": torch.float16,
    }
    if family == SD15.name:
        config = comfy.supported_models.SD15(
            common
            | {
                "num_res_blocks": [2] * 4,
                "channel_mult": [1, 2, 4, 4],
                "transformer_depth": [1] * 6 + [0] * 2,
                "transformer_depth_middle": 1,
                "transformer_depth_output": [1] * 9 + [0] * 3,
                "num_heads": 8,
                "num_head_channels": -1,
                "use_linear_in_transformer": False,
                "context_dim": 768,
                "adm_in_channels": None,
            }
        )
        model_class, text_class, row = comfy.model_base.BaseModel, comfy.sd1_clip.SD1ClipModel, SD15
    else:
        config = comfy.supported_models.SDXL(
            common
            | {
                "num_res_blocks": [2] * 3,
                "channel_mult": [1, 2, 4],
                "transformer_depth": [0, 0, 2, 2, 10, 10],
                "transformer_depth_middle": 10,
                "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3,
                "num_heads": -1,
                "num_head_channels": 64,
                "use_linear_in_transformer": True,
                "context_dim": 2048,
                "adm_in_channels": 2816,
                "num_classes": "sequential",
            }
        )
        model_class, text_class, row = comfy.model_base.SDXL, comfy.sdxl_clip.SDXLClipModel, SDXL
    config.set_inference_dtype(torch.float16, None)
    model = model_class(config, device="meta")
    text = text_class(device="meta", dtype=torch.float16)
    known = comfy.lora.model_lora_keys_clip(text, comfy.lora.model_lora_keys_unet(model, {}))
    shapes = {key: value.shape for module in (model, text) for key, value in module.state_dict().items()}
    return KeyMap(_completed(known, set(shapes), row.layout, row.text_layers), shapes)


def _cosmos_key_map() -> KeyMap:
    """Cosmos-Predict2 of 2 B, and the text encoder that Anima has before it."""
    config = comfy.supported_models.CosmosT2IPredict2(
        {
            "image_model": "cosmos_predict2",
            "max_img_h": 240,
            "max_img_w": 240,
            "max_frames": 128,
            "in_channels": 16,
            "out_channels": 16,
            "patch_spatial": 2,
            "patch_temporal": 1,
            "model_channels": 2048,
            "concat_padding_mask": True,
            "crossattn_emb_channels": COSMOS2.context_width,
            "pos_emb_cls": "rope3d",
            "use_adaln_lora": True,
            "adaln_lora_dim": 256,
            "num_blocks": COSMOS2.depth,
            "num_heads": 16,
            "extra_per_block_abs_pos_emb": False,
        }
    )
    config.set_inference_dtype(torch.bfloat16, None)
    model = comfy.model_base.CosmosPredict2(config, device="meta")
    shapes = {key: value.shape for key, value in model.state_dict().items()} | QWEN3.shapes()
    known = comfy.lora.model_lora_keys_unet(model, {}) | _language_names(shapes)
    known |= {TEXT_PREFIX + key.removesuffix(".weight"): key for key in QWEN3.shapes()}
    return KeyMap(known, shapes)


def _completed(known: Mapping[str, object], there: Set[str], layout: UNetLayout, texts: Mapping[str, int]):
    """The host's names, and kohya's for every other layer that is there."""
    found = dict(known)
    for row in NameTable(layout, texts).by_layer.values():
        key = patch_key(row.layer)
        for name in (row.kohya, row.kohya.replace("lora_te_", "lora_te1_")):
            if key in there:
                found.setdefault(name, key)
    return found
