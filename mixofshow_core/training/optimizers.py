"""Optimisers over a run's parameter groups; those of other libraries are handed in by whoever may import them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import MixOfShowError
from .adapters import Trainables
from .settings import TrainSettings

Maker = Callable[[list[dict]], torch.optim.Optimizer]


def make_optimizer(
    trainables: Trainables, settings: TrainSettings, maker: Maker | None = None
) -> torch.optim.Optimizer:
    """The chosen optimiser; ``maker`` builds one that PyTorch does not have."""
    groups = trainables.parameter_groups(
        settings.lr_embedding, settings.lr_text, settings.lr_unet, settings.weight_decay
    )
    if maker is not None:
        return maker(groups)
    if settings.optimizer == "adamw":
        return make_adamw(groups)
    if settings.optimizer != "adafactor":
        raise MixOfShowError(f"optimizer is {settings.optimizer}, which comes from another library.")
    if not hasattr(torch.optim, "Adafactor"):
        raise MixOfShowError(f"optimizer is adafactor, which needs torch 2.5; this is {torch.__version__}. Use adamw.")
    # The second epsilon is the least size of a parameter that its rate is scaled by: with the usual 0.001 a matrix
    # that starts at zero would hardly ever move, with 1 the rates mean what they mean for AdamW.
    return torch.optim.Adafactor(groups, eps=(None, 1.0))


def make_adamw(groups: list[dict]) -> torch.optim.AdamW:
    """One kernel for all tensors on the CPU, where a step of many small ones is otherwise spent on calls."""
    if all(parameter.device.type == "cpu" for group in groups for parameter in group["params"]):
        try:
            return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
        except RuntimeError:  # before torch 2.4
            pass
    return torch.optim.AdamW(groups, betas=(0.9, 0.999))
