"""Which kind a live net is, and what a layer's name alone tells. A new kind is a file and its entry in `KINDS`."""

from __future__ import annotations

from torch import nn

from ..errors import MixOfShowError
from .cosmos import Cosmos
from .layers import ROLE_CROSS_KV, ROLE_SPATIAL, ROLE_TEXT, TEXT_PREFIX, CrossAttention, LayerGroup
from .net import NetKind
from .unet import UNet

KINDS: tuple[NetKind, ...] = (UNet(), Cosmos())
OTHER = NetKind()


def kind_of(net: nn.Module) -> NetKind:
    """What knows this net; `OTHER` answers for one that none knows."""
    return next((kind for kind in KINDS if kind.fits(net)), OTHER)


def cross_attention_layers(net: nn.Module) -> tuple[CrossAttention, ...]:
    """All cross-attention layers in execution order; MixOfShowError for a net without any."""
    layers = kind_of(net).cross_attention(net)
    if not layers:
        raise MixOfShowError(
            f"MODEL is a {type(net).__name__}, whose attention mixes text and picture or is not known here: nothing "
            "can be trained for it or placed on it. Fuse works; for regions load one of SD1.5, SDXL or their kind."
        )
    return layers


def layer_groups(net: nn.Module) -> tuple[LayerGroup, ...]:
    """The attention linears by shared input, as far as the net's kind lists them."""
    return kind_of(net).groups(net)


def role_of(layer_name: str) -> str:
    """Role of any layer name, also of layers that belong to no group (feed-forward, projections, convolutions)."""
    if layer_name.startswith(TEXT_PREFIX):
        return ROLE_TEXT
    return ROLE_CROSS_KV if reads_text(layer_name) else ROLE_SPATIAL


def reads_text(path: str) -> bool:
    """Whether a net's linear makes keys or values of the text, as far as its name tells."""
    return any(kind.reads_text(path) for kind in KINDS)


def kind_of_name(layer_name: str) -> str:
    """The kind of net that has such a layer of keys or values of the text; empty if no kind has."""
    return next((kind.name for kind in KINDS if kind.reads_text(layer_name)), "")


def input_of(path: str) -> str:
    """A name of what a net's linear reads: the same for layers that read the same tensor, else the layer's own."""
    return next((found for kind in KINDS if (found := kind.input_of(path)) != path), path)


def has_places(layer_name: str) -> bool:
    """Whether the inputs of a net's linear are places of the picture, as far as its name tells."""
    return any(kind.has_places(layer_name) for kind in KINDS)
