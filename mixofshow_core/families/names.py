"""What other programs call the layers of a UNet and its text encoders: diffusers' paths and kohya's flat names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import MixOfShowError
from .family import UNetLayout
from .known import CLIP_G, ENCODERS, SD15, family_of_width
from .layers import TEXT_PREFIX, UNET_PREFIX, module_of
from .unet import PARTS

MAX_LEVELS, MAX_BLOCKS, MAX_DEPTH = 8, 8, 32  # of a guessed layout, so that odd names cannot ask for a giant table

# Names inside a block, host -> diffusers. Whatever is not listed has the same name on both sides.
_OUTER_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_BLOCK_NAMES = {
    "res": {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    },
    "attn": {"norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out"},
    "down": {"op": "conv"},
    "up": {"conv": "conv"},
}
_TRANSFORMER_NAMES = (
    *(f"norm{n}" for n in (1, 2, 3)),
    *(f"attn{n}.{slot}" for n in (1, 2) for slot in ("to_q", "to_k", "to_v", "to_out.0")),
    "ff.net.0.proj",
    "ff.net.2",
)
_TEXT_NAMES = (
    *(f"self_attn.{s}_proj" for s in ("q", "k", "v", "out")),
    "mlp.fc1",
    "mlp.fc2",
    "layer_norm1",
    "layer_norm2",
)


@dataclass(frozen=True)
class ModuleName:
    """One module in every dialect: our layer name, diffusers' component and path in it, and kohya's flat name."""

    layer: str
    part: str
    path: str
    kohya: str


@dataclass(frozen=True)
class HostNames:
    """The layers of a net that is called the same everywhere: by the host's own paths."""

    layers: tuple[str, ...]
    cross_attention_count: int = 0


class NameTable:
    """Layer name <-> diffusers path <-> kohya name for every module with weights, made from a topology.

    Some rows name modules that a given net lacks (shortcuts between equal widths, label inputs): names, not claims.
    """

    def __init__(self, layout: UNetLayout | HostNames, text_layers: Mapping[str, int]):
        self.layout = layout
        of_net = _host_names(layout.layers) if isinstance(layout, HostNames) else _unet_names(layout)
        rows = [*_text_names(text_layers), *of_net]
        self.by_layer = {row.layer: row for row in rows}
        self.by_diffusers = {(row.part, row.path): row for row in rows}
        self.by_kohya = {row.kohya: row for row in rows}

    def of(self, layer: str, where: str = "the concept") -> ModuleName:
        """The row of a layer name, or of a bias' layer; MixOfShowError when this topology has no such layer."""
        if module_of(layer) not in self.by_layer:
            raise MixOfShowError(
                f"{where}: layer {layer!r} does not exist in a net with "
                f"{self.layout.cross_attention_count} cross-attention layers of this shape."
            )
        return self.by_layer[module_of(layer)]


def _host_names(layers: Iterable[str]) -> Iterator[ModuleName]:
    for layer in map(module_of, layers):
        path = layer.removeprefix(UNET_PREFIX)
        flat = layer if layer.startswith(TEXT_PREFIX) else "lora_unet_" + path.replace(".", "_")
        yield ModuleName(layer, "transformer", path, flat)


def layout_of_names(layers: Iterable[str]) -> UNetLayout | HostNames:
    """The layout that a concept's layer names imply."""
    layers = tuple(layers)
    paths = [layer.removeprefix(UNET_PREFIX) for layer in layers if layer.startswith(UNET_PREFIX)]
    if paths and not any(path.startswith(PARTS) for path in paths):
        return HostNames(layers)
    return guess_layout(paths)


def _unet_names(layout: UNetLayout) -> Iterator[ModuleName]:
    pairs = list(_OUTER_NAMES.items())
    for host, theirs, kind, depth in layout.blocks():
        pairs += [(f"{host}.{ours}", f"{theirs}.{name}") for ours, name in _BLOCK_NAMES[kind].items()]
        pairs += [
            (f"{host}.transformer_blocks.{t}.{name}", f"{theirs}.transformer_blocks.{t}.{name}")
            for t in range(depth)
            for name in _TRANSFORMER_NAMES
        ]
    for ours, name in pairs:
        yield ModuleName(UNET_PREFIX + ours, "unet", name, "lora_unet_" + name.replace(".", "_"))


