"""A picture of the regions: coloured, named, over a backdrop."""

from __future__ import annotations

import colorsys

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .raster import RegionMap

TINT = 0.45
GOLDEN_ANGLE = 0.381966


def colour(index: int) -> tuple[float, float, float]:
    """Distinct colours for region 0, 1, 2, ... as RGB in 0..1."""
    return colorsys.hsv_to_rgb((0.58 + index * GOLDEN_ANGLE) % 1, 0.65, 0.95)


def draw_preview(placed: RegionMap, backdrop: Tensor | None = None) -> Tensor:
    """RGB picture [1, H, W, 3] in 0..1; ``backdrop`` is an image [1, h, w, 3] that is stretched to the canvas.

    A region that claims nothing has its name, but no colour; one that is switched off has neither.
    """
    height, width = placed.regions.height, placed.regions.width
    if backdrop is None:
        picture = torch.full((height, width, 3), 0.12)
    else:
        channels = backdrop[:1, ..., :3].detach().float().cpu().movedim(-1, 1)
        picture = torch.nn.functional.interpolate(channels, size=(height, width), mode="bilinear", antialias=True)[0]
        picture = picture.movedim(0, -1).clamp(0, 1).clone()
    for index, mask in enumerate(placed.claiming().masks):
        share = mask[..., None].float() / 255 * TINT
        picture = picture * (1 - share) + torch.tensor(colour(index)) * share
    image = Image.frombuffer("RGB", (width, height), (picture * 255).round().to(torch.uint8).numpy().tobytes())
    _write_names(image, placed)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(1, height, width, 3).float() / 255


def _write_names(image: Image.Image, placed: RegionMap) -> None:
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(10, min(image.size) // 24))
    for index, (region, mask) in enumerate(zip(placed.regions.regions, placed.masks, strict=True)):
        if not region.enabled:
            continue
        rows, columns = (mask >= 128).nonzero(as_tuple=True) if (mask >= 128).any() else mask.nonzero(as_tuple=True)
        place = (float(columns.float().mean()), float(rows.float().mean()))
        label = f"{index + 1} {region.concept or region.name}".encode("latin-1", "replace").decode("latin-1")
        pen.text(place, label, font=font, anchor="mm", fill="white", stroke_width=2, stroke_fill="black")
