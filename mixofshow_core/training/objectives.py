"""The denoising objective as any sampler defines it: noising, targets, weights, masked mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MixOfShowError


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """What a sampler does at each of its steps, in four numbers a step: each [N], least noise first.

    The net is shown x = signal x0 + noise e, and its answer f to that stands for the picture skip x + out f. The
    numbers lie on the CPU in float64: targets are differences of them.
    """

    signal: Tensor
    noise: Tensor
    skip: Tensor
    out: Tensor

    def __post_init__(self) -> None:
        if not (torch.isfinite(torch.stack([self.signal, self.noise, self.skip, self.out])).all() and self.out.all()):
            raise MixOfShowError(
                "MODEL's sampling has steps at which its answer says nothing of the picture; such a model cannot be "
                "trained. Connect the checkpoint itself, without nodes that change how it is sampled."
            )

    def __len__(self) -> int:
        return self.signal.shape[0]

    def noisy(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the net is shown, [B, C, h, w]."""
        return _at(self.signal, timesteps) * x0 + _at(self.noise, timesteps) * noise

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The answer that stands for x0 itself."""
        of_picture, of_noise = (1.0 - self.skip * self.signal) / self.out, -self.skip * self.noise / self.out
        return _at(of_picture, timesteps) * x0 + _at(of_noise, timesteps) * noise

    def clean(self, noisy: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        """The x0 that an answer stands for."""
        return _at(self.skip, timesteps) * noisy + _at(self.out, timesteps) * output

    def noise_in(self, noisy: Tensor, clean: Tensor, timesteps: Tensor) -> Tensor:
        """The noise e of what was shown, if x0 is `clean`."""
        return (noisy - _at(self.signal, timesteps) * clean) / _at(self.noise, timesteps)

    def weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """[B] min-SNR weights (Hang et al. 2023), there of an error in x0; all 1 when ``gamma`` is 0."""
        if not gamma:
            return torch.ones_like(timesteps, dtype=torch.float32)
        return _at(self.out**2 * ((self.signal / self.noise) ** 2).clamp(max=gamma), timesteps).flatten()


def _at(numbers: Tensor, timesteps: Tensor) -> Tensor:
    """[B, 1, 1, 1] where the timesteps are."""
    return numbers[timesteps.to(numbers.device)].float().to(timesteps.device).view(-1, 1, 1, 1)


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
