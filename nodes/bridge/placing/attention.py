"""What attention knows about payloads.

State lives in one Sampling object per sampling run and one Batch object per UNet call; both are made in wrappers.py and
travel in transformer_options. Which text a layer reads is in texts.py, what regions do in blend.py.
"""

from __future__ import annotations

import logging
import operator
import weakref
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ....mixofshow_core.families.layers import CrossAttention
from ....mixofshow_core.families.nets import cross_attention_layers, kind_of
from ....mixofshow_core.regional import attention as regional
from ....mixofshow_core.regional.finding import in_what_is_left, resized, winner
from ....mixofshow_core.regional.gating import Gates, concept_gates, gate_ranks
from ..host.show import leave_words, show_on_node
from .finding import Places
from .payload import Payload, word_gates
from .routing import Routes, SharedDown

log = logging.getLogger("mixofshow")


@dataclass(eq=False)
class Sampling:
    """Memory of one sampling run: resized masks, projected region texts, and what was already said.

    ``room``: bytes that may still be used to keep projected region texts; those beyond are projected at every step.
    ``changes``, ``whole``, ``made``, ``routed``: what arrivals.py found out about conditionings, and made of them.
    ``calls``: masks of the last calls of the model by shape, with what `Batch` made of them. ``texts``: the text that
    the rows of a call read, and whether it was the same in every call so far.
    ``nodes``: the nodes whose payloads are sampled; what goes wrong is said there. ``places``: of concepts that are
    looked for, by id of their Routes. ``latent`` is [pictures, rows, columns] of this call of the model.
    """

    room: int = 0
    nodes: tuple[str, ...] = ()
    masks: dict = field(default_factory=dict)
    projections: dict = field(default_factory=dict)
    addresses: dict = field(default_factory=dict)
    changes: dict = field(default_factory=dict)
    whole: set = field(default_factory=set)
    made: dict = field(default_factory=dict)
    routed: dict = field(default_factory=dict)
    factors: dict = field(default_factory=dict)
    said: list = field(default_factory=list)
    places: dict = field(default_factory=dict)
    latent: tuple[int, int, int] | None = None
    calls: dict = field(default_factory=dict)
    texts: dict = field(default_factory=dict)

    def places_of(self, routes: Routes) -> Places:
        """What is known of the concepts that these Routes look for."""
        if id(routes) not in self.places:
            self.places[id(routes)] = Places(routes.search), routes  # kept, so that its id stays its own
        return self.places[id(routes)][0]

    def call(self, payloads: tuple, ids: list[int], masks: Tensor) -> dict:
        """What a call of the model makes of its rows: that of the last call that had the very same ones, or nothing."""
        key = *ids, *masks.shape, masks.device
        if key in self.calls:
            before, seen, kept = self.calls[key]
            if all(map(operator.is_, before, payloads)) and len(before) == len(payloads) and torch.equal(seen, masks):
                return kept
        self.calls[key] = payloads, masks, {}
        return self.calls[key][2]

    def steady_text(self, payloads: tuple, ids: list[int], context: Tensor) -> Tensor | None:
        """The text [B, T, C] that these rows read, as one object, while it is the same in every call of the model."""
        key = *ids, *map(id, payloads), *context.shape, context.device, context.dtype
        before, _, steady = self.texts.get(key, (context, payloads, True))
        steady = steady and (before is context or torch.equal(before, context))
        self.texts[key] = before, payloads, steady  # kept, so that their ids stay theirs
        return before if steady else None

    def warn(self, text: str) -> None:
        """Once per run: in the log, and below what was said before on the node that samples."""
        if text not in self.said:
            self.said.append(text)
            log.warning(text)
            show_on_node(self.said)
            for node in self.nodes:
                leave_words(f"WARNING: {text}", node, add=True)

    def keep(self, key: tuple, projected: tuple[Tensor, ...]) -> None:
        """Keep K and V of one layer while there is room; the result of sampling does not depend on it."""
        size = sum(part.nbytes for part in projected)
        if size <= self.room:
            self.room -= size
            self.projections[key] = projected

    def reading(self, payload: Payload, length: int) -> Gates:
        """Whose K, V each token of a payload's other texts has, made once for all layers."""
        key = "reading", id(payload), length
        if key not in self.made:
            self.made[key] = payload.read_with(length), payload  # kept, so that its id stays its own
        return self.made[key][0]

    def factors_like(self, key: tuple, factors, like: Tensor):
        """Factors in the type and place of `like`, kept for the whole sampling."""
        key = *key, like.device, like.dtype
        if key not in self.factors:
            self.factors[key] = factors.to(like)
        return self.factors[key]

    def read(self, payload: Payload, net, like: Tensor) -> Payload:
        """The payload with its texts as cross-attention reads them: some nets work on a text once per sampling."""
        if not payload.extras:
            return payload
        if id(payload) not in self.made:
            kind = kind_of(net)
            base, *regions = payload.extras

            def reading(text: Tensor | None, extras: Mapping[str, object]) -> Tensor | None:
                return None if text is None else kind.read_text(net, text.to(like), extras)

            text, layers = reading(payload.text, base), reading(payload.layers, base)
            texts = tuple(map(reading, payload.texts, regions))
            tokens = payload.tokens if text is None else text.shape[1]
            made = replace(payload, tokens=tokens, text=text, layers=layers, texts=texts, extras=())
            self.made[id(payload)] = made
        return self.made[id(payload)]

    def layers_of(self, unet) -> dict[tuple | str, CrossAttention]:
        """Cross-attention layers by the host's address (block name, number, block_index), by path where it has none."""
        if id(unet) not in self.addresses:
            layers = cross_attention_layers(unet)
            # the module is kept beside its layers, so that its id cannot be given to another one meanwhile
            self.addresses[id(unet)] = unet, {layer.address or layer.path: layer for layer in layers}
        return self.addresses[id(unet)][1]


