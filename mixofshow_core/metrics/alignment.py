"""Scores of feature vectors from any evaluator: like the references, like the text, distributed like the references."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..errors import MixOfShowError
from .colour import colour_grid

SIDE, CELLS, DIRECTIONS = 64, 4, 8  # of the built-in statistic
LEVELS = (32.0, 128.0, 224.0)  # its palette: 27 colours


def _cosines(a: torch.Tensor, b: torch.Tensor, what: str) -> torch.Tensor:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise MixOfShowError(
            f"{what}: features of shape {tuple(a.shape)} and {tuple(b.shape)} cannot be compared; "
            "both must be tables of the same width, made by the same evaluator."
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise MixOfShowError(f"{what}: some features are not finite numbers. Check the pictures and the evaluator.")
    return F.normalize(a.double(), dim=1) @ F.normalize(b.double(), dim=1).T


def image_alignment(features: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """[N, D], [M, D] -> [N]: mean over all references of max(cosine, 0).

    The all-pairs mean that the papers mean by CLIP-I (arXiv 2305.18292, section 5; 2212.04488, section 4).
    """
    return _cosines(features, references, "Image alignment").clamp(min=0).mean(1)


def text_alignment(features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """[N, D], [N, D] -> [N]: cosine of each picture with its own text; CLIPScore (2104.08718) is 2.5 max(this, 0)."""
    if len(features) != len(texts):
        raise MixOfShowError(f"Text alignment: {len(features)} pictures, {len(texts)} texts; one text each is needed.")
    return _cosines(features, texts, "Text alignment").diagonal()


def kernel_distance(features: torch.Tensor, references: torch.Tensor, *, paired: bool = False) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 between [N, D] and [M, D]; it may be negative.

    KID (arXiv 1801.01401, section 4) when the features are Inception's; of other features only the same formula.
    paired: row i of both was painted from the same noise, so that the pairs (i, i) are left out (arXiv 0805.2368,
    equation 5) and two equal sets are at 0.
    """
    if features.ndim != 2 or references.ndim != 2 or features.shape[1] != references.shape[1]:
        raise MixOfShowError(
            f"Kernel distance: features of shape {tuple(features.shape)} and "
            f"{tuple(references.shape)} come from different evaluators."
        )
    n, m = len(features), len(references)
    if n < 2 or m < 2:
        raise MixOfShowError(f"A kernel distance needs at least two pictures on each side, not {n} and {m}.")
    x, y = features.double(), references.double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / a.shape[1] + 1).pow(3)

    own, theirs = kernel(x, x), kernel(y, y)
    inside = (own.sum() - own.trace()) / (n * (n - 1)) + (theirs.sum() - theirs.trace()) / (m * (m - 1))
    across = kernel(x, y)
    if not paired:
        return float(inside - 2 * across.mean())
    if n != m:
        raise MixOfShowError(f"A paired kernel distance needs as many pictures on each side, not {n} and {m}.")
    return float(inside - 2 * (across.sum() - across.trace()) / (n * (n - 1)))


def plain_features(pictures: torch.Tensor) -> torch.Tensor:
    """IMAGE [N, H, W, 3] in 0..1 -> [N, D] of unit length: which colours and which edge directions are where.

    No network, no meaning: two pictures of one person in other clothes differ, two people in the same clothes may not.
    Cosines of these are Bhattacharyya coefficients, 0..1, and high for any two pictures.
    """
    if pictures.ndim != 4 or pictures.shape[3] < 3 or not len(pictures):
        raise MixOfShowError(f"Pictures must be [N, H, W, 3], not {tuple(pictures.shape)}.")
    pixels = pictures[..., :3].float().movedim(-1, 1)
    pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    palette = torch.cartesian_prod(*(torch.tensor(LEVELS),) * 3)
    colours = colour_grid((pixels * 255).round().to(torch.uint8).movedim(1, -1), palette, CELLS)
    grey = pixels.mean(1, keepdim=True)
    dx, dy = (
        F.pad(g, pad)
        for g, pad in ((grey[..., 1:] - grey[..., :-1], (0, 1)), (grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1)))
    )
    angle = torch.atan2(dy, dx).remainder(torch.pi) / torch.pi * DIRECTIONS
    strength = torch.hypot(dx, dy)
    sorted_in = torch.cat([strength * (angle.floor() == n) for n in range(DIRECTIONS)], 1)
    edges = F.adaptive_avg_pool2d(sorted_in, CELLS).flatten(1)
    shares = [part / part.sum(1, keepdim=True).clamp(min=1e-12) for part in (colours, edges)]
    return F.normalize(torch.cat(shares, 1).sqrt(), dim=1)
