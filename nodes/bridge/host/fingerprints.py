"""What tells two bases apart without reading gigabytes: patches, hooks and samples of the text encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from ....mixofshow_core.fusion.fuse import hash_of
from .model import named_linears


def patches_digest(patcher) -> str:
    """Tells LoRAs apart that stock nodes already put on MODEL or CLIP: they belong to the base."""
    digest = hashlib.sha256()

    def feed(value) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())  # whole: a LoRA may change a few rows only
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
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
    """What other nodes hooked into MODEL: names of patches and wrappers, values of swapped objects."""

    def names(value) -> object:
        if isinstance(value, Mapping):
            return {str(key): names(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [names(item) for item in value]
        if isinstance(value, torch.nn.Module):
            plain = {key: item for key, item in vars(value).items() if isinstance(item, str | int | float)}
            kinds = [kind.__qualname__ for kind in type(value).__mro__]
            return [kinds, plain, module_digest(value, None)]
        return getattr(value, "__qualname__", type(value).__qualname__)

    return hash_of([names(model.model_options), {key: names(value) for key, value in model.object_patches.items()}])


def module_digest(module: torch.nn.Module, count: int | None = 64) -> str:
    """The first `count` values of every weight and buffer (None: all)."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().flatten()[:count].float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def models_digests(model, clip) -> list[str]:
    """What other nodes did to MODEL and CLIP, and where CLIP stops: part of every key of what rests on them."""
    return [patches_digest(model), patches_digest(clip.patcher), options_digest(model), text_fingerprint(clip)]


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
