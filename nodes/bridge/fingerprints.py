"""What tells two bases apart without reading gigabytes: patches, hooks and samples of the text encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from ...mixofshow_core.fusion.fuse import hash_of
from .model import named_linears


def patches_digest(patcher) -> str:
    """Tells LoRAs apart that stock nodes already put on MODEL or CLIP: they belong to the base."""
    digest = hashlib.sha256()

    def feed(value) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().flatten()[:4096].float().cpu().contiguous().numpy().tobytes())
        elif isinstance(value, list | tuple):
            for item in value:
                feed(item)
        elif hasattr(value, "weights"):
            feed(value.weights)
        elif isinstance(value, str | int | float):
            digest.update(repr(value).encode())

    for key in sorted(patcher.patches, key=str):
        feed(str(key))
        feed(patcher.patches[key])
    return digest.hexdigest()


def options_digest(model) -> str:
    """Names of what other nodes hooked into MODEL (patches, wrappers, swapped objects): they change its inputs too."""

    def names(value) -> object:
        if isinstance(value, Mapping):
            return {str(key): names(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [names(item) for item in value]
        return getattr(value, "__qualname__", type(value).__qualname__)

    return hash_of([names(model.model_options), {key: names(value) for key, value in model.object_patches.items()}])


def text_fingerprint(clip) -> str:
    """A few weights of every text encoder, and where it stops: what K and V read depends on them."""
    digest = hashlib.sha256(repr(clip.layer_idx).encode())
    for name, linear in sorted(named_linears(None, clip).items()):
        if name.endswith(".self_attn.out_proj"):
            key = name.removeprefix("text_encoders.") + ".weight"
            kept = clip.patcher.backup.get(key)
            weight = linear.weight if kept is None else kept.weight
            digest.update(weight.detach().flatten()[:64].float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
