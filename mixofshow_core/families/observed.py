"""Groups of linears that read the same tensor, found by watching one forward pass: for nets that no file here lists.

Two linears form a group when the very same tensors enter them, in the same order. Tensors are kept alive while a pass
is watched, so that an address cannot be given to another one, and their sums tell whether they were written into.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from .layers import ROLE_SPATIAL, LayerGroup


@dataclass
class Observation:
    """What entered which layer. ``places``: layers whose inputs are several rows per picture, all of them."""

    entered: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)
    alive: list[Tensor] = field(default_factory=list)

    def note(self, name: str, x: Tensor, width: int) -> None:
        self.alive.append(x)
        self.entered.setdefault(name, []).append((id(x), float(x.detach().double().sum())))
        if x.dim() > 2 and x.numel() > x.shape[0] * width:
            self.places.add(name)

    def groups(self) -> tuple[LayerGroup, ...]:
        """All layers that read places, in the order of their first entry. A group is called as its first member."""
        found: dict[tuple, list[str]] = {}
        for name, inputs in self.entered.items():
            if name in self.places:
                found.setdefault(tuple(inputs), []).append(name)
        return tuple(LayerGroup(members[0], ROLE_SPATIAL, tuple(members)) for members in found.values())


@contextmanager
def observing(modules: Mapping[str, nn.Module]) -> Iterator[Observation]:
    """Hooks are on inside the block only; run the net once there."""
    seen, handles = Observation(), []

    def watch(name: str):
        return lambda module, inputs: seen.note(name, inputs[0], module.weight.shape[1])

    try:
        handles += [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
        yield seen
    finally:
        seen.alive.clear()
        for handle in handles:
            handle.remove()
