"""Optimisers by name; those outside PyTorch are extras that are imported only when chosen."""

from __future__ import annotations

import torch

from ..errors import MixOfShowError
from .adapters import Trainables
from .settings import TrainSettings


def make_optimizer(trainables: Trainables, settings: TrainSettings) -> torch.optim.Optimizer:
    """The chosen optimiser over the run's parameter groups. Raises MixOfShowError with the install line."""
    groups = trainables.parameter_groups(
        settings.lr_embedding, settings.lr_text, settings.lr_unet, settings.weight_decay
    )
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.999))
    if settings.optimizer == "adafactor":
        if not hasattr(torch.optim, "Adafactor"):
            raise MixOfShowError(f"optimizer is adafactor, which needs torch 2.5; this is {torch.__version__}.")
        return torch.optim.Adafactor(groups)
    if settings.optimizer == "adamw8bit":
        try:
            import bitsandbytes
        except ImportError as error:
            raise _missing(settings.optimizer, "bitsandbytes", error) from error
        return bitsandbytes.optim.AdamW8bit(groups, betas=(0.9, 0.999))
    try:
        import prodigyopt
    except ImportError as error:
        raise _missing(settings.optimizer, "prodigyopt", error) from error
    return prodigyopt.Prodigy(groups)


def _missing(name: str, package: str, error: ImportError) -> MixOfShowError:
    return MixOfShowError(
        f"optimizer is {name}, which needs the package {package} ({error}). Install it into ComfyUI's Python with "
        f"`python -m pip install {package}` and restart, or choose adamw."
    )
