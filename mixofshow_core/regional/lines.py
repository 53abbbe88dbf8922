"""A line drawing of a picture, as a sketch control wants it; needs nothing but torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LIMIT = 0.06
AROUND = ((0, 1), (1, 1), (1, 0), (1, -1))  # the neighbour (row, column) in the direction of each octant


def draw_lines(pixels: Tensor, limit: float = LIMIT) -> Tensor:
    """[B, 1, H, W] of 0 and 1 from colours [B, 3, H, W] in 0..1: ridges of the steepest channel's slope.

    ``limit``: the smallest slope that makes a line, as a share of the colour range per pixel. Canny's method (1986)
    without smoothing and without hysteresis, on the channel that changes most, so that equally bright colours part.
    """
    sobel = pixels.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    slopes = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None]).unflatten(0, pixels.shape[:2])
    size = slopes.norm(dim=2)
    strongest = size.argmax(1, keepdim=True)
    size = size.gather(1, strongest)[:, 0]
    dx, dy = slopes.gather(1, strongest[:, :, None].expand(-1, -1, 2, -1, -1))[:, 0].unbind(1)
    octant = (torch.atan2(dy, dx) / (math.pi / 4)).round().long() % 4
    around, (rows, columns) = F.pad(size, (1, 1, 1, 1)), size.shape[-2:]
    ridge = torch.zeros_like(size, dtype=torch.bool)
    for number, (y, x) in enumerate(AROUND):
        ahead = around[:, 1 + y : 1 + y + rows, 1 + x : 1 + x + columns]
        behind = around[:, 1 - y : 1 - y + rows, 1 - x : 1 - x + columns]
        ridge |= (octant == number) & (size >= ahead) & (size > behind)
    return (ridge & (size > limit)).to(pixels)[:, None]
