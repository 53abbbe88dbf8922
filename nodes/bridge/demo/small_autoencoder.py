"""The small base's autoencoder: 8x8 pixels -> one latent position. No normalisation layers: flat colour must survive.

A linear path (started from PCA by the recipe) carries most of the picture; two small convolutional paths add the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class SmallAutoencoder(nn.Module):
    """encode: [B, 3, H, W] in -1..1 -> [B, channels, H/8, W/8]; decode: back. H and W are multiples of 8."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.channels = channels
        self.linear_in = nn.Conv2d(192, channels, 1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 64, 3, padding=1),
            _Residual(64),
            nn.PixelUnshuffle(2),
            nn.Conv2d(256, 96, 1),
            _Residual(96),
            nn.SiLU(),
            nn.Conv2d(96, channels, 1),
        )
        self.linear_out = nn.Conv2d(channels, 192, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 112, 3, padding=1),
            _Residual(112),
            _Residual(112),
            _Residual(112),
            nn.Conv2d(112, 4 * 64, 1),
            nn.PixelShuffle(2),
            _Residual(64),
            _Residual(64),
            nn.Conv2d(64, 4 * 32, 1),
            nn.PixelShuffle(2),
            _Residual(32),
            nn.SiLU(),
            nn.Conv2d(32, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        for last in (self.encoder[-1], self.decoder[-2]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear_in(F.pixel_unshuffle(pixels, 8)) + self.encoder(pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.linear_out(latents), 8) + self.decoder(latents)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(pixels))
