"""What the host's modules need so that gradients flow through them, and how it is undone.

The host loads weights inside ``torch.inference_mode()``, writes residuals in place in its CLIP layers, changes
``transformer_options`` while it runs, and has kernels without a gradient; each needs its own remedy (docs/decisions).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import comfy.ldm.modules.attention
import torch
import torch.utils.checkpoint
from torch import nn

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.families.text import text_blocks

APART = 0.05  # of the host's answer: half precision is off by less, another formula by more


@contextmanager
def trainable_weights(module: nn.Module) -> Iterator[None]:
    """Turn inference tensors into ordinary ones of the same values, and freeze all while inside."""
    unfrozen = []
    for owner in module.modules():
        for name, parameter in list(owner._parameters.items()):
            if parameter is not None and parameter.is_inference():
                owner._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            elif parameter is not None and parameter.requires_grad:
                unfrozen.append(parameter.requires_grad_(False))
        for name, buffer in list(owner._buffers.items()):
            if buffer is not None and buffer.is_inference():
                owner._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for parameter in unfrozen:
            parameter.requires_grad_(True)
            parameter.grad = None


@contextmanager
def differentiable_text(module: nn.Module) -> Iterator[None]:
    """Copy the input of every layer norm of a CLIP: the residual added in place would overwrite what it saved."""
    handles = []
    try:
        for _, block in text_blocks(module):
            for norm in (block.layer_norm1, block.layer_norm2):
                handles.append(norm.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:])))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def differentiable_net(net: nn.Module) -> Iterator[None]:
    """Kernels of newer hosts that have no gradient give way to the same in parts that have one."""
    changed = [(module, name, plain) for module, name, plain in kind_of(net).fused(net)]
    try:
        for number, (module, name, plain) in enumerate(changed):
            setattr(module, name, plain if number else _compared(getattr(module, name), plain))
        yield
    finally:
        for module, name, _ in changed:
            module.__dict__.pop(name, None)


def _compared(theirs, plain):
    """`plain`, whose first answer is held to the host's: that may change, and training would not see it."""
    waiting = [True]

    def call(*args, **kwargs):
        found = plain(*args, **kwargs)
        if waiting:
            waiting.clear()
            with torch.no_grad():
                pairs = zip(found, theirs(*args, **kwargs), strict=True)
                apart = max(float((a - b).float().norm() / b.float().norm()) for a, b in pairs)
            if not apart < APART:
                raise MixOfShowError(
                    f"This ComfyUI computes attention otherwise than training does (by {apart:.2g} of it), so what is "
                    "learned would not fit. Update Mix-of-Show, or train in a ComfyUI of docs/hosts.md: files fit both."
                )
        return found

    return call


@contextmanager
def checkpointed(net: nn.Module) -> Iterator[None]:
    """Recompute the net's blocks in the backward pass instead of keeping their activations.

    The options are copied per block: the host writes the running layer into them, and a recomputation with the
    last layer's number would fetch the wrong layer's context without any error.
    """
    changed = list(kind_of(net).recomputed(net))

    def again(original, *args, **kwargs):
        args = tuple(dict(one) if isinstance(one, dict) else one for one in args)
        kwargs = {name: dict(one) if isinstance(one, dict) else one for name, one in kwargs.items()}
        return torch.utils.checkpoint.checkpoint(original, *args, use_reentrant=False, **kwargs)

    try:
        for block in changed:
            block.forward = partial(again, block.forward)
        yield
    finally:
        for block in changed:
            block.__dict__.pop("forward", None)


def pytorch_attention(host_function, q, k, v, heads, *args, **kwargs):
    """The attention that has a gradient on every device (sage and flash have none)."""
    return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads, *args, **kwargs)
