"""The small bases' autoencoders: 8x8 pixels -> one latent position. No normalisation layers: flat colour must survive.

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


def _decoder(channels: int, *levels: tuple[int, int]) -> nn.Sequential:
    """Three levels of (width, residual blocks), each twice as fine as the one before."""
    (first, many), (second, some), (third, few) = levels
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        *_residuals(first, many),
        nn.Conv2d(first, 4 * second, 1),
        nn.PixelShuffle(2),
        *_residuals(second, some),
        nn.Conv2d(second, 4 * third, 1),
        nn.PixelShuffle(2),
        *_residuals(third, few),
        nn.SiLU(),
        nn.Conv2d(third, 12, 3, padding=1),
        nn.PixelShuffle(2),
    )


class Autoencoder(nn.Module):
    """encode: [B, 3, H, W] in -1..1 -> [B, channels, H/8, W/8]; decode: back. H and W are multiples of 8."""

    def __init__(self, channels: int, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        super().__init__()
        self.channels = channels
        self.linear_in = nn.Conv2d(192, channels, 1)
        self.encoder = encoder
        self.linear_out = nn.Conv2d(channels, 192, 1)
        self.decoder = decoder
        for last in (encoder[-1], decoder[-2]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear_in(F.pixel_unshuffle(pixels, 8)) + self.encoder(pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.linear_out(latents), 8) + self.decoder(latents)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(pixels))


class SmallAutoencoder(Autoencoder):
    """What the shipped bases paint through: 16 channels, 1.2 M parameters. It loses eyes and mouths."""

    def __init__(self, channels: int = 16) -> None:
        encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 64, 3, padding=1),
            _Residual(64),
            nn.PixelUnshuffle(2),
            nn.Conv2d(256, 96, 1),
            _Residual(96),
            nn.SiLU(),
            nn.Conv2d(96, channels, 1),
        )
        super().__init__(channels, encoder, _decoder(channels, (112, 3), (64, 2), (32, 1)))


class SharpAutoencoder(Autoencoder):
    """Keeps faces: 24 channels, 2.1 M parameters, for the bases to come. See `world.training.autoencoder`."""

    def __init__(self, channels: int = 24) -> None:
        encoder = nn.Sequential(
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
        super().__init__(channels, encoder, _decoder(channels, (128, 3), (80, 3), (40, 2)))


def from_weights(weights: dict[str, torch.Tensor]) -> Autoencoder:
    """The autoencoder whose weights these are, filled. Raises RuntimeError if they are of none."""
    for kind in (SmallAutoencoder, SharpAutoencoder):
        net = kind(weights["linear_in.weight"].shape[0] if "linear_in.weight" in weights else 1)
        shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
        if shapes == {name: tensor.shape for name, tensor in weights.items()}:
            net.load_state_dict(weights)
            return net.eval().requires_grad_(False)
    raise RuntimeError(f"the weights under vae. ({len(weights)} tensors) are of no autoencoder that this version knows")
