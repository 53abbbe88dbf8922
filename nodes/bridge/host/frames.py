"""Latents of nets that know time: a picture is one frame. Training works on pictures [B, C, h, w] whatever the net."""

from __future__ import annotations

from torch import Tensor


def has_frames(model) -> bool:
    """Whether the latents of the host's BaseModel are [B, C, frames, h, w]."""
    return getattr(model.latent_format, "latent_dimensions", 2) == 3


def as_frames(model, latents: Tensor) -> Tensor:
    """Pictures as the host's BaseModel and its autoencoder take them."""
    return latents.unsqueeze(2) if has_frames(model) else latents


def as_pictures(latents: Tensor) -> Tensor:
    """[B, C, h, w] of latents with one frame or without any."""
    return latents.squeeze(2) if latents.dim() == 5 else latents


def shown(pixels: Tensor) -> Tensor:
    """[B, H, W, 3] of what an autoencoder decodes, which for one with frames are pictures of one frame."""
    return pixels.reshape(-1, *pixels.shape[-3:])
