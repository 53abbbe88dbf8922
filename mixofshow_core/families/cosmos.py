"""Cosmos-Predict2's transformer, and Anima, which is one with an adapter before its text.

Query and key are normalised per head. Every layer sees all places of the picture; modulation sees the time alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

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
KEPT, TEXT_KEPT = 22.0, 3.6  # values that training keeps per channel of a block's place, of a token's key
MAX_TOKENS = 512  # of a text: the adapter fills shorter ones up to it, and the net learned no longer ones


class Cosmos(NetKind):
    name = COSMOS
    predictions = {"COSMOS_RFLOW": "flow", "CONST": "flow"}
    rewrites_text = True
    words_in_context = True

    def reads_words(self, net: nn.Module) -> bool:
        """Anima's adapter writes the text anew while sampling: what the encoder wrote is not what attention reads."""
        return not hasattr(net, "preprocess_text_embeds")

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

    def recomputed(self, net: nn.Module) -> Iterator[nn.Module]:
        return iter(net.blocks)

    def fused(self, net: nn.Module) -> Iterator[tuple[nn.Module, str, Callable]]:
        """Hosts of 2026 norm queries and keys of self-attention and turn them by their places in one kernel."""
        return ((block.self_attn, "compute_qkv", partial(_placed, block.self_attn)) for block in net.blocks)

    def activations(self, net: nn.Module, side: int) -> Iterator[tuple[float, float]]:
        values, texts = (side / net.patch_spatial) ** 2 * net.model_channels, MAX_TOKENS * net.model_channels
        return ((values * KEPT + texts * TEXT_KEPT, values) for _ in net.blocks)

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


def _placed(attention: nn.Module, x: Tensor, context: None = None, rope_emb: Tensor | None = None, **_):
    """Queries, keys and values [B, N, heads, d] of self-attention, turned by their places (RoPE, arXiv 2104.09864)."""
    made = (getattr(attention, f"{name}_proj")(x) for name in "qkv")
    q, k, v = (one.unflatten(-1, (attention.n_heads, attention.head_dim)) for one in made)
    return _turned(attention.q_norm(q), rope_emb), _turned(attention.k_norm(k), rope_emb), v


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Channel i of the first half and i of the second make a plane; `turns` [..., d/2, 2, 2] are its rotations."""
    first, second = x.float().unflatten(-1, (2, -1)).unbind(-2)
    pairs = turns[..., 0] * first[..., None] + turns[..., 1] * second[..., None]
    return pairs.transpose(-1, -2).flatten(-2).type_as(x)


def _keys(attention: nn.Module) -> Callable[[Tensor], Tensor]:
    def keys(text: Tensor) -> Tensor:
        apart = attention.k_proj(text).unflatten(-1, (attention.n_heads, attention.head_dim))
        return attention.k_norm(apart).flatten(-2)

    return keys
