"""Who owns which token: what is left of a drawing at the resolutions at which attention really works.

A region that is clear at 512 pixels may be two tokens wide at the middle of the UNet, and with whole-token edges it may
own none. This file draws and says so; the sampling itself uses attention.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..bounds import meaning
from ..families.family import CELL
from ..families.known import SD15
from .attention import blend_weights, cover
from .preview import colour
from .raster import RegionMap

DEFAULT_LEVELS = SD15.layout.attention_levels  # it attends at 1/8, 1/16, 1/32 and 1/64 of the picture
PANEL = 384
CAPTION = 24
OUTSIDE = (0.12, 0.12, 0.12)
GRID_FROM = 6  # pixels per token from which lines between tokens help


@dataclass(frozen=True)
class RegionShare:
    """One region at one resolution: ``tokens`` it touches, ``owned`` = sum of its weights, ``largest`` weight."""

    name: str
    tokens: int
    owned: float
    largest: float


@dataclass(frozen=True, eq=False)
class LevelCoverage:
    """One resolution: ``size`` in tokens, the weights [R, h, w] and what each region has of them."""

    size: tuple[int, int]
    weights: Tensor
    shares: tuple[RegionShare, ...]


def level_sizes(width: int, height: int, levels: Sequence[int] = DEFAULT_LEVELS) -> tuple[tuple[int, int], ...]:
    """Token grids (rows, columns) of a picture at each downsampling of its latent; every halving rounds up."""
    return tuple((-(-(height // CELL) // level), -(-(width // CELL) // level)) for level in levels)


def measure_coverage(placed: RegionMap, sizes: Sequence[tuple[int, int]]) -> tuple[LevelCoverage, ...]:
    """The weights that attention will use for the prompts at each size, as if every region were active."""
    spec, masks = placed.regions, placed.claiming().masks
    found = []
    for size in sizes:
        size = (max(1, size[0]), max(1, size[1]))
        weights = torch.zeros(0, *size)
        if spec.regions:
            strength = torch.tensor([region.strength for region in spec.regions])
            weight = torch.tensor([region.weight for region in spec.regions])
            covered = cover(masks[None].float() / 255, size, spec.edges)
            weights = blend_weights(covered, strength, weight, spec.overlap)[0].view(-1, *size)
        shares = tuple(
            RegionShare(region.name, int((own > 0).sum()), float(own.sum()), float(own.max()))
            for region, own in zip(spec.regions, weights, strict=True)
        )
        found.append(LevelCoverage(size, weights, shares))
    return tuple(found)


def describe_coverage(placed: RegionMap, levels: Sequence[LevelCoverage]) -> str:
    """One line per region and resolution, then what is lost and why."""
    if not placed.regions.regions:
        return "There are no regions; the whole picture reads Place's prompt."
    widest = max(len(region.name) for region in placed.regions.regions)
    heads = (f"{columns} x {rows}" for rows, columns in (level.size for level in levels))
    lines = [f"{'tokens':<{widest}}  " + "  ".join(f"{head:>9}" for head in heads)]
    for index, region in enumerate(placed.regions.regions):
        cells = "  ".join(f"{level.shares[index].owned:>9.1f}" for level in levels)
        lines.append(f"{region.name:<{widest}}  {cells}")
    return "\n".join([*lines, *_explain(placed, levels)])


def _explain(placed: RegionMap, levels: Sequence[LevelCoverage]) -> list[str]:
    spec, notes = placed.regions, placed.off_notes() + placed.idle_notes()
    for index, region in enumerate(spec.regions):
        if not region.claims:
            continue
        if region.strength == 0:
            notes.append(f"{region.name!r} has strength 0: its text counts nowhere.")
            continue
        gone = [level for level in levels if level.shares[index].tokens == 0]
        weak = [level for level in levels if level not in gone and level.shares[index].largest < 0.5 * region.strength]
        if gone:
            whys = {"paper": "no token lies wholly inside it (edges: paper)", "soft": "others cover it"}
            why = meaning("Regions: edges", spec.edges, whys)
            effect = "has no effect at all" if len(gone) == len(levels) else "has no effect in these layers"
            notes.append(f"{region.name!r} {effect}: {why} at {_sizes(gone)}. Enlarge it or draw on a larger canvas.")
        if weak:
            notes.append(
                f"{region.name!r} never owns half a token at {_sizes(weak)}: there the background or its neighbours "
                f"decide. Enlarge it, or sample larger; a detail pass with Pick Region helps small faces."
            )
    return notes


def _sizes(levels: Sequence[LevelCoverage]) -> str:
    return ", ".join(f"{columns} x {rows}" for rows, columns in (level.size for level in levels))


def draw_coverage(placed: RegionMap, levels: Sequence[LevelCoverage]) -> list[Image.Image]:
    """One picture per resolution, all of one size: every token in the mixed colour of its owners."""
    width, height = placed.regions.width, placed.regions.height
    scale = PANEL / max(width, height)
    panel = (max(1, round(width * scale)), max(1, round(height * scale)))
    return [_draw_level(level, panel) for level in levels]


def _draw_level(level: LevelCoverage, panel: tuple[int, int]) -> Image.Image:
    rows, columns = level.size
    colours = torch.tensor([colour(index) for index in range(len(level.weights))]).view(-1, 3)
    picture = torch.einsum("rhw,rc->hwc", level.weights, colours)
    picture += (1 - level.weights.sum(0)).clamp(min=0)[..., None] * torch.tensor(OUTSIDE)
    tokens = Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    image = Image.new("RGB", (panel[0], panel[1] + CAPTION), "black")
    image.paste(tokens.resize(panel, Image.Resampling.NEAREST), (0, CAPTION))
    pen = ImageDraw.Draw(image)
    if min(panel[0] / columns, panel[1] / rows) >= GRID_FROM:
        for column in range(1, columns):
            x = round(column * panel[0] / columns)
            pen.line((x, CAPTION, x, image.height), fill=(0, 0, 0))
        for row in range(1, rows):
            y = CAPTION + round(row * panel[1] / rows)
            pen.line((0, y, image.width, y), fill=(0, 0, 0))
    font = ImageFont.load_default(14)
    pen.text((4, CAPTION // 2), f"{columns} x {rows} tokens", font=font, anchor="lm", fill="white")
    return image
