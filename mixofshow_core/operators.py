"""torchvision without its compiled half, which ComfyUI then cannot import. Loaded by path before there is a package."""

from __future__ import annotations

import importlib
import sys

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing() -> None:
    """Makes `import torchvision` work: there is no CPU build of it for every torch, and its import stops when its
    compiled operators are unknown. Their signatures are enough, because nothing here calls them. Where it is whole, or
    is not installed, nothing happens.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # the host says so itself, where it needs it
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", SIGNATURE)
