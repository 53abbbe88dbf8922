"""The small base of SDXL's kind: two text towers, pooled text and picture sizes as the UNet's label input, and several
transformer blocks per level. It draws what the base of SD1.5's kind draws; see `world/README.md`."""

from __future__ import annotations

from pathlib import Path

import comfy.model_base
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import torch

from . import small_base

WEIGHTS = small_base.WEIGHTS.parent / "small_base_xl.safetensors"
SECOND_WIDTH = 160
SIZE_WIDTH = 6 * 256  # the host embeds height, width, crop and target of the picture, 256 values each
UNET = small_base.UNET | {
    "transformer_depth": [1, 2],
    "transformer_depth_output": [1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "context_dim": small_base.TEXT_WIDTH + SECOND_WIDTH,
    "use_linear_in_transformer": True,
    "adm_in_channels": SECOND_WIDTH + SIZE_WIDTH,
    "num_classes": "sequential",
}
SECOND_TEXT = {
    "hidden_size": SECOND_WIDTH,
    "intermediate_size": 4 * SECOND_WIDTH,
    "num_attention_heads": 5,
    "num_hidden_layers": 2,
}


class SmallXLConfig(comfy.supported_models.SDXL):
    """SDXL's kind, lean."""

    unet_config = UNET
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = small_base.SmallLatent
    memory_usage_factor = 0.5


class SmallXLClip(comfy.sdxl_clip.SDXLClipModel):
    """SDXL's pair of encoders, read after their last layer: two layers are too few to skip one."""

    def __init__(self, device="cpu", dtype=None, model_options={}) -> None:  # noqa: B006  the host's signature
        torch.nn.Module.__init__(self)
        self.clip_l = comfy.sd1_clip.SDClipModel(device=device, dtype=dtype, model_options=model_options)
        self.clip_g = comfy.sdxl_clip.SDXLClipG(device=device, dtype=dtype, layer="last", model_options=model_options)
        self.dtypes = {dtype}


def build_unet(channels: int = small_base.LATENT_CHANNELS) -> comfy.model_base.SDXL:
    """The base model with uninitialised weights, fp32, on the CPU."""
    return small_base.build_model(comfy.model_base.SDXL, SmallXLConfig, channels)


def build_clip() -> comfy.sd.CLIP:
    """The text side with uninitialised weights: the host's SDXL tokenizers and CLIP classes."""
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, SmallXLClip)
    options = {
        "clip_l_model_config": dict(small_base.TEXT),
        "clip_g_model_config": dict(SECOND_TEXT),
        "dtype": torch.float32,
    }
    return comfy.sd.CLIP(target, embedding_directory=None, model_options=options)


def load_small_base_xl(
    path: Path | str = WEIGHTS,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE from one file. Raises MixOfShowError on a bad file."""
    clip = build_clip()
    encoders = clip.cond_stage_model
    towers = {"clip_l.": encoders.clip_l.transformer, "clip_g.": encoders.clip_g.transformer}
    return small_base.assemble(Path(path), build_unet, clip, towers)
