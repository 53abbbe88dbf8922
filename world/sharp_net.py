"""The autoencoder that keeps faces: the net of `world.training.sharp_autoencoder`, read by its judge. No base uses it.

It moves to nodes/bridge/demo when a base has been trained on its latents.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

SNAPSHOT = Path(__file__).resolve().parent.parent / ".cache" / "world" / "sharp_autoencoder.pt"
CHANNELS = 24


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def residuals(width: int, count: int) -> list[nn.Module]:
    return [Residual(width) for _ in range(count)]


class SharpAutoencoder(nn.Module):
    """encode: [B, 3, H, W] in -1..1 -> [B, channels, H/8, W/8]; decode: back. H and W are multiples of 8.

    The linear path starts as PCA of 8 x 8 patches (`world.training.autoencoder.start_from_pca`), the others at zero.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.channels = channels
        self.linear_in = nn.Conv2d(192, channels, 1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, 32, 3, padding=1),
            nn.SiLU(),
            nn.PixelUnshuffle(2),
            nn.Conv2d(128, 80, 1),
            *residuals(80, 1),
            nn.PixelUnshuffle(2),
            nn.Conv2d(320, 128, 1),
            *residuals(128, 2),
            nn.SiLU(),
            nn.Conv2d(128, channels, 1),
        )
        self.linear_out = nn.Conv2d(channels, 192, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 128, 3, padding=1),
            *residuals(128, 3),
            nn.Conv2d(128, 4 * 80, 1),
            nn.PixelShuffle(2),
            *residuals(80, 3),
            nn.Conv2d(80, 4 * 40, 1),
            nn.PixelShuffle(2),
            *residuals(40, 2),
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


def load(path: Path = SNAPSHOT) -> SharpAutoencoder:
    """The averaged weights of a snapshot, on the CPU."""
    weights = torch.load(path, map_location="cpu")["average"]
    net = SharpAutoencoder(weights["linear_in.weight"].shape[0])
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)
