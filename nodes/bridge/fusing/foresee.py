"""What looking at concepts would cost, before it is done: one prompt and one step are timed, the rest is counted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.families.layers import ROLE_SPATIAL
from ....mixofshow_core.fusion.plan import CalibrationPlan, concept_prompts, picture_prompts, prior_prompts
from ..host.model import named_linears, native_size
from .calibration import collect_spatial, collect_text
from .fusion import attention_groups

NOBODY = "a photo of a person"


@dataclass(frozen=True)
class Timed:
    """Seconds of one prompt, and of one step of the sampler with CFG, in this process, now."""

    prompt: float
    step: float


def time_once(model, clip, plan: CalibrationPlan) -> Timed:
    groups = attention_groups(model, clip)
    once = replace(plan, steps=1, pictures=1).sized(native_size(model))
    with torch.inference_mode():
        collect_text(model, clip, groups, [NOBODY], lambda sort: None)  # what is loaded once is not counted
        begun = time.perf_counter()
        collect_text(model, clip, groups, [NOBODY], lambda sort: None)
        middle = time.perf_counter()
        spatial = [group for group in groups if group.role == ROLE_SPATIAL]
        collect_spatial(model, clip, spatial, [NOBODY], once, lambda sort: None)
    return Timed(middle - begun, time.perf_counter() - middle)


def foresee(model, clip, uses: Sequence[ConceptUse], plan: CalibrationPlan) -> dict[str, float]:
    """seconds to look at all of them and the base (what is kept already is not taken off), bytes that their statistics
    take on the disk, and in memory at once."""
    timed, linears = time_once(model, clip, plan), named_linears(model, clip)
    texts = [(len(concept_prompts(plan, use)), len(picture_prompts(plan, use))) for use in uses]
    texts.append((len(prior_prompts(plan, uses)), plan.prior_pictures))
    widths = [linears[group.members[0]].weight.shape[1] for group in attention_groups(model, clip)]
    return {
        "seconds": sum(prompts * timed.prompt + pictures * plan.steps * timed.step for prompts, pictures in texts),
        "bytes": len(texts) * sum(2 * width * (width + 1) for width in widths),
        "memory": sum(8 * width * width for width in widths),
    }
