"""What is said of one kind of net: its blocks, its texts, its latents, and what other programs call it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import MixOfShowError

UNET, COSMOS = "unet", "cosmos"  # kinds of nets that have rows
CELL = 8  # pixels of a picture's side that one latent cell stands for, in every net of Stable Diffusion's kind


@dataclass(frozen=True)
class UNetLayout:
    """How many transformer blocks follow each residual block; all names in every dialect follow from it.

    ``down`` has one tuple per resolution, top first; ``up`` one per resolution, deepest first (execution order), each
    one entry longer. An entry 0 is a residual block without attention.
    """

    down: tuple[tuple[int, ...], ...]
    middle: int
    up: tuple[tuple[int, ...], ...]

    def blocks(self) -> Iterator[tuple[str, str, str, int]]:
        """Yield (host block, diffusers block, kind, depth) in execution order; kind is res, attn, down or up."""
        number = 1
        for level, depths in enumerate(self.down):
            for i, depth in enumerate(depths):
                yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{i}", "res", 0
                if depth:
                    yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{i}", "attn", depth
                number += 1
            if level < len(self.down) - 1:
                yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0", "down", 0
                number += 1
        yield "middle_block.0", "mid_block.resnets.0", "res", 0
        if self.middle:
            yield "middle_block.1", "mid_block.attentions.0", "attn", self.middle
        yield f"middle_block.{2 if self.middle else 1}", "mid_block.resnets.1", "res", 0
        number = 0
        for level, depths in enumerate(self.up):
            for i, depth in enumerate(depths):
                yield f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{i}", "res", 0
                if depth:
                    yield f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{i}", "attn", depth
                if i == len(depths) - 1 and level < len(self.up) - 1:
                    yield f"output_blocks.{number}.{2 if depth else 1}", f"up_blocks.{level}.upsamplers.0", "up", 0
                number += 1

    @property
    def cross_attention_count(self) -> int:
        return sum(depth for _, _, kind, depth in self.blocks() if kind == "attn")

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """By how much the latent is downsampled where there is cross-attention: 1, 2, 4, 8."""
        places = [level for level, depths in enumerate(self.down) if any(depths)]
        return tuple(2**level for level in {*places, *([len(self.down) - 1] if self.middle else [])})


@dataclass(frozen=True)
class TextEncoder:
    """``name`` is ours and the host's (clip_l), ``part`` its folder in a diffusers pipeline, width a token's."""

    name: str
    part: str
    width: int
    layers: int
    activation: str


@dataclass(frozen=True)
class LanguageModel:
    """A text encoder that is a language model: names and shapes of its linears by the host's keys.

    inner, keys: widths of all heads of queries, and of keys and values. hidden: of the feed-forward layers.
    """

    name: str
    width: int
    inner: int
    keys: int
    hidden: int
    layers: int

    def shapes(self) -> dict[str, tuple[int, int]]:
        wide, inner, keys, hidden = self.width, self.inner, self.keys, self.hidden
        sides = {"self_attn.q_proj": (inner, wide), "self_attn.k_proj": (keys, wide), "self_attn.v_proj": (keys, wide)}
        sides |= {"self_attn.o_proj": (wide, inner), "mlp.down_proj": (wide, hidden)}
        sides |= {"mlp.gate_proj": (hidden, wide), "mlp.up_proj": (hidden, wide)}
        return {
            f"{self.name}.transformer.model.layers.{number}.{name}.weight": shape
            for number in range(self.layers)
            for name, shape in sides.items()
        }


@dataclass(frozen=True)
class Family:
    """One kind of net. ``name`` is what files say ("-v" behind it: v-prediction), ``title`` what people do.

    kind: of net, as nets.py tells it. layout: of a UNet; depth: cross-attention layers of another net. encoders: those
    that are known here; none where several may be. context_width: of the text that cross-attention reads, the
    encoders' widths together. native_size: pixels of the side that it was trained at. linear_projections: proj_in and
    proj_out are linears, else 1x1 convolutions. architecture, base_version: modelspec's and kohya's words for it.
    batch: pictures per training step that an ordinary GPU bears. mark: a layer that no other kind of net has. runs:
    its files are read and its nets can be used; else the former alone.
    """

    name: str
    title: str
    layout: UNetLayout | None
    encoders: tuple[TextEncoder, ...]
    context_width: int
    native_size: int
    linear_projections: bool
    architecture: str
    base_version: str
    batch: int
    cell: int = CELL
    kind: str = UNET
    depth: int = 0
    runs: bool = True
    mark: str = ""

    def __post_init__(self) -> None:
        widths = sum(encoder.width for encoder in self.encoders)
        if self.runs and self.encoders and widths != self.context_width:
            raise MixOfShowError(f"{self.title}: its text encoders are {widths} wide, its context {self.context_width}")

    @property
    def layers(self) -> int:
        """Cross-attention layers."""
        return self.layout.cross_attention_count if self.layout else self.depth

    @property
    def text_layers(self) -> dict[str, int]:
        """Text encoder -> how many layers it has."""
        return {encoder.name: encoder.layers for encoder in self.encoders}
