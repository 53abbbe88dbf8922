"""Where unfused concepts without regions stand: looked for in cross-attention while the host samples.

After every call of the model what its chosen layers attended to becomes scores, which open the concepts' gates from the
next call on. All of it lives in the Sampling of one run; before the first look the gates are as `FIRST` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ....mixofshow_core.families.layers import CrossAttention
from ....mixofshow_core.regional.finding import Reading, attention_features, grid_of, open_gates, resized, scaled_keys
from ....mixofshow_core.regional.outline import LEAST, OPEN

REMEMBERED = 8  # samplings of one conditioning
TEMPERATURE = 0.1
FIRST = 0.0  # gates of all before anything was seen


@dataclass(frozen=True, eq=False)
class Search:
    """Which of a Routes' concepts are looked for, what they are called (nothing: nobody is told), by which reading."""

    concepts: tuple[int, ...]
    labels: tuple[str, ...]
    reading: Reading


@dataclass(eq=False)
class Places:
    """What one sampling has found: ``scores`` [B, K + 1, h, w], a row per picture, the mean of so many ``calls`` of the
    model; ``seen``: by layer, of this call."""

    search: Search
    scores: Tensor | None = None
    calls: int = 0
    gates: Tensor | None = None
    seen: dict[int, list[Tensor]] = field(default_factory=dict)
    made: dict = field(default_factory=dict)

    def open(self, pictures: int, size: tuple[int, int], device) -> Tensor:
        """Gates [B or 1, K, h, w] of the next call."""
        if self.gates is None or self.gates.shape[0] != pictures:
            return torch.full((1, len(self.search.concepts), *size), FIRST, device=device)
        return resized(self.gates, size).to(device)

    def describe(self) -> Iterator[str]:
        """Who was found nowhere, or that nobody could be looked for."""
        if not self.search.labels:
            return
        if self.gates is None:
            yield (
                "Another node computes cross-attention by itself, or the picture is sampled in tiles: where "
                f"{', '.join(self.search.labels)} stand could not be found, so only their words act. Remove that "
                "node, or draw a region for each (Regions)."
            )
            return
        for label, share in zip(self.search.labels, (self.gates >= OPEN).float().mean((0, 2, 3)), strict=True):
            if share < LEAST:
                yield (
                    f"{label} was found in {share:.1%} of the picture, so only the words act. Draw a region for "
                    f"{label} (Regions), or write more of {label} into the prompt."
                )

    def chosen(self, words: Tensor, device) -> Tensor:
        """A payload's chosen words where they are multiplied."""
        key = id(words), device
        if key not in self.made:
            self.made[key] = words.to(device), words  # kept, so that its id stays its own
        return self.made[key][0]

    def kernel(self, layer: int, device) -> Tensor:
        """The reading of one layer for these concepts where it is multiplied."""
        key = layer, device
        if key not in self.made:
            self.made[key] = self.search.reading.kernel(layer, len(self.search.concepts)).to(device)
        return self.made[key]

    def add(self, layer: int, maps: Tensor) -> None:
        self.seen.setdefault(layer, []).append(maps)

    def advance(self, size: tuple[int, int]) -> None:
        """Take in what this call has shown, unless that is nothing, or not all layers."""
        seen, self.seen = self.seen, {}
        if set(seen) != set(self.search.reading.weights):
            return
        by_grid: dict[tuple, list[Tensor]] = {}
        for layer in sorted(seen):
            maps = seen[layer][0] if len(seen[layer]) == 1 else sum(seen[layer]) / len(seen[layer])
            by_grid.setdefault(tuple(maps.shape[-2:]), []).append(maps)
        now = sum(resized(sum(maps[1:], maps[0]), size) for maps in by_grid.values())
        now = torch.cat([now[:, :-1], now[:, -1:] + self.search.reading.offset], 1)
        same = self.scores is not None and self.scores.shape == now.shape
        self.calls = self.calls + 1 if same else 1
        self.scores = self.scores + (now - self.scores) / self.calls if same else now
        self.gates = open_gates(self.scores, TEMPERATURE)


@dataclass(frozen=True, eq=False)
class Found:
    """What a finished sampling has found: names and gates [B, K, h, w]. ``mark``: which samples it ended with."""

    names: tuple[str, ...]
    gates: Tensor
    mark: tuple


def mark_of(samples: Tensor) -> tuple:
    """Tells one sampling's result from another's."""
    return tuple(samples.shape), float(samples.double().sum()), float(samples.double().square().sum())


def remember(places: Places, memory: dict, samples: Tensor) -> None:
    """Keep what was found beside the conditioning, for Found Places; nothing that samples reads it."""
    if places.gates is not None:
        found = Found(places.search.labels, places.gates.float().cpu(), mark_of(samples))
        kept = [one for one in memory.get("found", ()) if one.mark != found.mark]
        memory["found"] = [*kept, found][-REMEMBERED:]


@contextmanager
def looked_at(batch, size: tuple[int, int]) -> Iterator[None]:
    """Hook the layers of every reading for one call; open it after routing, whose queries and keys it takes.

    size: of the latent that this call works on. Rows of one payload are pictures in their order, as the host lays them.
    """
    wanted = [number for number in dict.fromkeys(batch.ids) if number and batch.payloads[number - 1].chosen is not None]
    with ExitStack() as stack:
        if wanted and batch.whole(size):
            layers = {n for number in wanted for n in batch.payloads[number - 1].routes.search.reading.weights}
            for layer in batch.layers.values():
                if layer.index in layers:
                    stack.callback(layer.asked.register_forward_hook(_look(batch, layer, wanted)).remove)
        yield


def _look(batch, layer: CrossAttention, wanted: list[int]):
    def look(module: nn.Module, inputs: tuple, out: Tensor) -> None:
        reading = batch.reading
        if reading is None or reading.layer is not layer:
            return
        size, query = reading.size, out.flatten(2)
        if query.shape[:2] != (len(batch.ids), size[0] * size[1]):
            return
        for number in wanted:
            payload = batch.payloads[number - 1]
            places = batch.sampling.places_of(payload.routes)
            if layer.index not in places.search.reading.weights:
                continue
            rows = [row for row, found in enumerate(batch.ids) if found == number]
            own = query[rows[0] : rows[-1] + 1] if rows[-1] - rows[0] + 1 == len(rows) else query[rows]
            features = attention_features(
                own, _keys(batch, layer, number, rows[0], query), size, places.chosen(payload.chosen, query.device)
            )
            kernel = places.kernel(layer.index, query.device)
            places.add(layer.index, places.search.reading.maps(kernel, features, grid_of(size)))

    return look


def _keys(batch, layer: CrossAttention, number: int, row: int, like: Tensor) -> Tensor:
    """Scaled keys of the text that all rows of one payload read; projected once where there is room to keep them."""
    payload, context = batch.payloads[number - 1], batch.reading.context[row : row + 1]
    key = ("looked at", id(payload), layer.path, context.shape[1], like.device, like.dtype)
    kept = batch.sampling.projections.get(key)
    if kept is None:
        gates = {id(routes): batch.text_gates(routes, context.shape[1]) for routes in batch.routes()}
        with batch.focused({name: found.rows([row]) for name, found in gates.items() if found is not None}):
            kept = (scaled_keys(layer.keys(context), layer.heads),)
        batch.sampling.keep(key, kept)
    return kept[0]
