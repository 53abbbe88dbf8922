"""A small sampler for looking at a concept while it trains; finished pictures come from the host's samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from .loop import Denoiser, TextContexts


@torch.no_grad()
def sample_ddim(
    model: Denoiser, text: TextContexts, shape: tuple[int, ...], seed: int, steps: int, guidance: float
) -> Tensor:
    """Latents [1, C, h, w] by deterministic DDIM (Song et al. 2020) with classifier-free guidance.

    ``text`` holds two captions: the empty one first, then the prompt. For previews while training only.
    """
    schedule = model.schedule
    times = torch.linspace(len(schedule) - 1, 0, steps + 1).round().long()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    which = torch.tensor([0, 1], device=model.device)
    clean = x
    for number in range(steps):
        timestep = times[number].to(model.device).view(1)
        output = model.predict(x.repeat(2, 1, 1, 1), timestep.repeat(2), text, which).float()
        guided = output[:1] + guidance * (output[1:] - output[:1])
        clean = schedule.clean(x, guided, timestep)
        if number + 1 < steps:
            following = times[number + 1].to(model.device).view(1)
            x = schedule.noisy(clean, schedule.noise_in(x, clean, timestep), following)
    return clean
