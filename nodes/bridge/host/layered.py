"""Layered texts in the host's sampling: one context per cross-attention layer, without regions.

placing/ gives each conditioning, and each region, a layered text of its own; here all rows of the positive share one,
which is what training needs to draw its samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....mixofshow_core.families.nets import cross_attention_layers
from .model import net_of

POSITIVE = 0  # as the host numbers conditionings in `cond_or_uncond`


def with_layers(model, layers: Tensor | None):
    """A clone of MODEL whose positive rows read `layers` [L, T, C], one context a layer; MODEL itself without any.

    The host repeats texts of different lengths to their least common multiple, so T divides what a layer is given.
    """
    if layers is None:
        return model
    index_of = {layer.address: layer.index for layer in cross_attention_layers(net_of(model))}

    def read(n, context, value, options):
        text = layers[index_of[(*options["block"], options["block_index"])]].to(context)
        chunks = list(context.chunk(len(options["cond_or_uncond"])))
        for place, kind in enumerate(options["cond_or_uncond"]):
            if kind == POSITIVE:
                chunks[place] = text.repeat(context.shape[1] // text.shape[0], 1).expand_as(chunks[place])
        context = torch.cat(chunks)
        return n, context, context

    model = model.clone()
    model.set_model_attn2_patch(read)
    return model
