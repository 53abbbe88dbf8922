"""The denoising objective on a discrete noise schedule: noising, targets, weights, masked mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import meaning
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
        sigma = self.sigma(timesteps)
        return self._by_prediction({"eps": noise, "v": (noise - sigma * x0) / (1.0 + sigma**2).sqrt()})

    def clean(self, noisy: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        """The x0 that a prediction stands for."""
        sigma = self.sigma(timesteps)
        root = (1.0 + sigma**2).sqrt()
        return self._by_prediction({"eps": noisy * root - sigma * output, "v": (noisy - sigma * output) / root})

    def weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """[B] min-SNR weights (Hang et al. 2023), all 1 when ``gamma`` is 0; snr = 1 / sigma^2."""
        if not gamma:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr = 1.0 / self.sigmas[timesteps] ** 2
        return snr.clamp(max=gamma) / self._by_prediction({"eps": snr, "v": snr + 1.0})

    def _by_prediction(self, table: Mapping[str, Tensor]) -> Tensor:
        return meaning("The model's prediction", self.prediction, table)


def masked_errors(output: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """[B] weight * squared error averaged over the cells of ``mask`` [B, 1, h, w] and the channels.

    Mix-of-Show divides by the number of cells only, which is this times the channel count; AdamW does not feel it.
    """
    error = F.mse_loss(output.float(), target.float(), reduction="none") * mask
    cells = mask.flatten(1).sum(1).clamp(min=1.0) * output.shape[1]
    return error.flatten(1).sum(1) * (weight / cells)


def attention_loss(maps: Sequence[Tensor], subject: Tensor, identity: bool) -> Tensor:
    """Mix-of-Show's cross-attention regularisation, summed over resolutions.

    ``maps``: per resolution [B, h, w, words], the attention that each concept word gets; ``subject`` [B, 1, H, W] is
    1 on the object. Every word is held off the background; with ``identity`` the last word has to match the mask
    instead. Each map is divided by its own maximum per sample (the published code: over the whole batch).
    """
    total = subject.new_zeros(())
    for found in maps:
        found = found / found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-8)
        mask = F.interpolate(subject, found.shape[1:3], mode="nearest")[:, 0, :, :, None]
        outside = (mask == 0).to(found.dtype)
        off = (found * outside).sum((0, 1, 2)) / outside.sum().clamp(min=1.0)  # [words]
        total = total + (off[:-1].mean() if len(off) > 1 else 0.0)
        total = total + (((found[..., -1:] - mask) ** 2).mean() if identity else off[-1])
    return total


def draw_noise(shape: tuple[int, ...], offset: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise plus ``offset`` times one normal number per sample and channel (noise offset)."""
    noise = torch.randn(shape, generator=generator)
    return noise + offset * torch.randn(*shape[:2], 1, 1, generator=generator) if offset else noise
