"""Watch the inputs of groups of layers through forward pre-hooks; one hook per group, removed whatever happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import MixOfShowError
from .statistics import Gram, GramAccumulator


class Capture:
    """Streaming Grams for some groups. `weights` says what the next forward passes are:

    None: ignore them. Tensor [B]: one weight per batch row (1 = conditional). Tensor [B, T]: one per token. A batch
    that is a multiple of B repeats the pattern: layered encoding runs all chunks of a prompt once per layer, in order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.weights: Tensor | None = None
        self.accumulators = {name: GramAccumulator() for name in names}

    def add(self, name: str, value: Tensor) -> None:
        """Add one input tensor of group `name`: [B, T, d], [N, d] or an image [B, d, H, W]."""
        if self.weights is None:
            return
        rows = as_rows(value)
        weights = self.weights
        if rows.shape[0] % weights.shape[0]:
            raise MixOfShowError(
                f"{name}: a batch of {rows.shape[0]} does not fit the {weights.shape[0]} row weights of this pass"
            )
        weights = weights.repeat(rows.shape[0] // weights.shape[0], *[1] * (weights.dim() - 1))
        if weights.dim() == 1:  # whole rows of the batch: unconditional ones go before anything is copied
            kept = weights.nonzero().flatten().tolist()
            if not kept:
                return
            rows = rows if len(kept) == len(rows) else torch.stack([rows[number] for number in kept])
            weights = weights[kept][:, None].expand(rows.shape[:2])
        elif weights.shape != rows.shape[:2]:
            raise MixOfShowError(f"{name}: token weights {tuple(weights.shape)} for inputs {tuple(rows.shape)}")
        # inference tensors are fine here: nothing is kept but the product
        self.accumulators[name].add(rows.reshape(-1, rows.shape[-1]), weights.reshape(-1))

    def reserve(self, widths: Mapping[str, int], device: torch.device) -> None:
        """The memory of every sum, taken now (GramAccumulator.reserve)."""
        for name, width in widths.items():
            self.accumulators[name].reserve(width, device)

    def finish(self) -> dict[str, Gram]:
        """Grams of the groups that saw at least one weighted row. The sums are given up one by one: call it once."""
        done = {}
        for name in list(self.accumulators):
            if (gram := self.accumulators.pop(name).finish()) is not None:
                done[name] = gram
        return done

    @contextmanager
    def watching(self, modules: Mapping[str, nn.Module]) -> Iterator[Capture]:
        """Hooks are on inside the block only. modules: for every name one module that reads the group's input."""
        handles = []
        try:
            for name in self.accumulators:
                handles.append(modules[name].register_forward_pre_hook(self._hook(name)))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str):
        def record(module: nn.Module, args: tuple) -> None:
            self.add(name, args[0].detach())

        return record


def as_rows(value: Tensor) -> Tensor:
    """[B, d, H, W] or [B, T, d] or [B, d] or [B, frames, H, W, d] -> [B, T, d]."""
    if value.dim() == 5:
        return value.flatten(1, 3)
    if value.dim() == 4:
        return value.flatten(2).transpose(1, 2)
    if value.dim() == 2:
        return value[:, None]
    if value.dim() == 3:
        return value
    raise MixOfShowError(f"a layer input of shape {tuple(value.shape)} is not supported")


def text_weights(kinds: Tensor, template: int, concept: int, end: int) -> Tensor:
    """Row weights of one prompt from its token kinds [T]: words 1, end and padding together 1, everything else 0."""
    weights = ((kinds == template) | (kinds == concept)).to(torch.float32)
    ends = kinds == end
    count = int(ends.sum())
    if count:
        weights[ends] = 1.0 / count
    return weights
