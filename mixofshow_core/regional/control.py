"""How strongly a control image counts at each place of a picture.

With region weights w_r(p) (attention.py), their sum S(p) <= 1, control weights c_r and the weight outside c_0:

    m(p) = (1 - S(p)) c_0 + sum over r of w_r(p) c_r

and each residual of the control model is multiplied by m at its own resolution. For hard boxes this is the weight map
that Mix-of-Show's code gives its T2I-Adapters: the weight outside, overwritten inside each box. Where boxes overlap,
the last one wins in that code; here the regions' own rule decides ("priority" is the code's).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import blend_weights, cover
from .raster import RegionMap


def control_weights(placed: RegionMap, size: tuple[int, int], outside: float = 1.0) -> Tensor:
    """Weight map [h, w] of a control at one resolution. A region's ``strength`` and schedule concern its text only."""
    spec = placed.regions
    if not spec.regions:
        return torch.full(size, float(outside))
    covered = cover(placed.masks[None].float() / 255, size, spec.edges)
    shares = blend_weights(
        covered, torch.ones(len(spec.regions)), torch.tensor([r.weight for r in spec.regions]), spec.overlap
    )[0]
    inside = (shares * torch.tensor([r.control for r in spec.regions])[:, None]).sum(0)
    return (inside + (1 - shares.sum(0)).clamp(min=0) * outside).view(size)


def uniform_weight(placed: RegionMap, outside: float = 1.0) -> float | None:
    """The one weight that holds everywhere, or None: such a map need not be multiplied cell by cell."""
    values = {region.control for region in placed.regions.regions} | {float(outside)}
    return values.pop() if len(values) == 1 else None
