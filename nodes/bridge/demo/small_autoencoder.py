"""The small bases' autoencoder: 8x8 pixels -> one latent position. No normalisation layers: flat colour must survive.

A linear path (started from PCA by the recipe) carries most of the picture; two small convolutional paths add the rest.
Only torch is imported: judges load this file by its path, without a host.
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


def _residuals(width: int, count: int) -> list[nn.Module]:
    return [_Residual(width) for _ in range(count)]


class SmallAutoencoder(nn.Module):
    """encode: [B, 3, H, W] in -1..1 -> [B, channels, H/8, W/8]; decode: back. H and W are multiples of 8.

    2.1 M parameters with 24 channels, which keep eyes and mouths; 16 and a smaller decoder lost them.
    """

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.channels = channels
        self.linear_in = nn.Conv2d(192, channels, 1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, 32, 3, padding=1),
            nn.SiLU(),
            nn.PixelUnshuffle(2),
            nn.Conv2d(128, 80, 1),
            *_residuals(80, 1),
            nn.PixelUnshuffle(2),
            nn.Conv2d(320, 128, 1),
            *_residuals(128, 2),
            nn.SiLU(),
            nn.Conv2d(128, channels, 1),
        )
        self.linear_out = nn.Conv2d(channels, 192, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 128, 3, padding=1),
            *_residuals(128, 3),
            nn.Conv2d(128, 320, 1),
            nn.PixelShuffle(2),
            *_residuals(80, 3),
            nn.Conv2d(80, 160, 1),
            nn.PixelShuffle(2),
            *_residuals(40, 2),
            nn.SiLU(),
            nn.Conv2d(40, 12, 3, padding=1),
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


def from_weights(weights: dict[str, torch.Tensor]) -> SmallAutoencoder:
    """The autoencoder filled with ``weights``, which say its channels. Raises RuntimeError if they do not fit."""
    if "linear_in.weight" not in weights:
        raise RuntimeError(f"{len(weights)} tensors without linear_in.weight are of no autoencoder")
    net = SmallAutoencoder(len(weights["linear_in.weight"]))
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)
