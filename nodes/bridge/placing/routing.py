"""Each region its own concept in one pass: forward hooks on the running UNet that add gated low-rank changes.

Hooks live for one UNet call and are removed even when it is interrupted; no weight is touched. Linears and
convolutions that work on places of the picture are routed; what has no place (time and label layers) is skipped and
listed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.regional.gating import Factors, Kernel, add_gated, add_gated_kernel, stack_factors
from ....mixofshow_core.topology import ROLE_CROSS_KV, UNET_PREFIX, role_of
from ..host.model import named_linears, unet_of

log = logging.getLogger("mixofshow")

TRANSFORMER = re.compile(r"(.+?)\.(?:transformer_blocks\.|proj_in$|proj_out$)")


@dataclass(frozen=True, eq=False)
class Routes:
    """Which concept acts where: factors by UNet path, the concept of each region, and the background's."""

    factors: dict[str, Factors]
    owners: tuple[int | None, ...]
    background: int | None
    count: int

    def one_hot(self, owners: Sequence[int | None]) -> Tensor:
        """Gates [len(owners), 1, K] for whole texts: a region's text is read with its concept at full weight."""
        gates = torch.zeros(len(owners), 1, self.count)
        for row, owner in enumerate(owners):
            if owner is not None:
                gates[row, 0, owner] = 1
        return gates


def make_routes(model, uses: Sequence[ConceptUse], owners: Sequence[int | None], background: int | None) -> Routes:
    """Stack the uses' UNet changes; MixOfShowError when a layer has another shape than MODEL's."""
    modules = named_linears(model, None) | _convolutions(unet_of(model))
    concepts, skipped = [], set()
    for use in uses:
        kept = {}
        for name, delta in use.concept.deltas.items():
            if not name.startswith(UNET_PREFIX):
                continue
            module = modules.get(name)
            if module is None or not _has_places(name, module):
                skipped.add(name)
                continue
            rows, cells = module.weight.shape[0], module.weight[0].numel()
            fits = delta.shape in ((rows, cells), tuple(module.weight.shape))
            if not fits:
                raise MixOfShowError(
                    f"Place: concept {use.label!r} changes {name} by a {delta.shape} matrix, MODEL has "
                    f"{tuple(module.weight.shape)}; it was made for another base."
                )
            kept[name] = delta.scaled(use.strength_at(name))
        concepts.append(kept)
    if skipped:
        log.warning("Place cannot route %d layers, they stay as in MODEL: %s", len(skipped), ", ".join(sorted(skipped)))
    factors = {name.removeprefix(UNET_PREFIX): part for name, part in stack_factors(concepts).items()}
    return Routes(factors, tuple(owners), background, len(uses))


def _convolutions(unet: nn.Module) -> dict[str, nn.Module]:
    return {UNET_PREFIX + path: found for path, found in unet.named_modules() if isinstance(found, nn.Conv2d)}


def _has_places(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) or ".transformer_blocks." in name or name.endswith((".proj_in", ".proj_out"))


@contextmanager
def routed(unet: nn.Module, batch) -> Iterator[None]:
    """Hook every routed layer of ``unet`` for the duration of one call; ``batch`` knows rows, tokens and gates."""
    handles = []
    try:
        used = batch.routes()
        for path in {found[1] for routes in used for found in map(TRANSFORMER.match, routes.factors) if found}:
            enter = unet.get_submodule(path).register_forward_pre_hook(lambda module, inputs: batch.enter(inputs[0]))
            handles.append(enter)
        for routes in used:
            for path, factors in routes.factors.items():
                layer = unet.get_submodule(path)
                handles.append(layer.register_forward_hook(_make_hook(batch, routes, path, layer, factors)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _make_hook(batch, routes: Routes, path: str, layer: nn.Module, factors: Factors):
    reads_text = role_of(path) == ROLE_CROSS_KV
    conv = layer if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1) else None
    kernel = conv and Kernel(conv.kernel_size, conv.stride, conv.padding, conv.dilation)

    def add(module: nn.Module, inputs: tuple, out: Tensor) -> Tensor:
        x = inputs[0]
        gates = batch.gates_for(routes, out if out.dim() == 4 else x, reads_text)  # strides: places are the output's
        if gates is None:
            return out
        key = (id(routes), path, x.device, x.dtype)
        kept = batch.sampling.factors.get(key)
        if kept is None:
            kept = batch.sampling.factors[key] = factors.to(x)
        return add_gated(out, x, kept, gates) if kernel is None else add_gated_kernel(out, x, kept, gates, kernel)

    return add
