"""What the host's sampler shows a net and makes of its answer: the objective is read off it, not written down again."""

from __future__ import annotations

import torch

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.fitting import title_of
from ....mixofshow_core.training.objectives import NoiseSchedule
from ..host import model as bridge_model


def check_rule(model) -> None:
    """MixOfShowError for a MODEL that is sampled, as it is now, by a rule that its family is not trained for.

    Nodes such as ModelSamplingDiscrete swap the sampling object: what the checkpoint says does not count then.
    """
    rule, known = bridge_model.prediction_class(model).__name__, kind_of(bridge_model.net_of(model)).predictions
    if rule not in known:
        told = " and ".join(dict.fromkeys(known.values()))
        raise MixOfShowError(
            f"MODEL predicts {rule}; training for {title_of(bridge_model.family(model))} knows {told} prediction. "
            "Connect an ordinary checkpoint of that family, without nodes that change how it is sampled."
        )


def schedule_of(sampling) -> NoiseSchedule:
    """The schedule of a host's ``model_sampling``: at each of its sigmas it is asked with ones and zeros.

    All of its rules are sums of what goes in, times a number of the sigma.
    """
    sigmas = sampling.sigmas.detach().double().cpu()
    ones, zeros = torch.ones_like(sigmas), torch.zeros_like(sigmas)
    shown = sampling.calculate_input(sigmas, ones)
    return NoiseSchedule(
        signal=shown * sampling.noise_scaling(sigmas, zeros, ones),
        noise=shown * sampling.noise_scaling(sigmas, ones, zeros),
        skip=sampling.calculate_denoised(sigmas, zeros, ones) / shown,
        out=sampling.calculate_denoised(sigmas, ones, zeros),
    )
