"""Regions inside cross-attention, by forward hooks on the running UNet.

The query that a layer has projected is used again for every region's text, and the regions are blended into the result
before the layer projects it back: a region costs its attention and nothing else. Hooks live for one UNet call and are
removed even when it is interrupted. Nothing is replaced, so that other nodes' attention patches still work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from comfy.ldm.modules import attention as host_attention
from torch import Tensor, nn

from ....mixofshow_core.families.layers import CrossAttention
from ....mixofshow_core.regional import attention as regional
from .attention import Batch, PendingAttention
from .texts import read_texts, region_texts, takes_no_text


@contextmanager
def blended(batch: Batch) -> Iterator[None]:
    """Hook every cross-attention layer for the duration of one call; open it after routing, whose query it takes."""
    with ExitStack() as stack:
        if any(batch.ids):
            for layer in (layer for layer in batch.layers.values() if not layer.address):
                begin = _begin(batch, layer)
                stack.callback(layer.module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            for layer in filter(takes_no_text, batch.layers.values()):
                for side, part in enumerate((layer.keys, layer.values)):
                    stack.callback(part.register_forward_hook(_give_texts(batch, layer, side)).remove)
        if batch.groups():
            for layer in batch.layers.values():
                stack.callback(layer.asked.register_forward_hook(_note_query(batch, layer)).remove)
                stack.callback(layer.result.register_forward_pre_hook(_add_regions(batch, layer)).remove)
        yield
        batch.begin(None)


def _begin(batch: Batch, layer: CrossAttention):
    """For a net whose cross-attention no patch of the host announces."""

    def begin(module: nn.Module, inputs: tuple, named: dict) -> tuple[tuple, dict]:
        x, context, *rest = inputs
        options = named.get("transformer_options") or {}
        context, _ = read_texts(batch, layer, batch.here, x, context, context, options)
        return (x, context, *rest), named

    return begin


def _note_query(batch: Batch, layer: CrossAttention):
    def note(module: nn.Module, inputs: tuple, out: Tensor) -> Tensor | None:
        reading = batch.reading
        if reading is None or reading.layer is not layer:
            return None
        reading.query = out.flatten(2)  # heads side by side
        return None if reading.plan is None else regional.queries_of(reading.plan.calls[0], out)

    return note


def _give_texts(batch: Batch, layer: CrossAttention, side: int):
    """Keys (side 0) or values (1) that are known, in place of those of no token; or keep those of the base's text."""

    def give(module: nn.Module, inputs: tuple, out: Tensor) -> Tensor | None:
        reading = batch.reading
        if reading is None or reading.layer is not layer:
            return None
        if reading.known is not None:
            return reading.known[side] if not inputs[0].shape[1] else None  # else it is somebody else's question
        if reading.keep is not None and inputs[0] is reading.context:
            reading.made = (*reading.made[:side], out)
            if len(reading.made) == 2:
                batch.sampling.keep(reading.keep, reading.made)
        return None

    return give


def _add_regions(batch: Batch, layer: CrossAttention):
    def add(module: nn.Module, inputs: tuple) -> tuple | None:
        reading = batch.reading
        if reading is None or reading.layer is not layer or reading.query is None:
            return None
        batch.reading = None  # before any projection of ours, which is not this layer's reading
        if reading.plan is not None:
            return (regional.in_order(reading.plan, inputs[0], len(batch.ids)), *inputs[1:])
        return (blend_regions(batch, reading, inputs[0]), *inputs[1:])

    return add


def blend_regions(batch: Batch, reading: PendingAttention, out: Tensor) -> Tensor:
    """Attention's result [B, N, C] before its output projection, with each region's text at the region's tokens, and
    that of each concept that is looked for where it was found."""
    expected = len(batch.ids), reading.size[0] * reading.size[1]
    if out.shape[:2] != expected or reading.query.shape[:2] != expected:
        batch.sampling.warn("Another node changed the size of the attention output; regions are left out.")
        return out
    if out.requires_grad or not out.is_contiguous():  # else it is the layer's own, and nobody else's
        out = out.clone(memory_format=torch.contiguous_format)
    for rows in batch.groups().values():
        plan = batch.plan(rows, reading.size, out)
        if plan is None:
            continue
        every, chosen = len(rows) == out.shape[0], _neighbours(rows)
        own, query = (out, reading.query) if every else (out[chosen], reading.query[chosen])
        base = _base_attention(batch, reading, rows, query[:, plan.union]) if batch.is_shared(reading.options) else None
        keys, values = region_texts(batch, reading.layer, rows, query)
        regional.blend(own, query, keys, values, plan, _attend(reading), base)
        if not every and isinstance(chosen, list):
            out[chosen] = own
    return out


def _neighbours(rows: list[int]) -> slice | list[int]:
    """The rows as a slice where they are neighbours: a view, where a list would be looked up on the device."""
    return slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else rows


def _attend(reading: PendingAttention):
    layer = reading.layer

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return host_attention.optimized_attention(
            query,
            keys,
            values,
            layer.heads,
            attn_precision=getattr(layer.module, "attn_precision", None),
            transformer_options=reading.options,
        )

    return attend


def _base_attention(batch: Batch, reading: PendingAttention, rows: list[int], query: Tensor) -> Tensor:
    """What the base text alone gives at the covered tokens, computed as the host does."""
    layer, length = reading.layer, reading.context.shape[1]
    gates = {id(routes): batch.text_gates(routes, length) for routes in batch.routes()}
    with batch.focused({key: found.rows(rows) for key, found in gates.items() if found is not None}):
        keys, values = layer.keys(reading.context[rows]), layer.values(reading.value[rows])
    return _attend(reading)(query, keys, values)
