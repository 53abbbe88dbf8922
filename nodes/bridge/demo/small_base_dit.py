"""The small base of Cosmos-Predict2's and Anima's kind: the host's own transformer, lean, with patches of one latent
cell, that reads base A's text tower and paints in base A's latents. How it was trained: `world/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.model_base
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch

from . import small_base
from .small_autoencoder import SmallAutoencoder

WEIGHTS = small_base.WEIGHTS.parent / "small_base_dit.safetensors"
NET = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": small_base.LATENT_CHANNELS,
    "out_channels": small_base.LATENT_CHANNELS,
    "patch_spatial": 1,
    "patch_temporal": 1,
    "model_channels": 192,
    "num_blocks": 4,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "concat_padding_mask": True,
    "crossattn_emb_channels": small_base.TEXT_WIDTH,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "extra_per_block_abs_pos_emb": False,
    # Turns for canvases of 8 to 24 cells: the slowest pair of a head makes a quarter of a turn in 24 cells.
    "rope_h_extrapolation_ratio": 0.01,
    "rope_w_extrapolation_ratio": 0.01,
    "rope_t_extrapolation_ratio": 1.0,
}


class SmallFilm(small_base.SmallLatent):
    """Base A's latents with the axis of frames that this kind of net has."""

    latent_dimensions = 3

    def __init__(self, channels: int = small_base.LATENT_CHANNELS) -> None:
        super().__init__(channels)
        self.mean, self.std = self.mean.unsqueeze(2), self.std.unsqueeze(2)


class SmallDiTConfig(comfy.supported_models.CosmosT2IPredict2):
    """Cosmos-Predict2's kind, lean; its sampling is the host's for that kind, untouched."""

    unet_config = NET
    latent_format = SmallFilm


def build_net(channels: int = small_base.LATENT_CHANNELS) -> comfy.model_base.CosmosPredict2:
    """The base model with uninitialised weights, fp32, on the CPU."""
    own = SmallDiTConfig(NET | {"in_channels": channels, "out_channels": channels})
    own.latent_format = SmallFilm(channels)
    own.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.CosmosPredict2(own, device="cpu")
    model.native_size = small_base.NATIVE_SIZE
    return model


class Film(torch.nn.Module):
    """Base A's autoencoder for pictures that are films of one frame: [B, 3, T, H, W] <-> [B, C, T, H/8, W/8]."""

    def __init__(self, pictures: SmallAutoencoder) -> None:
        super().__init__()
        self.pictures, self.channels = pictures, pictures.channels

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return _by_frames(self.pictures.encode, pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return _by_frames(self.pictures.decode, latents)


def _by_frames(change: Callable[[torch.Tensor], torch.Tensor], film: torch.Tensor) -> torch.Tensor:
    return change(film.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(film), -1)).transpose(1, 2)


def build_vae(autoencoder: SmallAutoencoder) -> comfy.sd.VAE:
    """A host VAE whose latents have frames, every one by itself."""
    vae = small_base.build_vae(Film(autoencoder))
    vae.latent_dim = 3
    vae.upscale_ratio = vae.downscale_ratio = (lambda frames: frames, 8, 8)
    vae.upscale_index_formula = vae.downscale_index_formula = (1, 8, 8)
    return vae


def load_small_base_dit(
    path: Path | str = WEIGHTS, shared: Path | str = small_base.WEIGHTS
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL from ``path``; CLIP and VAE from base A's file ``shared``. Raises MixOfShowError on a bad file."""
    clip = small_base.build_clip()
    towers = {"text.": clip.cond_stage_model.clip_l.transformer}
    return small_base.assemble(Path(shared), build_net, clip, towers, Path(path), build_vae)