@dataclass(eq=False)
class PendingAttention:
    """A cross-attention that has begun: its place, what our patch saw of it, and its query once it is projected.

    ``known``: keys and values that need not be made. ``plan``: how regions answer for every token by themselves, so
    that what is known are their texts'. ``keep``: the key of those that are made of `context` now, ``made`` so far.
    """

    layer: CrossAttention
    size: tuple[int, int]
    context: Tensor
    value: Tensor
    options: dict
    query: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None
    plan: regional.TokenPlan | None = None
    keep: tuple | None = None
    made: tuple[Tensor, ...] = ()


@dataclass(eq=False)
class Batch:
    """One UNet call: which payload each row has, and the masks of each row [B, R, H, W].

    ``shared``: another patch changes what cross-attention reads; ``replaced``: blocks whose attention another node
    computes. ``reading``: the cross-attention that runs now. ``here`` is the size (rows, columns) of the transformer
    that runs now, as far as routing looks; see ``enter``. ``read``: the ranks of the routed layers that share the
    input which is read now, until the last of them has taken its own. ``kept``: weights, plans and gates, which
    follow from payloads, ids and masks alone.
    """

    sampling: Sampling
    payloads: tuple[Payload, ...]
    ids: list[int]
    masks: Tensor
    layers: dict[tuple | str, CrossAttention]
    shared: bool
    replaced: frozenset
    reading: PendingAttention | None = None
    here: tuple[int, int] | None = None
    focus: dict | None = None
    read: tuple | None = None
    kept: dict = field(default_factory=dict)
    steady: tuple[Tensor, Tensor | None] | None = None

    def layer(self, options: dict) -> CrossAttention | None:
        return self.layers.get((*options.get("block", ()), options.get("block_index")))

    def is_shared(self, options: dict) -> bool:
        """Whether something else works on cross-attention in this block."""
        block = tuple(options.get("block", ()))
        return self.shared or block in self.replaced or (*block, options.get("block_index")) in self.replaced

    def steady_text(self, context: Tensor) -> Tensor | None:
        """`Sampling.steady_text` of the text that all layers read, looked up once per call."""
        if self.steady is None or self.steady[0] is not context:
            self.steady = context, self.sampling.steady_text(self.payloads, self.ids, context)
        return self.steady[1]

    def groups(self) -> dict[tuple, list[int]]:
        """Rows that read other texts at the same places: by id of their drawn regions, and of the Routes that look."""
        found: dict[tuple, list[int]] = {}
        for row, number in enumerate(self.ids):
            payload = self.payloads[number - 1] if number else None
            if payload is not None and (payload.placed is not None or payload.found):
                key = id(payload.placed), id(payload.routes) if payload.found else None
                found.setdefault(key, []).append(row)
        return found

    def weights(self, rows: list[int], size: tuple[int, int]) -> Tensor:
        """Weights [rows, R, N] of drawn regions at one layer size; the rows share theirs, which may be none."""
        key = ("weights", tuple(rows), size)
        if key not in self.kept:
            placed = self.payloads[self.ids[rows[0]] - 1].placed
            if placed is None:
                return self.masks.new_zeros(len(rows), 0, size[0] * size[1])
            spec = placed.regions
            covered = regional.cover(self.masks[rows, : len(spec.regions)], size, spec.edges)
            strength = torch.tensor([region.strength for region in spec.regions])
            weight = torch.tensor([region.weight for region in spec.regions])
            self.kept[key] = regional.blend_weights(covered, strength, weight, spec.overlap)
        return self.kept[key]

    def plan(self, rows: list[int], size: tuple[int, int], like: Tensor) -> regional.TokenPlan | None:
        key = ("plan", tuple(rows), size, like.dtype)
        if key not in self.kept:
            payload = self.payloads[self.ids[rows[0]] - 1]
            weights = self.with_found(rows, size)[:, : len(payload.texts) + len(payload.found)]
            plan = regional.plan_rows if payload.found else regional.plan_tokens
            self.kept[key] = plan(weights, like.dtype)
        return self.kept[key]

    def routes(self) -> list[Routes]:
        used = (self.payloads[number - 1].routes for number in set(self.ids) if number)
        return list({id(routes): routes for routes in used if routes is not None}.values())

    def gates(self, routes: Routes, size: tuple[int, int]) -> Gates:
        """Gates [B, N, K] of every row and token; rows of other conditionings stay closed."""
        key = ("gates", id(routes), size)
        if key not in self.kept:
            owners = routes.owners + (() if routes.search is None else routes.search.concepts)
            parts = [
                (rows, concept_gates(self.with_found(rows, size), owners, routes.background, routes.count))
                for rows in self._rows_of(routes)
            ]
            gates = parts[0][1]
            if len(gates) < len(self.ids):
                gates = self.masks.new_zeros(len(self.ids), size[0] * size[1], routes.count)
                for rows, own in parts:
                    gates[rows] = own
            self.kept[key] = Gates(gates)
        return self.kept[key]

    def _rows_of(self, routes: Routes) -> list[list[int]]:
        """Rows of these Routes that share their drawn regions, if any."""
        found: dict[int, list[int]] = {}
        for row, number in enumerate(self.ids):
            payload = self.payloads[number - 1] if number else None
            if payload is not None and payload.routes is routes:
                found.setdefault(id(payload.placed), []).append(row)
        return list(found.values())

    def with_found(self, rows: list[int], size: tuple[int, int]) -> Tensor:
        """Weights [rows, R + K, N] of drawn regions, then of the concepts that are looked for; the rows share both.

        Of the latter one at most is open at a token, where regions leave room.
        """
        payload = self.payloads[self.ids[rows[0]] - 1]
        if payload.routes is None or payload.routes.search is None:
            return self.weights(rows, size)
        start = len(payload.texts)
        key = ("with found", tuple(rows), size)
        if key not in self.kept:
            maps = self.masks[rows, start : start + len(payload.routes.search.concepts)]
            found = winner(resized(maps, size)).flatten(2)
            drawn = self.weights(rows, size) if start else None
            self.kept[key] = found if drawn is None else torch.cat([drawn, in_what_is_left(found, drawn)], 1)
        return self.kept[key]

    def whole(self, size: tuple[int, int]) -> bool:
        """Whether this call works on whole pictures, not on tiles of them: every payload has a row per picture."""
        pictures, *latent = self.sampling.latent or (0, 0, 0)
        return tuple(latent) == size and all(self.ids.count(number) == pictures for number in set(self.ids))

    def text_gates(self, routes: Routes, length: int) -> Gates | None:
        """Gates [B, 1 or length, K] for the base text of every row: each word's concept, else the background's."""
        key = ("text", id(routes), length)
        if key not in self.kept:
            own = [self.payloads[number - 1] if number else None for number in self.ids]
            own = [payload if payload is not None and payload.routes is routes else None for payload in own]
            if any(payload is not None and payload.words is not None for payload in own):
                rows = [word_gates(routes, p and p.words, p and routes.background, length) for p in own]
                self.kept[key] = Gates(torch.stack(rows))
            elif routes.background is not None:
                self.kept[key] = routes.one_hot([payload and routes.background for payload in own])
            else:
                self.kept[key] = None
        return self.kept[key]

    def ranks(self, routes: Routes, shared: SharedDown, x: Tensor, gates: Gates) -> Tensor:
        """The gated ranks of a layer that reads what others read as well: one product at the first of them."""
        if (
            self.read is None
            or self.read[0] is not shared.joined
            or self.read[1]() is not x
            or self.read[2] is not gates
        ):
            down = self.sampling.factors_like((id(routes), id(shared.joined)), shared.joined, x)
            self.read = shared.joined, weakref.ref(x), gates, gate_ranks(x, down, gates), shared.readers
        *which, ranks, left = self.read
        self.read = (*which, ranks, left - 1) if left > 1 else None
        return ranks[..., shared.span]

    def gates_for(self, routes: Routes, x: Tensor, reads_text: bool) -> Gates | None:
        """Gates for the input of one layer; None when nothing acts there or its tokens cannot be told."""
        if self.focus is not None:
            return self.focus.get(id(routes))
        if x.shape[0] == len(self.ids):
            if reads_text:
                return self.text_gates(routes, x.shape[1])
            size = tuple(x.shape[-2:]) if x.dim() == 4 else self.here
            if size is not None and (x.dim() == 4 or size[0] * size[1] == x.shape[1]):
                return self.gates(routes, size)
        self.sampling.warn("Another node changed the tokens or rows of a layer; routed concepts are left out there.")
        return None

    def begin(self, reading: PendingAttention | None) -> None:
        """Note which cross-attention runs from here on; the last one must have been blended by now."""
        if self.reading is not None and self.groups():
            self.sampling.warn(
                "Another node computes cross-attention by itself; regions and places are left out there."
            )
        self.reading = reading

    def enter(self, x: Tensor) -> None:
        """Note the size of a transformer's input [B, C, h, w]: its tokens are these places, whoever changed it."""
        self.here = tuple(x.shape[-2:])

    @contextmanager
    def focused(self, gates: dict):
        """While open, routed layers use these gates (by id of the Routes) instead of those of the whole batch."""
        before, self.focus = self.focus, gates
        try:
            yield
        finally:
            self.focus = before
