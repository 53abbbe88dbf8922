"""What is said of a net's layers, of whatever kind: their names, roles, groups by shared input, cross-attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

UNET_PREFIX = "diffusion_model."
TEXT_PREFIX = "text_encoders."
BIAS = ".bias"  # behind a layer's name: its bias
ROLE_TEXT, ROLE_CROSS_KV, ROLE_SPATIAL = "text", "cross_kv", "spatial"
LAYER_ROLES = (ROLE_TEXT, ROLE_CROSS_KV, ROLE_SPATIAL)
ROLE_TITLES = {ROLE_TEXT: "Text encoder", ROLE_CROSS_KV: "Cross-attention K, V", ROLE_SPATIAL: "Spatial layers"}


def module_of(layer_name: str) -> str:
    """The layer that a change belongs to: of a bias, the layer that has it."""
    return layer_name.removesuffix(BIAS)


@dataclass(frozen=True)
class CrossAttention:
    """One cross-attention layer. ``index`` counts in execution order, as the papers do; ``path`` is its module's.

    address: what the host calls it in ``transformer_options``, its block and the number in it; empty where it does not.
    query: the layer that makes the query; asked: the module whose output is the query, [B, N, C] or [B, N, heads, d].
    result: the module that attention's result [B, N, C] enters. keys, values: of a text [B, T, width] -> [B, T, C].
    """

    index: int
    path: str
    module: nn.Module
    query: str
    asked: nn.Module
    result: nn.Module
    keys: Callable[[Tensor], Tensor]
    values: Callable[[Tensor], Tensor]
    heads: int
    address: tuple = ()


@dataclass(frozen=True)
class LayerGroup:
    """Linear layers that read the same input; ``members`` are layer names, ``name`` is the shared prefix and slot."""

    name: str
    role: str
    members: tuple[str, ...]
