"""What the host's sampler shows a net and makes of its answer: the objective is read off it, not written down again."""

from __future__ import annotations

import comfy.model_sampling
import torch

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.training.objectives import NoiseSchedule
from ..host import model as bridge_model

# Rules of nets that learn by taking noise away; a distilled net's (LCM) would train its distillation off.
KNOWN = ("EPS", "V_PREDICTION", "CONST", "COSMOS_RFLOW")


def check_rule(model) -> None:
    """MixOfShowError for a MODEL whose answers, as they are sampled now, are none of those that training knows.

    Nodes such as ModelSamplingDiscrete swap the sampling object: what the checkpoint says does not count then.
    """
    kind = bridge_model.prediction_class(model)
    if kind not in [getattr(comfy.model_sampling, name) for name in KNOWN]:
        raise MixOfShowError(
            f"MODEL predicts {kind.__name__}; training knows eps, v and flow prediction. Connect the checkpoint "
            "itself, or choose on ModelSamplingDiscrete what it predicts, eps or v_prediction."
        )


def schedule_of(sampling) -> NoiseSchedule:
    """The schedule of a host's ``model_sampling``: at each of its sigmas it is asked with ones and zeros.

    All of its rules are sums of what goes in, times a number of the sigma.
    """
    sigmas = sampling.sigmas.detach().double().cpu()
    ones, zeros = torch.ones_like(sigmas), torch.zeros_like(sigmas)
    shown = sampling.calculate_input(sigmas, ones)
    signal, noise = (
        shown * sampling.noise_scaling(sigmas, noise.clone(), picture)
        for noise, picture in ((zeros, ones), (ones, zeros))
    )
    skip, out = (sampling.calculate_denoised(sigmas, *pair) for pair in ((zeros, ones), (ones, zeros)))
    return NoiseSchedule(signal, noise, skip / shown, out)
