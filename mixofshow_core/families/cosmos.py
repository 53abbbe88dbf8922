"""Cosmos-Predict2's transformer, and Anima, which is one with an adapter before its text.

Query and key are normalised per head. Every layer sees all places of the picture; modulation sees the time alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ..errors import MixOfShowError
from .family import COSMOS
from .layers import ROLE_CROSS_KV, ROLE_SPATIAL, UNET_PREFIX, CrossAttention, LayerGroup
from .net import NetKind, names_under

ROOT = r"(?:diffusion_model\.)?"
BLOCK = rf"{ROOT}blocks\.\d+\."
PLACES = re.compile(rf"{BLOCK}(?:self_attn|cross_attn|mlp)\.|{ROOT}(?:x_embedder|final_layer\.linear)")
READS_TEXT = re.compile(rf"{BLOCK}cross_attn\.[kv]_proj")
SHARED = re.compile(rf"({BLOCK}self_attn)\.[qkv]_proj|({BLOCK}cross_attn)\.[kv]_proj")
SLOTS = (
    ("self_attn.qkv", ROLE_SPATIAL, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.out", ROLE_SPATIAL, ("self_attn.output_proj",)),
    ("cross_attn.q", ROLE_SPATIAL, ("cross_attn.q_proj",)),
    ("cross_attn.kv", ROLE_CROSS_KV, ("cross_attn.k_proj", "cross_attn.v_proj")),
    ("cross_attn.out", ROLE_SPATIAL, ("cross_attn.output_proj",)),
)
IDS, WEIGHTS = "t5xxl_ids", "t5xxl_weights"  # what the host's text encoder hands to Anima's adapter
MAX_TOKENS = 512  # of a text: the adapter fills shorter ones up to it, and the net learned no longer ones


class Cosmos(NetKind):
    name = COSMOS
    rewrites_text = True

    def fits(self, net: nn.Module) -> bool:
        first = next(iter(getattr(net, "blocks", ())), None)
        attention = getattr(first, "cross_attn", None)
        return hasattr(attention, "q_norm") and hasattr(attention, "output_proj")

    def cross_attention(self, net: nn.Module) -> tuple[CrossAttention, ...]:
        return tuple(
            CrossAttention(
                index,
                f"blocks.{index}.cross_attn",
                block.cross_attn,
                f"blocks.{index}.cross_attn.q_proj",
                block.cross_attn.q_norm,
                block.cross_attn.output_proj,
                _keys(block.cross_attn),
                block.cross_attn.v_proj,
                block.cross_attn.n_heads,
            )
            for index, block in enumerate(net.blocks)
        )

    def groups(self, net: nn.Module) -> tuple[LayerGroup, ...]:
        """Five per block."""
        return tuple(
            LayerGroup(f"{UNET_PREFIX}blocks.{number}.{slot}", role, names_under(f"blocks.{number}", members))
            for number in range(len(net.blocks))
            for slot, role, members in SLOTS
        )

    def has_places(self, path: str) -> bool:
        return PLACES.match(path) is not None

    def reads_text(self, path: str) -> bool:
        return READS_TEXT.fullmatch(path) is not None

    def input_of(self, path: str) -> str:
        found = SHARED.fullmatch(path)
        return (found[1] or found[2]) if found else path

    def levels(self, net: nn.Module) -> tuple[int, ...]:
        return (net.patch_spatial,)

    def everywhere(self, net: nn.Module, latent: Tensor) -> tuple[int, int]:
        height, width = latent.shape[-2:]
        return -(-height // net.patch_spatial), -(-width // net.patch_spatial)

    def check_text(self, extras: Mapping[str, object], where: str) -> None:
        if (count := _tokens(extras)) > MAX_TOKENS:
            raise MixOfShowError(
                f"The {where} has {count} tokens; Anima reads at most {MAX_TOKENS}. Shorten it, or give parts of it to "
                "regions: each region's text has as many again."
            )

    def read_text(self, net: nn.Module, text: Tensor, extras: Mapping[str, object]) -> Tensor:
        """Anima's adapter writes the text anew, as the host has it written before a sampling."""
        if not hasattr(net, "preprocess_text_embeds") or not isinstance(ids := extras.get(IDS), Tensor):
            return text
        ids = ids.to(text.device).reshape(1, -1).expand(len(text), -1)
        weights = extras.get(WEIGHTS)
        weights = weights.to(text).reshape(1, -1, 1) if isinstance(weights, Tensor) else None
        return net.preprocess_text_embeds(text, ids, t5xxl_weights=weights)


def _tokens(extras: Mapping[str, object]) -> int:
    ids = extras.get(IDS)
    return ids.shape[-1] if isinstance(ids, Tensor) else 0


def _keys(attention: nn.Module) -> Callable[[Tensor], Tensor]:
    def keys(text: Tensor) -> Tensor:
        apart = attention.k_proj(text).unflatten(-1, (attention.n_heads, attention.head_dim))
        return attention.k_norm(apart).flatten(-2)

    return keys
