"""Weights of GGUF files, as the pack ComfyUI-GGUF keeps them: rows of bytes that its own layers turn into numbers."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError


def plain(weight: Tensor, key: str) -> Tensor:
    """``weight`` itself, or fp32 numbers on the CPU where it is of a GGUF file, by that format's own library."""
    kind = getattr(weight, "tensor_type", None)
    if kind is None:
        return weight
    try:
        quants = importlib.import_module("gguf.quants")
        values = quants.dequantize(weight.detach().cpu().as_subclass(Tensor).numpy(), kind)
    except (ImportError, NotImplementedError, ValueError) as error:
        raise MixOfShowError(
            f"The weights of {key} come from a GGUF file of a kind that cannot be read here ({str(error)[:200]}). What "
            "is asked needs their numbers: connect the checkpoint as .safetensors."
        ) from error
    return torch.from_numpy(values).reshape(tuple(weight.tensor_shape)).float()
