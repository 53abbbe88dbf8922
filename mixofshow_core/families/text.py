"""Text encoders: their transformer layers, and the attention linears of these grouped by shared input."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .layers import ROLE_TEXT, TEXT_PREFIX, LayerGroup


def text_blocks(text_model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (path, module) of every transformer layer of a CLIP text encoder, in execution order."""
    for path, module in text_model.named_modules():
        if hasattr(module, "self_attn") and hasattr(module, "mlp"):
            yield path, module


def layer_groups_text(text_model: nn.Module, encoder: str) -> tuple[LayerGroup, ...]:
    """Attention linears of one text encoder (``encoder`` is the host's name for it), grouped by shared input."""
    groups = []
    for path, block in text_blocks(text_model):
        name = f"{TEXT_PREFIX}{encoder}.{path}.self_attn"
        out = "out_proj" if hasattr(block.self_attn, "out_proj") else "o_proj"  # CLIP's name, a language model's
        groups.append(LayerGroup(f"{name}.qkv", ROLE_TEXT, tuple(f"{name}.{k}_proj" for k in "qkv")))
        groups.append(LayerGroup(f"{name}.out", ROLE_TEXT, (f"{name}.{out}",)))
    return tuple(groups)
