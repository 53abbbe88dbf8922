"""Where which colours are: pictures as soft counts of a palette's colours on a coarse grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..errors import MixOfShowError


def colour_grid(pixels: torch.Tensor, palette: torch.Tensor, grid: int = 4, width: float = 28.0) -> torch.Tensor:
    """uint8 [N, H, W, 3] and palette [P, 3] in 0..255 -> [N, P * grid * grid].

    Each pixel is shared among the palette by a softmax of -distance^2 / (2 width^2), then averaged per cell. Pooled
    features of a classifier know little of colour; a linear probe on these reads it well.
    """
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != torch.uint8:
        raise MixOfShowError(
            f"A colour grid needs pictures [N, H, W, 3] of type uint8, not {tuple(pixels.shape)} of "
            f"type {pixels.dtype}."
        )
    rows = []
    for part in pixels.split(100):
        distance = torch.cdist(part.float().flatten(0, 2), palette.float()).pow(2)
        share = torch.softmax(-distance / (2 * width**2), 1).view(*part.shape[:3], len(palette))
        rows.append(F.adaptive_avg_pool2d(share.permute(0, 3, 1, 2), grid).flatten(1))
    return torch.cat(rows)
