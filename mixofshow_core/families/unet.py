"""UNets of Stable Diffusion's kind: SD1.5, SD2, SDXL, and lean ones. Everything is read off the modules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from .family import UNET, UNetLayout
from .layers import ROLE_CROSS_KV, ROLE_SPATIAL, UNET_PREFIX, CrossAttention, LayerGroup
from .net import NetKind, names_under

PARTS = ("input_blocks", "middle_block", "output_blocks")
PLACES = re.compile(r"\.transformer_blocks\.|\.(?:proj_in|proj_out)$")
TRANSFORMER = re.compile(r"(.+?)\.(?:transformer_blocks\.|proj_in$|proj_out$)")
SHARED = re.compile(r"(\.attn1)\.to_[qkv]$|(\.attn2)\.to_[kv]$")
KERNELS = (".in_layers.2", ".out_layers.3", ".op", ".conv", ".input_blocks.0.0", ".out.2")  # names of 3x3 layers
RESIDUAL_KEPT, TRANSFORMER_KEPT = 7.0, 30.0  # values that training keeps per value of a block's output
SLOTS = (
    ("attn1.qkv", ROLE_SPATIAL, ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
    ("attn1.out", ROLE_SPATIAL, ("attn1.to_out.0",)),
    ("attn2.q", ROLE_SPATIAL, ("attn2.to_q",)),
    ("attn2.kv", ROLE_CROSS_KV, ("attn2.to_k", "attn2.to_v")),
    ("attn2.out", ROLE_SPATIAL, ("attn2.to_out.0",)),
)


class UNet(NetKind):
    name = UNET
    native_size = 512
    predictions = {"EPS": "eps", "V_PREDICTION": "v"}
    trains_text = True
    finds_words = True

    def fits(self, net: nn.Module) -> bool:
        return all(hasattr(net, name) for name in PARTS)

    def cross_attention(self, net: nn.Module) -> tuple[CrossAttention, ...]:
        """The order equals Mix-of-Show's down, mid, up; walking ``named_modules`` of a diffusers net would not."""
        return tuple(
            CrossAttention(
                index,
                f"{path}.attn2",
                block.attn2,
                f"{path}.attn2.to_q",
                block.attn2.to_q,
                block.attn2.to_out,
                block.attn2.to_k,
                block.attn2.to_v,
                block.attn2.heads,
                address,
            )
            for index, (path, address, block) in enumerate(transformer_blocks(net))
        )

    def groups(self, net: nn.Module) -> tuple[LayerGroup, ...]:
        """Five per transformer block."""
        return tuple(
            LayerGroup(f"{UNET_PREFIX}{path}.{slot}", role, names_under(path, members))
            for path, _, _ in transformer_blocks(net)
            for slot, role, members in SLOTS
        )

    def is_kernel(self, path: str) -> bool:
        return path.endswith(KERNELS)

    def has_places(self, path: str) -> bool:
        """Those in and around a transformer; time and label layers see one row per picture."""
        return PLACES.search(path) is not None

    def reads_text(self, path: str) -> bool:
        return path.endswith((".attn2.to_k", ".attn2.to_v"))

    def input_of(self, path: str) -> str:
        return SHARED.sub(r"\1\2", path)

    def levels(self, net: nn.Module) -> tuple[int, ...]:
        level, found = 1, set()
        for stage in (*net.input_blocks, net.middle_block):
            level *= 2 if any(type(layer).__name__ == "Downsample" for layer in stage) else 1
            if _depth(stage):
                found.add(level)
        return tuple(sorted(found))

    def recomputed(self, net: nn.Module) -> Iterator[nn.Module]:
        return (m for m in net.modules() if hasattr(m, "transformer_blocks") or type(m).__name__ == "ResBlock")

    def activations(self, net: nn.Module, side: int) -> Iterator[tuple[float, float]]:
        cells = side * side
        for stage in (*net.input_blocks, net.middle_block, *net.output_blocks):
            for layer in stage:
                kind = type(layer).__name__
                if kind == "ResBlock":
                    yield cells * layer.out_channels * RESIDUAL_KEPT, cells * layer.out_channels
                elif hasattr(layer, "transformer_blocks"):
                    width = layer.transformer_blocks[0].attn1.to_q.in_features
                    kept = cells * width * TRANSFORMER_KEPT
                    yield kept * len(layer.transformer_blocks), cells * width
                elif kind == "Downsample":
                    cells /= 4
                elif kind == "Upsample":
                    cells *= 4

    def places(self, path: str) -> str | None:
        found = TRANSFORMER.match(path)
        return found and found[1]


def transformer_blocks(unet: nn.Module) -> Iterator[tuple[str, tuple, nn.Module]]:
    """Yield (path, the host's address, module) of every transformer block in execution order."""
    stages = [("input", n, f"input_blocks.{n}", stage) for n, stage in enumerate(unet.input_blocks)]
    stages.append(("middle", 0, "middle_block", unet.middle_block))
    stages += [("output", n, f"output_blocks.{n}", stage) for n, stage in enumerate(unet.output_blocks)]
    for kind, number, prefix, stage in stages:
        for position, layer in enumerate(stage):
            for index, block in enumerate(getattr(layer, "transformer_blocks", ())):
                yield f"{prefix}.{position}.transformer_blocks.{index}", (kind, number, index), block


def unet_layout(unet: nn.Module) -> UNetLayout:
    """The layout of a live UNet of the host's kind."""
    down, level = [], []
    for stage in list(unet.input_blocks)[1:]:
        if hasattr(stage[0], "op"):
            down.append(tuple(level))
            level = []
        else:
            level.append(_depth(stage))
    down.append(tuple(level))
    up, level = [], []
    for stage in unet.output_blocks:
        level.append(_depth(stage))
        if type(stage[-1]).__name__ == "Upsample":
            up.append(tuple(level))
            level = []
    up.append(tuple(level))
    return UNetLayout(tuple(down), _depth(unet.middle_block), tuple(up))


def _depth(stage: nn.Module) -> int:
    return max((len(getattr(layer, "transformer_blocks", ())) for layer in stage), default=0)
