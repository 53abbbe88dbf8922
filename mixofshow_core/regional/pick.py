"""One region out of many, for a second pass over a crop or an inpainting mask."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import MixOfShowError
from ..families.family import CELL
from ..names import fold
from .raster import RegionMap
from .schema import Rectangle, Region

WHOLE = Rectangle(0.0, 0.0, 1.0, 1.0)


def find_region(placed: RegionMap, name: str) -> int:
    """Number of the region with this name or id, compared as names are; an empty name means the only one."""
    regions = placed.regions.regions
    wanted = fold(name.strip())
    if not wanted and len(regions) == 1:
        return 0
    known = ", ".join(repr(region.name) for region in regions) or "none"
    if not wanted:
        raise MixOfShowError(f"Pick Region: name one of the regions: {known}.")
    for field in ("name", "id"):
        for number, region in enumerate(regions):
            if fold(getattr(region, field)) == wanted:
                return number
    raise MixOfShowError(f"Pick Region: there is no region {name!r}. Known: {known}.")


def pick_region(placed: RegionMap, name: str) -> tuple[RegionMap, Tensor]:
    """That region over the whole canvas, at full strength from start to end, and its own mask [1, H, W] in 0..1.

    Shape, strength and schedule placed it among others; text, concept and control weight are what it brings along.
    """
    number = find_region(placed, name)
    spec = placed.regions
    if not spec.regions[number].enabled:
        raise MixOfShowError(
            f"Pick Region: region {spec.regions[number].name!r} is switched off. Switch it on in the editor of "
            "Regions, or bypass its detail pass as well."
        )
    whole: Region = replace(spec.regions[number], shape=WHOLE, strength=1.0, feather=0.0, start=0.0, end=1.0)
    mask = placed.masks[number][None].float() / 255
    alone = replace(spec, regions=(whole,))
    everywhere = torch.full((1, spec.height, spec.width), 255, dtype=torch.uint8)
    return RegionMap(alone, everywhere, placed.texts_without([number])), mask


def crop_box(mask: Tensor, width: int, height: int) -> tuple[int, int, int, int]:
    """(x, y, width, height) around a region's mask [1, H, W] in a picture of that size, which has the canvas's shape.

    Outwards to whole latent cells, as far as the picture goes; of an empty mask, the whole picture.
    """
    sides = []
    for axis, size in ((1, width), (0, height)):
        covered = (mask[0] > 0).any(1 - axis).nonzero().flatten()
        scale = size / mask.shape[1 + axis]
        low, high = (float(covered[0]) * scale, float(covered[-1] + 1) * scale) if len(covered) else (0.0, float(size))
        start = int(low // CELL * CELL)
        sides.append((start, min(int(-(-high // CELL) * CELL), size) - start))
    (x, wide), (y, high) = sides
    return x, y, wide, high
