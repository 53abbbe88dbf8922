"""Each region its own concept in one pass: forward hooks on the running UNet that add gated low-rank changes.

Hooks live for one UNet call and are removed even when it is interrupted; no weight is touched. Linears, convolutions,
norms and biases that work on places of the picture are routed; what has no place (time, label, modulation) is left out,
and Place says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.delta import Delta, share_of
from ....mixofshow_core.families.layers import ROLE_CROSS_KV, UNET_PREFIX, module_of
from ....mixofshow_core.families.nets import has_places, input_of, kind_of, role_of
from ....mixofshow_core.regional.gating import (
    Factors,
    Gates,
    Kernel,
    NormShifts,
    add_gated,
    add_gated_kernel,
    add_gated_norm,
    join,
    stack_factors,
    stack_norms,
)
from ..host.model import is_linear, net_of
from .finding import Search

log = logging.getLogger("mixofshow")

NORMS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, eq=False)
class SharedDown:
    """A layer that reads what others read as well: one product makes the ranks of all of them, ``span`` are its own.

    ``readers``: how many layers take theirs of that product, which nobody keeps after the last.
    """

    joined: Factors
    span: slice
    readers: int


@dataclass(frozen=True, eq=False)
class Routes:
    """Which concept acts where: factors by UNet path, the concept of each region, and the background's.

    ``norms``: the changes of norms, by UNet path. ``shared``: layers whose `down` is part of a joined one, and empty in
    their own factors; see `share_downs`. ``search``: the concepts whose places are looked for, if any.
    """

    factors: dict[str, Factors]
    owners: tuple[int | None, ...]
    background: int | None
    count: int
    norms: dict[str, NormShifts] = field(default_factory=dict)
    shared: dict[str, SharedDown] = field(default_factory=dict)
    search: Search | None = None

    def one_hot(self, owners: Sequence[int | None]) -> Gates:
        """Gates [len(owners), 1, K] for whole texts: a region's text is read with its concept at full weight."""
        rows = [[float(owner == number) for number in range(self.count)] for owner in owners]
        return Gates(torch.tensor(rows).view(len(rows), 1, self.count))


def make_routes(
    model,
    uses: Sequence[ConceptUse],
    owners: Sequence[int | None],
    background: int | None,
    notes: list[str],
    search: Search | None = None,
) -> Routes:
    """Stack the uses' UNet changes, which fit MODEL (`check_fit`).

    What cannot be routed is said in `notes`, with its share of the concept's norm.
    """
    modules = _routable(net_of(model))
    layers, norms = [], []
    for use in uses:
        kept: tuple[dict[str, Delta], dict[str, Delta]] = ({}, {})
        left: list[str] = []
        changes = {name: delta for name, delta in use.concept.deltas.items() if name.startswith(UNET_PREFIX)}
        for name, delta in changes.items():
            path = name.removeprefix(UNET_PREFIX)
            module = modules.get(module_of(path))
            if module is None:
                left.append(name)
                continue
            kept[isinstance(module, NORMS)][path] = delta.scaled(use.strength_at(name))
        layers.append(kept[0])
        norms.append(kept[1])
        if left:
            share = share_of(use.concept.deltas, left)
            notes.append(
                f"WARNING: {len(left)} layers of {use.label} have no places (time, label and modulation layers) and "
                f"stay as in MODEL: {share:.1%} of its norm. Fuse it to use all of it. The first: {left[0]}"
            )
            log.warning("Place: %s", notes[-1])
    factors, shared = share_downs(stack_factors(layers))
    return Routes(factors, tuple(owners), background, len(uses), stack_norms(norms), shared, search)


def share_downs(factors: dict[str, Factors]) -> tuple[dict[str, Factors], dict[str, SharedDown]]:
    """The factors with one `down` for all layers that read the same tensor: one product a layer group, not one each."""
    groups: dict[str, list[str]] = {}
    for path, own in factors.items():
        if own.blocks:
            groups.setdefault(input_of(path), []).append(path)
    factors, shared = dict(factors), {}
    for paths in (paths for paths in groups.values() if len(paths) > 1):
        joined, spans = join([factors[path] for path in paths])
        for path, span in zip(paths, spans, strict=True):
            shared[path] = SharedDown(joined, span, len(paths))
            factors[path] = replace(factors[path], down=joined.down[:0])
    return factors, shared


def _routable(unet: nn.Module) -> dict[str, nn.Module]:
    """Layers that work on places of the picture, by path: convolutions, group norms, and all of the transformers."""
    return {
        path: module
        for path, module in unet.named_modules()
        if isinstance(module, (nn.Conv2d, nn.GroupNorm))
        or ((is_linear(module) or isinstance(module, nn.LayerNorm)) and has_places(path))
    }


@contextmanager
def routed(unet: nn.Module, batch) -> Iterator[None]:
    """Hook every routed layer of ``unet`` for the duration of one call; ``batch`` knows rows, tokens and gates."""
    handles = []
    try:
        used = batch.routes()
        paths = [path for routes in used for path in (*routes.factors, *routes.norms)]
        kind = kind_of(unet)
        for path in {place for place in map(kind.places, paths) if place}:
            enter = unet.get_submodule(path).register_forward_pre_hook(lambda module, inputs: batch.enter(inputs[0]))
            handles.append(enter)
        for routes in used:
            for path, factors in routes.factors.items():
                layer = unet.get_submodule(path)
                handles.append(layer.register_forward_hook(_make_hook(batch, routes, path, layer, factors)))
            for path, change in routes.norms.items():
                hook = _make_norm_hook(batch, routes, path, change)
                handles.append(unet.get_submodule(path).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _make_hook(batch, routes: Routes, path: str, layer: nn.Module, factors: Factors):
    reads_text = role_of(path) == ROLE_CROSS_KV
    conv = layer if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1) else None
    kernel = conv and Kernel(conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    shared = routes.shared.get(path)

    def add(module: nn.Module, inputs: tuple, out: Tensor) -> Tensor:
        shape, x = out.shape, inputs[0]
        if reads_text and not x.shape[1]:  # its keys or values are known
            return out
        if x.dim() == 5:  # [B, frames, rows, columns, in]
            x, out = x.flatten(1, 3), out.flatten(1, 3)
        gates = batch.gates_for(routes, out if out.dim() == 4 else x, reads_text)  # strides: places are the output's
        if gates is None:
            return out.view(shape)
        kept = batch.sampling.factors_like((id(routes), path), factors, x)
        if kernel is not None:
            return add_gated_kernel(out, x, kept, gates, kernel)
        return add_gated(out, x, kept, gates, batch.ranks(routes, shared, x, gates) if shared else None).view(shape)

    return add


def _make_norm_hook(batch, routes: Routes, path: str, change: NormShifts):
    def add(module: nn.Module, inputs: tuple, out: Tensor) -> Tensor:
        x = inputs[0]
        gates = batch.gates_for(routes, x, False)
        if gates is None:
            return out
        kept = batch.sampling.factors_like((id(routes), path), change, x)
        if isinstance(module, nn.GroupNorm):
            normed = F.group_norm(x, module.num_groups, None, None, module.eps)
        else:
            normed = F.layer_norm(x, module.normalized_shape, None, None, module.eps)
        return add_gated_norm(out, normed, kept, gates)

    return add
