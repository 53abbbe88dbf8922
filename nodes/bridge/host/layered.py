"""Layered texts in the host's sampling: one context per cross-attention layer, without regions.

placing/ gives each conditioning, and each region, a layered text of its own; here all rows of the positive share one,
which is what training needs to draw its samples. Where the host announces no cross-attention to patches (layers without
an address), hooks on the layers do what its patch does elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ....mixofshow_core.families.layers import CrossAttention
from ....mixofshow_core.families.nets import cross_attention_layers
from .model import net_of

POSITIVE = 0  # as the host numbers conditionings in `cond_or_uncond`
KEY = "mixofshow_layered"

# (layer, the text [B, T, C] that it is given, the host's transformer_options) -> the text that it reads
Reading = Callable[[CrossAttention, Tensor, dict], Tensor]


@contextmanager
def read_by_hooks(layers: Sequence[CrossAttention], reading: Reading) -> Iterator[None]:
    """Inside, every layer without an address reads what `reading` says."""

    def hook(layer: CrossAttention):
        def begin(module: nn.Module, inputs: tuple, named: dict) -> tuple[tuple, dict]:
            x, context, *rest = inputs
            return (x, reading(layer, context, named.get("transformer_options") or {}), *rest), named

        return begin

    with ExitStack() as stack:
        for layer in (layer for layer in layers if not layer.address):
            stack.callback(layer.module.register_forward_pre_hook(hook(layer), with_kwargs=True).remove)
        yield


def with_layers(model, layers: Tensor | None):
    """A clone of MODEL whose positive rows read `layers` [L, T, C], one context a layer; MODEL itself without any.

    The host repeats texts of different lengths to their least common multiple, so T divides what a layer is given.
    """
    if layers is None:
        return model
    known = cross_attention_layers(net_of(model))
    index_of = {layer.address: layer.index for layer in known}

    def reading(index: int, context: Tensor, options: dict) -> Tensor:
        text = layers[index].to(context)
        chunks = list(context.chunk(len(options["cond_or_uncond"])))
        for place, kind in enumerate(options["cond_or_uncond"]):
            if kind == POSITIVE:
                chunks[place] = text.repeat(context.shape[1] // text.shape[0], 1).expand_as(chunks[place])
        return torch.cat(chunks)

    def patch(n, context, value, options):
        context = reading(index_of[(*options["block"], options["block_index"])], context, options)
        return n, context, context

    def hooked(executor, *args, **kwargs):
        # The net that really runs is known only here.
        running = cross_attention_layers(executor.class_obj)
        with read_by_hooks(running, lambda layer, context, options: reading(layer.index, context, options)):
            return executor(*args, **kwargs)

    model = model.clone()
    if all(layer.address for layer in known):
        model.set_model_attn2_patch(patch)
    else:
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, hooked)
    return model
