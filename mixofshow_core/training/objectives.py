"""The denoising objective on a discrete noise schedule: noising, targets, weights, masked mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MixOfShowError

PREDICTIONS = ("eps", "v")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """``sigmas`` [N] rising; a latent at step t is (x0 + sigma_t eps) / sqrt(1 + sigma_t^2) (variance preserving)."""

    sigmas: Tensor
    prediction: str = "eps"

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise MixOfShowError(f"The model predicts {self.prediction!r}; training knows {', '.join(PREDICTIONS)}.")

    def __len__(self) -> int:
        return self.sigmas.shape[0]

    def sigma(self, timesteps: Tensor) -> Tensor:
        """[B, 1, 1, 1]."""
        return self.sigmas[timesteps].view(-1, 1, 1, 1)

    def noisy(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the net is shown, [B, C, h, w]."""
        sigma = self.sigma(timesteps)
        return (x0 + sigma * noise) / (1.0 + sigma**2).sqrt()

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """eps itself, or v = alpha eps - sigma' x0 with alpha = 1/sqrt(1+sigma^2) (Salimans and Ho 2022)."""
        if self.prediction == "eps":
            return noise
        sigma = self.sigma(timesteps)
        return (noise - sigma * x0) / (1.0 + sigma**2).sqrt()

    def clean(self, noisy: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        """The x0 that a prediction stands for."""
        sigma = self.sigma(timesteps)
        root = (1.0 + sigma**2).sqrt()
        return noisy * root - sigma * output if self.prediction == "eps" else (noisy - sigma * output) / root

    def weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """[B] min-SNR weights (Hang et al. 2023), all 1 when ``gamma`` is 0; snr = 1 / sigma^2."""
        if not gamma:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr = 1.0 / self.sigmas[timesteps] ** 2
        return snr.clamp(max=gamma) / (snr if self.prediction == "eps" else snr + 1.0)


def masked_loss(output: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Mean over the batch of weight * squared error averaged over the cells of ``mask`` [B, 1, h, w] and channels.

    Mix-of-Show divides by the number of cells only, which is this times the channel count; AdamW does not feel it.
    """
    error = (output.float() - target.float()) ** 2 * mask
    cells = mask.flatten(1).sum(1).clamp(min=1.0) * output.shape[1]
    return (weight * error.flatten(1).sum(1) / cells).mean()


def draw_noise(shape: tuple[int, ...], offset: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise plus ``offset`` times one normal number per sample and channel (noise offset)."""
    noise = torch.randn(shape, generator=generator)
    return noise + offset * torch.randn(*shape[:2], 1, 1, generator=generator) if offset else noise
