"""What a set of regions comes to, in a few lines for people."""

from __future__ import annotations

from itertools import combinations

import torch.nn.functional as F

from ..bounds import meaning
from .raster import RegionMap

FINE = 256  # pixels of the longer side at which shares are counted; a share is told in whole percent
LEAST = 0.005  # of the canvas: a smaller overlap is only an edge


def describe_regions(placed: RegionMap) -> list[str]:
    """The share of the canvas that each region has, then who claims nothing and who overlaps whom."""
    off = placed.off_notes()
    placed = placed.enabled()
    spec = placed.regions
    if not spec.regions:
        return ["No regions: Place's prompt is read everywhere.", *off]
    scale = min(1.0, FINE / max(spec.width, spec.height))
    size = [max(1, round(side * scale)) for side in (spec.height, spec.width)]
    masks = F.interpolate(placed.masks[None].float() / 255, size=size, mode="area")[0]
    names = [region.name for region in spec.regions]
    count = "1 region" if len(names) == 1 else f"{len(names)} regions"
    shares = ", ".join(f"{name} {mask.mean():.0%}" for name, mask in zip(names, masks, strict=True))
    active = [n for n, region in enumerate(spec.regions) if region.claims and region.strength > 0]
    free = 1 - float(masks[active].amax(0).mean()) if active else 1.0
    lines = [f"{count} on {spec.width} x {spec.height}: {shares}; the background has {free:.0%}"]
    lines += off + [f"WARNING: {note}" for note in placed.idle_notes()]
    lines += [
        f"{region.name} has strength 0: its text counts nowhere" for region in spec.regions if region.strength == 0
    ]
    for a, b in combinations(active, 2):
        shared = float(masks[a].minimum(masks[b]).mean())
        if shared >= LEAST:
            rules = {"priority": f"{names[b]} has it", "average": "both texts are mixed there"}
            rule = meaning("overlap", spec.overlap, rules)
            lines.append(f"{names[a]} and {names[b]} share {shared:.0%} of the canvas: {rule}")
    return lines
