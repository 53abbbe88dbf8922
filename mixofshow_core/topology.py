"""Which layers a UNet and its text encoders have: execution order, roles, and groups that share one input.

Everything is read off the modules, never off constants, so lean, SD1.5 and SDXL nets are one case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from .errors import MixOfShowError

UNET_PREFIX = "diffusion_model."
TEXT_PREFIX = "text_encoders."
ROLE_TEXT, ROLE_CROSS_KV, ROLE_SPATIAL = "text", "cross_kv", "spatial"


@dataclass(frozen=True)
class CrossAttention:
    """One cross-attention layer. ``index`` counts in execution order (down, middle, up), as the papers do.

    ``block`` and ``block_index`` are the host's address of the transformer block: ("input", 1) and 0, say.
    """

    index: int
    path: str
    block: tuple[str, int]
    block_index: int
    module: nn.Module


@dataclass(frozen=True)
class LayerGroup:
    """Linear layers that read the same input; ``members`` are layer names, ``name`` is the shared prefix and slot."""

    name: str
    role: str
    members: tuple[str, ...]


def transformer_blocks(unet: nn.Module) -> Iterator[tuple[str, tuple[str, int], int, nn.Module]]:
    """Yield (path, block, block_index, module) of every transformer block in execution order."""
    stages = [("input", n, f"input_blocks.{n}", stage) for n, stage in enumerate(unet.input_blocks)]
    stages.append(("middle", 0, "middle_block", unet.middle_block))
    stages += [("output", n, f"output_blocks.{n}", stage) for n, stage in enumerate(unet.output_blocks)]
    for kind, number, prefix, stage in stages:
        for position, layer in enumerate(stage):
            for index, block in enumerate(getattr(layer, "transformer_blocks", ())):
                yield f"{prefix}.{position}.transformer_blocks.{index}", (kind, number), index, block


def cross_attention_layers(unet: nn.Module) -> tuple[CrossAttention, ...]:
    """All cross-attention layers in execution order.

    The order equals Mix-of-Show's down, mid, up numbering; walking ``named_modules`` of a diffusers net would not.
    """
    layers = tuple(
        CrossAttention(index, f"{path}.attn2", block, block_index, module.attn2)
        for index, (path, block, block_index, module) in enumerate(transformer_blocks(unet))
    )
    if not layers:
        raise MixOfShowError("This model has no cross-attention layers; SD1.5 and SDXL style UNets are supported.")
    return layers


def layer_groups_unet(unet: nn.Module) -> tuple[LayerGroup, ...]:
    """Attention linears of the UNet, grouped by shared input: 5 groups per transformer block."""
    groups = []
    for path, _, _, _ in transformer_blocks(unet):
        name = UNET_PREFIX + path
        for slot, role, members in (
            ("attn1.qkv", ROLE_SPATIAL, ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
            ("attn1.out", ROLE_SPATIAL, ("attn1.to_out.0",)),
            ("attn2.q", ROLE_SPATIAL, ("attn2.to_q",)),
            ("attn2.kv", ROLE_CROSS_KV, ("attn2.to_k", "attn2.to_v")),
            ("attn2.out", ROLE_SPATIAL, ("attn2.to_out.0",)),
        ):
            groups.append(LayerGroup(f"{name}.{slot}", role, tuple(f"{name}.{member}" for member in members)))
    return tuple(groups)


def text_blocks(text_model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (path, module) of every transformer layer of a CLIP text encoder, in execution order."""
    for path, module in text_model.named_modules():
        if hasattr(module, "self_attn") and hasattr(module, "mlp"):
            yield path, module


def layer_groups_text(text_model: nn.Module, encoder: str) -> tuple[LayerGroup, ...]:
    """Attention linears of one CLIP text encoder (``encoder`` is clip_l or clip_g), grouped by shared input."""
    groups = []
    for path, _ in text_blocks(text_model):
        name = f"{TEXT_PREFIX}{encoder}.{path}.self_attn"
        groups.append(LayerGroup(f"{name}.qkv", ROLE_TEXT, tuple(f"{name}.{k}_proj" for k in "qkv")))
        groups.append(LayerGroup(f"{name}.out", ROLE_TEXT, (f"{name}.out_proj",)))
    return tuple(groups)


def role_of(layer_name: str) -> str:
    """Role of any layer name, also of layers that belong to no group (feed-forward, projections, convolutions)."""
    if layer_name.startswith(TEXT_PREFIX):
        return ROLE_TEXT
    return ROLE_CROSS_KV if layer_name.endswith((".attn2.to_k", ".attn2.to_v")) else ROLE_SPATIAL