def _text_names(text_layers: Mapping[str, int]) -> Iterator[ModuleName]:
    for encoder, count in text_layers.items():
        part = ENCODERS[encoder].part
        flat = "lora_te2_" if encoder == CLIP_G.name else "lora_te1_" if CLIP_G.name in text_layers else "lora_te_"
        paths = [f"text_model.encoder.layers.{n}.{name}" for n in range(count) for name in _TEXT_NAMES]
        paths += [
            f"text_model.{name}"
            for name in ("embeddings.token_embedding", "embeddings.position_embedding", "final_layer_norm")
        ] + ["text_projection"]
        for path in paths:
            yield ModuleName(f"{TEXT_PREFIX}{encoder}.transformer.{path}", part, path, flat + path.replace(".", "_"))


def guess_layout(paths: Iterable[str], context_width: int | None = None) -> UNetLayout:
    """The layout that a file's own UNet paths imply, in host or diffusers dialect.

    Known families are recognised by the width of their text context. For any other width all attention layers must be
    in the file, and all levels must have equally many residual blocks.
    """
    found: dict[tuple[str, int, int], int] = {}
    for path in paths:
        match = _ATTENTION_PATH.match(path)
        if match:
            kind, level, index, depth = match.groups()
            key = (kind, int(level or 0), int(index or 0))
            found[key] = max(found.get(key, 0), int(depth) + 1)
            if found[key] > MAX_DEPTH:
                raise MixOfShowError(f"Layer {path!r} names transformer block {depth}; no such net is known.")
    guessed = SD15.layout
    if found:
        theirs = any(kind in ("down_blocks", "up_blocks") for kind, _, _ in found)
        guessed = _layout_of_diffusers(found) if theirs else _layout_of_host(found)
    known = family_of_width(context_width)
    return guessed if known is None or guessed.cross_attention_count > known.layers else known.layout


_ATTENTION_PATH = re.compile(
    r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)"
    r"(?:\.(\d{1,2}))?(?:\.attentions)?\.(\d{1,2})\.transformer_blocks\.(\d{1,2})\."
)


def _layout_of_diffusers(found: Mapping[tuple[str, int, int], int]) -> UNetLayout:
    levels = 1 + max(level for kind, level, _ in found if kind in ("down_blocks", "up_blocks"))
    last = max((index for kind, _, index in found if kind == "up_blocks"), default=0)
    blocks = max(last, 1 + max((index for kind, _, index in found if kind == "down_blocks"), default=0))
    return _filled(
        levels,
        blocks,
        lambda kind, level, i: found.get((f"{kind}_blocks", level, i), 0),
        max((depth for (kind, _, _), depth in found.items() if kind == "mid_block"), default=0),
    )


def _layout_of_host(found: Mapping[tuple[str, int, int], int]) -> UNetLayout:
    inputs = {number for kind, number, _ in found if kind == "input_blocks"}
    outputs = {number for kind, number, _ in found if kind == "output_blocks"}
    step = next(step for step in range(2, 101) if all(number % step for number in inputs))
    levels = -(-(max(inputs | outputs, default=0) + 1) // step)

    def depth(kind: str, level: int, i: int) -> int:
        number = 1 + level * step + i if kind == "down" else level * step + i
        return found.get(("input_blocks" if kind == "down" else "output_blocks", number, 1), 0)

    middle = max((d for (kind, _, _), d in found.items() if kind == "middle_block"), default=0)
    return _filled(levels, step - 1, depth, middle)


def _filled(levels: int, blocks: int, depth: Callable[[str, int, int], int], middle: int) -> UNetLayout:
    if levels > MAX_LEVELS or blocks > MAX_BLOCKS:
        raise MixOfShowError(f"Layer names speak of {levels} resolutions with {blocks} blocks each; no net is.")
    down = tuple(tuple(depth("down", level, i) for i in range(blocks)) for level in range(levels))
    up = tuple(tuple(depth("up", level, i) for i in range(blocks + 1)) for level in range(levels))
    return UNetLayout(down, middle, up)
