"""Which text a cross-attention reads, and what is known of its keys and values before it asks.

What a text gives is constant over a sampling. Where it is kept, or where regions answer for every token and the base's
text is read by nobody, the host's layers of keys and values get a text of no token, which launches nothing, and hooks
give attention the keys and values that count (`blend.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import CrossAttention
from ....mixofshow_core.regional import attention as regional
from .attention import Batch, PendingAttention
from .payload import KEY, Payload


def choose_texts(n: Tensor, context: Tensor, value: Tensor, options: dict):
    """attn2_patch: rows with a layered payload read the context of their layer."""
    batch = options.get(KEY)
    if not isinstance(batch, Batch) or not any(batch.ids):
        return n, context, value
    layer, size = batch.layer(options), tuple(options.get("activations_shape", ())[-2:])
    return n, *read_texts(batch, layer, size, n, context, value, options)


def read_texts(
    batch: Batch, layer: CrossAttention | None, size: tuple, n: Tensor, context: Tensor, value: Tensor, options: dict
) -> tuple[Tensor, Tensor]:
    """What a cross-attention that begins shall read: a layered payload's own context, or no token where keys and values
    are known. Its result is blended later."""
    batch.begin(None)
    if n.shape[0] != len(batch.ids):
        batch.sampling.warn(
            f"Another node changed the attention batch from {len(batch.ids)} to {n.shape[0]} rows (attention couple?); "
            f"regions and layered embeddings are left out. Remove that node."
        )
        return context, value
    if layer is None:
        return context, value
    reading = PendingAttention(layer, size, context, value, options)
    if value is context and takes_no_text(layer) and not batch.is_shared(options):
        _look_up(batch, reading, n)
    layered = {number for number in set(batch.ids) if number and batch.payloads[number - 1].layers is not None}
    if layered and value is not context:
        batch.sampling.warn("Another node gives keys and values different texts; layered embeddings are not used.")
    elif layered and (reading.known is None or any(payload.chosen is not None for payload in batch.payloads)):
        reading.context = reading.value = _layered_context(batch, layer.index, context, layered)
    batch.begin(reading)
    if reading.known is not None:
        return context[:, :0], value[:, :0]
    return reading.context, reading.value


def takes_no_text(layer: CrossAttention) -> bool:
    """Whether a layer's keys and values can be asked of a text of no token: by plain linears that nobody replaced."""
    parts = layer.keys, layer.values
    if not layer.address or not all(isinstance(part, nn.Module) for part in parts):
        return False
    weights = [getattr(part, "weight", None) for part in parts]
    plain = all(type(w) in (Tensor, nn.Parameter) and w.is_floating_point() and w.element_size() > 1 for w in weights)
    return plain and not any("forward" in vars(module) for module in (layer.module, *parts))


def _look_up(batch: Batch, reading: PendingAttention, like: Tensor) -> None:
    """Note the keys and values that are known for this layer, or where those that it makes shall be kept."""
    rows = list(range(len(batch.ids)))
    if rows in batch.groups().values() and like.shape[1] == reading.size[0] * reading.size[1]:
        plan = batch.plan(rows, reading.size, like)
        if plan is not None and plan.order is not None:
            pairs = region_texts(batch, reading.layer, rows, like)
            reading.plan = plan
            reading.known = tuple(regional.texts_of(plan.calls[0], side) for side in pairs)
            return
    text = batch.steady_text(reading.context) if batch.routes() else None  # else it saves little and costs memory
    if text is not None:
        reading.keep = ("base", id(text), reading.layer.path, like.device, like.dtype)
        reading.known = batch.sampling.projections.get(reading.keep)


def at_layer(text: Tensor, index: int, count: int) -> Tensor:
    """One layer [T, C] of a text [1 or L, T, C]."""
    if text.shape[0] not in (1, count):
        raise MixOfShowError(
            f"A text was encoded for {text.shape[0]} cross-attention layers, this MODEL has {count}; "
            f"give Place the MODEL that is sampled."
        )
    return text[index if text.shape[0] > 1 else 0]


def _layered_context(batch: Batch, index: int, context: Tensor, layered: set[int]) -> Tensor:
    texts = {number: at_layer(batch.payloads[number - 1].layers, index, len(batch.layers)) for number in layered}
    length = math.lcm(context.shape[1], *(text.shape[0] for text in texts.values()))
    context = regional.repeat_tokens(context, length)
    texts = {number: regional.repeat_tokens(text.to(context), length) for number, text in texts.items()}
    return torch.stack([texts.get(number, own) for number, own in zip(batch.ids, context, strict=True)])


def region_texts(batch: Batch, layer: CrossAttention, rows: list[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """K and V [rows, R, T, C] of every row's region texts; those of all payloads are kept side by side."""
    numbers = [batch.ids[row] for row in rows]
    distinct = list(dict.fromkeys(numbers))
    payloads = [batch.payloads[number - 1] for number in distinct]
    key = (*map(id, payloads), layer.path, like.device, like.dtype)
    pairs = batch.sampling.projections.get(key)
    if pairs is None:
        made = [_project(batch, payload, layer, like) for payload in payloads]
        length = math.lcm(*(keys.shape[1] for keys, _ in made))
        pairs = tuple(_stack(side, length) for side in zip(*made, strict=True))
        batch.sampling.keep(key, pairs)
    if numbers == distinct:
        return pairs
    if len(distinct) == 1:
        return tuple(part.expand(len(rows), *part.shape[1:]) for part in pairs)
    return tuple(part[[distinct.index(number) for number in numbers]] for part in pairs)


def _stack(parts: Sequence[Tensor], length: int) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack([regional.repeat_tokens(part, length) for part in parts])


def _project(batch: Batch, payload: Payload, layer: CrossAttention, like: Tensor) -> tuple[Tensor, Tensor]:
    """K and V [R + K, T, C] of the texts of all regions and found concepts of one payload at one layer."""
    texts = (*payload.texts, *(text for text, _ in payload.found))
    texts = [at_layer(text, layer.index, len(batch.layers)) for text in texts]
    text, routes = regional.stack_texts(texts).to(like), payload.routes
    with batch.focused({} if routes is None else {id(routes): batch.sampling.reading(payload, text.shape[1])}):
        return layer.keys(text), layer.values(text)
