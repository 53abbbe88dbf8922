"""Optimisers of libraries that are not ours to require: imported only when chosen."""

from __future__ import annotations

import importlib
from functools import partial

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.training.optimizers import Maker

LIBRARIES = {"adamw8bit": ("bitsandbytes", "optim.AdamW8bit"), "prodigy": ("prodigyopt", "Prodigy")}
# Without its two safeguards Prodigy's estimate of the step size jumps at the first steps, where LoRA's gradients are
# those of zeros, and never comes down again (measured: docs/evidence/training.md).
OPTIONS = {
    "adamw8bit": {"betas": (0.9, 0.999)},
    "prodigy": {"betas": (0.9, 0.99), "safeguard_warmup": True, "use_bias_correction": True},
}


def library_optimizer(name: str) -> Maker | None:
    """What makes the optimiser, None for those of PyTorch. Raises MixOfShowError with the install line."""
    if name not in LIBRARIES:
        return None
    package, path = LIBRARIES[name]
    try:
        found = importlib.import_module(package)
    except ImportError as error:
        raise MixOfShowError(
            f"optimizer is {name}, which needs the package {package} ({error}). Install it into ComfyUI's Python with "
            f"`python -m pip install {package}` and restart, or choose adamw."
        ) from error
    for part in path.split("."):
        found = getattr(found, part)
    return partial(found, **OPTIONS[name])
