"""Which layers a UNet and its text encoders have: execution order, roles, and groups that share one input.

Everything is read off the modules, never off constants, so lean, SD1.5 and SDXL nets are one case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from .errors import MixOfShowError
from .families.family import UNetLayout
from .families.known import CLIP_G, ENCODERS, SD15, family_of_width

UNET_PREFIX = "diffusion_model."
TEXT_PREFIX = "text_encoders."
BIAS = ".bias"  # behind a layer's name: its bias
ROLE_TEXT, ROLE_CROSS_KV, ROLE_SPATIAL = "text", "cross_kv", "spatial"
LAYER_ROLES = (ROLE_TEXT, ROLE_CROSS_KV, ROLE_SPATIAL)
ROLE_TITLES = {ROLE_TEXT: "Text encoder", ROLE_CROSS_KV: "Cross-attention K, V", ROLE_SPATIAL: "Spatial layers"}
PLACES = re.compile(r"\.transformer_blocks\.|\.(?:proj_in|proj_out)$")


def module_of(layer_name: str) -> str:
    """The layer that a change belongs to: of a bias, the layer that has it."""
    return layer_name.removesuffix(BIAS)


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


def input_of(name: str) -> str:
    """A name of what a UNet's layer reads: the same for layers that read the same tensor, else the layer's own."""
    return re.sub(r"(\.attn1)\.to_[qkv]$|(\.attn2)\.to_[kv]$", r"\1\2", name)


def has_places(name: str) -> bool:
    """Whether the inputs of a UNet's linear are places of the picture: those in and around a transformer.

    Time and label layers see one row per picture. Convolutions always have places.
    """
    return PLACES.search(name) is not None


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


class NameTable:
    """Layer name <-> diffusers path <-> kohya name for every module with weights, made from a topology.

    Some rows name modules that a given net lacks (shortcuts between equal widths, label inputs): names, not claims.
    """

    def __init__(self, layout: UNetLayout, text_layers: Mapping[str, int]):
        self.layout = layout
        rows = [*_unet_names(layout), *_text_names(text_layers)]
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
