"""Which layers of any net of the host read the same tensor: one step of one small picture is watched."""

from __future__ import annotations

import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP

from ....mixofshow_core.families.layers import LayerGroup
from ....mixofshow_core.families.observed import Observation, observing
from ..host.model import named_linears
from ..host.text import encode_layered
from .calibration import blaming

WRAPPER_KEY = "mixofshow_observed"
CELLS = 16  # of the latent's side: small, and a multiple of every patch


def observed_groups(model, clip) -> tuple[LayerGroup, ...]:
    """All linears of MODEL's net that read places of the picture or words, grouped by shared input."""
    return observe(model, clip).groups()


def observe(model, clip) -> Observation:
    """What entered MODEL's linears in one step without guidance."""
    seen = Observation()
    clone = model.clone()

    def outer_sample(executor, *args, **kwargs):
        nonlocal seen
        with observing(named_linears(executor.class_obj.model_patcher, None)) as seen:
            return executor(*args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, outer_sample)
    text = encode_layered(clip, "", 0)
    given = [[text.context, dict(text.extras)]]
    latent = comfy.sample.fix_empty_latent_channels(clone, torch.zeros(1, 4, CELLS, CELLS))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    with blaming(model):
        comfy.sample.sample(clone, noise, 1, 1.0, "euler", "normal", given, given, latent, disable_pbar=True, seed=0)
    return seen
