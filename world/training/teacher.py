"""What base A makes of a noisy picture, as the lesson for a net of another kind.

A noisy picture could come from many pictures, and the noise that was drawn names one of them; base A answers with their
mean, which is what a net of any schedule is to learn. Its lessons are without that chance, so that far fewer do
(distillation, arXiv 1503.02531).
"""

from __future__ import annotations

import torch
from torch import nn

from ..host import small_base
from .latents import alphas


class Teacher(nn.Module):
    """Base A's UNet behind another schedule: ``schedule`` has signal and noise [N] of every step (NoiseSchedule)."""

    def __init__(self, schedule, channels: int) -> None:
        super().__init__()
        self.unet = small_base().build_unet(channels).diffusion_model.to(memory_format=torch.channels_last)
        signal, noise = schedule.signal.float(), schedule.noise.float()
        theirs, own = -(alphas() / (1 - alphas())).log(), -2 * (signal / noise).log()  # noise over signal, rising
        after = torch.searchsorted(theirs, own).clamp(1, len(theirs) - 1)
        between = (own - theirs[after - 1]) / (theirs[after] - theirs[after - 1])
        scale = (signal**2 + noise**2).sqrt()
        for name, rows in {
            "times": after - 1 + between.clamp(0, 1),
            "scale": scale,
            "signal": signal / scale,
            "noise": noise / scale,
            "known": own <= theirs[-1],  # base A never saw more noise than its last step's
        }.items():
            self.register_buffer(name, rows, persistent=False)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(
        self, shown: torch.Tensor, x: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(picture, noise) [B, C, h, w] as base A sees them in ``shown`` at ``steps``; where it knows nothing, the
        true ``x`` and ``noise``."""
        scale, a, b, known = (
            rows[steps].view(-1, 1, 1, 1) for rows in (self.scale, self.signal, self.noise, self.known)
        )
        shown = (shown / scale).float()
        v = self.unet(shown, self.times[steps], context=context).float()
        return torch.where(known, a * shown - b * v, x), torch.where(known, b * shown + a * v, noise)
