"""From shapes to uint8 masks, bit for bit the same in Python and JavaScript.

Rules, which tests/golden/regions_raster.json pins down: float64 with + - x / and square root only; 4x4 samples per
pixel, summed row by row; a feathered edge is a linear ramp over the Euclidean distance, half of it on either side of
the edge; the border of the canvas is not an edge; value = floor(255 * mean + 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import MixOfShowError
from .schema import Bitmask, Ellipse, InputMask, Polygon, Rectangle, RegionSet, Shape

SAMPLES = 4
FAR_AWAY = 1.0e9  # stands for an edge that is no edge
ELLIPSE_STEPS = 4
ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class RegionMap:
    """Validated regions with their masks, uint8 [R, height, width]: what travels on the REGIONS wire.

    elsewhere: texts of regions that were drawn and are left out here (not picked, switched off). A LoRA that they call
    is somebody who is not here, and no LoRA for the whole picture.
    """

    regions: RegionSet
    masks: Tensor
    elsewhere: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wanted = (len(self.regions.regions), self.regions.height, self.regions.width)
        if tuple(self.masks.shape) != wanted or self.masks.dtype != torch.uint8:
            raise MixOfShowError(
                f"Regions: the masks are {self.masks.dtype} {tuple(self.masks.shape)}; uint8 {wanted} is needed."
            )

    def enabled(self) -> RegionMap:
        """Without the regions that are switched off, which keep their place in the list and the batch of masks only."""
        kept = [n for n, region in enumerate(self.regions.regions) if region.enabled]
        if len(kept) == len(self.regions.regions):
            return self
        regions = tuple(self.regions.regions[n] for n in kept)
        return RegionMap(replace(self.regions, regions=regions), self.masks[kept], self.texts_without(kept))

    def texts_without(self, kept: Sequence[int]) -> tuple[str, ...]:
        """``elsewhere``, once only the regions ``kept`` are left."""
        left_out = [region for n, region in enumerate(self.regions.regions) if n not in kept]
        return (*self.elsewhere, *(text for region in left_out for text in (region.prompt, region.concept) if text))

    def off_notes(self) -> list[str]:
        """A line for each region that is switched off."""
        return [f"{region.name!r} is switched off" for region in self.regions.regions if not region.enabled]

    def claiming(self, negative: bool = False) -> RegionMap:
        """The same regions, with empty masks for those that claim nothing: the background and the others keep it.

        ``negative``: for the negative prompts, where a region with a negative of its own has its place as well.
        """
        regions = self.regions.regions
        idle = [n for n, r in enumerate(regions) if not (r.claims or (negative and r.negative.strip()))]
        if not idle:
            return self
        masks = self.masks.clone()
        masks[idle] = 0
        return replace(self, masks=masks)

    def idle_notes(self) -> list[str]:
        """A line for each region that claims nothing."""
        what = {True: "only its negative counts", False: "it claims nothing"}
        return [
            f"{region.name!r} has no prompt and no concept: {what[bool(region.negative.strip())]}, and Place's prompt "
            "decides there. Say what is there, or delete it."
            for region in self.regions.regions
            if region.enabled and not region.claims
        ]


def make_map(regions: RegionSet, masks: Sequence[Tensor] = ()) -> RegionMap:
    return RegionMap(regions, rasterize(regions, masks))


def rasterize(regions: RegionSet, masks: Sequence[Tensor] = ()) -> Tensor:
    """All regions as uint8 [R, height, width]; ``masks`` are the float masks that `input` shapes refer to.

    The mask of a region that is switched off is empty. Raises MixOfShowError for one that covers no pixel, and for
    masks that are missing or unusable.
    """
    planes = []
    for region in regions.regions:
        if not region.enabled:
            planes.append(torch.zeros(regions.height, regions.width, dtype=torch.uint8))
            continue
        if isinstance(region.shape, InputMask):
            plane = _from_input(region.shape.index, region.name, masks, regions.width, regions.height)
            plane = _feather_pixels(plane >= 128, region.feather * _short_side(regions)) if region.feather else plane
        else:
            plane = rasterize_shape(region.shape, regions.width, regions.height, region.feather)
        if not plane.any():
            raise MixOfShowError(
                f"Regions: region {region.name!r} covers no pixel of the {regions.width} x {regions.height} canvas; "
                f"make it larger or delete it."
            )
        planes.append(torch.from_numpy(plane))
    if not planes:
        return torch.zeros(0, regions.height, regions.width, dtype=torch.uint8)
    return torch.stack(planes)


def _short_side(regions: RegionSet) -> int:
    return min(regions.width, regions.height)


def rasterize_shape(shape: Shape, width: int, height: int, feather: float = 0.0) -> np.ndarray:
    """One shape as uint8 [height, width]; ``feather`` is the width of the ramp as a fraction of the shorter side."""
    ramp = feather * min(width, height)
    if isinstance(shape, Bitmask):
        hits = _bitmask_hits(shape, width, height)
        return _feather_pixels(2 * hits >= SAMPLES * SAMPLES, ramp) if ramp else _to_bytes(hits)
    if not ramp:
        return _to_bytes(_count_hits(shape, width, height))
    return _feather_shape(shape, width, height, ramp)


def _to_bytes(total: np.ndarray) -> np.ndarray:
    """Sum over the samples of a pixel -> 0..255, half rounded up."""
    return np.floor(total / (SAMPLES * SAMPLES) * 255.0 + 0.5).astype(np.uint8)


def _offsets() -> list[tuple[float, float]]:
    return [((i + 0.5) / SAMPLES, (j + 0.5) / SAMPLES) for j in range(SAMPLES) for i in range(SAMPLES)]


def _count_hits(shape: Shape, width: int, height: int) -> np.ndarray:
    xs, ys = np.arange(width, dtype=np.float64)[None], np.arange(height, dtype=np.float64)[:, None]
    total = np.zeros((height, width))
    for dx, dy in _offsets():
        total += _inside(shape, xs + dx, ys + dy, width, height)
    return total


def _feather_shape(shape: Shape, width: int, height: int, ramp: float) -> np.ndarray:
    """Samples only the pixels near the edge; the rest is 0 or 255 by the distance of their centre."""
    ys, xs = (grid.reshape(-1).astype(np.float64) for grid in np.indices((height, width)))
    centre = _signed_distance(shape, xs + 0.5, ys + 0.5, width, height)
    plane = np.where(centre > 0, np.uint8(255), np.uint8(0))
    near = np.nonzero(np.abs(centre) < ramp / 2 + 2.0)[0]
    total = np.zeros(near.size)
    for dx, dy in _offsets():
        distance = _signed_distance(shape, xs[near] + dx, ys[near] + dy, width, height)
        total += np.minimum(1.0, np.maximum(0.0, 0.5 + distance / ramp))
    plane[near] = _to_bytes(total)
    return plane.reshape(height, width)


def _signed_distance(shape: Shape, xs: np.ndarray, ys: np.ndarray, width: int, height: int) -> np.ndarray:
    distance = _distance(shape, xs, ys, width, height)
    return np.where(_inside(shape, xs, ys, width, height), distance, -distance)


def _pixels(shape: Rectangle | Ellipse, width: int, height: int) -> tuple[float, float, float, float]:
    return shape.x * width, shape.y * height, (shape.x + shape.width) * width, (shape.y + shape.height) * height


def _inside(shape: Shape, xs: np.ndarray, ys: np.ndarray, width: int, height: int) -> np.ndarray:
    if isinstance(shape, Polygon):
        return _inside_polygon(shape, xs, ys, width, height)
    left, top, right, bottom = _pixels(shape, width, height)
    if isinstance(shape, Rectangle):
        return (xs >= left) & (xs < right) & (ys >= top) & (ys < bottom)
    u = (xs - (left + right) / 2) / ((right - left) / 2)
    v = (ys - (top + bottom) / 2) / ((bottom - top) / 2)
    return u * u + v * v <= 1.0


def _corners(shape: Polygon, width: int, height: int) -> list[tuple[float, float, float, float]]:
    points = [(x * width, y * height) for x, y in shape.points]
    return [(*a, *b) for a, b in zip(points, points[1:] + points[:1], strict=True)]


def _inside_polygon(shape: Polygon, xs: np.ndarray, ys: np.ndarray, width: int, height: int) -> np.ndarray:
    inside = np.zeros(np.broadcast_shapes(xs.shape, ys.shape), dtype=bool)
    for x1, y1, x2, y2 in _corners(shape, width, height):
        if y1 != y2:
            crosses = (y1 > ys) != (y2 > ys)
            inside ^= crosses & (xs < (x2 - x1) * (ys - y1) / (y2 - y1) + x1)
    return inside


def _distance(shape: Shape, xs: np.ndarray, ys: np.ndarray, width: int, height: int) -> np.ndarray:
    """Euclidean distance in pixels to the nearest edge, 0 or more."""
    if isinstance(shape, Polygon):
        return _distance_polygon(shape, xs, ys, width, height)
    left, top, right, bottom = _pixels(shape, width, height)
    if isinstance(shape, Ellipse):
        x, y = (left + right) / 2, (top + bottom) / 2
        return _distance_ellipse(xs - x, ys - y, (right - left) / 2, (bottom - top) / 2)
    left, top = (-FAR_AWAY if left <= 0 else left), (-FAR_AWAY if top <= 0 else top)
    right, bottom = (FAR_AWAY if right >= width else right), (FAR_AWAY if bottom >= height else bottom)
    dx, dy = np.maximum(left - xs, xs - right), np.maximum(top - ys, ys - bottom)
    out_x, out_y = np.maximum(dx, 0.0), np.maximum(dy, 0.0)
    return np.where((dx > 0) | (dy > 0), np.sqrt(out_x * out_x + out_y * out_y), -np.maximum(dx, dy))


def _distance_polygon(shape: Polygon, xs: np.ndarray, ys: np.ndarray, width: int, height: int) -> np.ndarray:
    squared = np.full(xs.shape, FAR_AWAY * FAR_AWAY)
    for x1, y1, x2, y2 in _corners(shape, width, height):
        on_border = (x1 <= 0 and x2 <= 0) or (x1 >= width and x2 >= width)
        on_border = on_border or (y1 <= 0 and y2 <= 0) or (y1 >= height and y2 >= height)
        ex, ey = x2 - x1, y2 - y1
        length = ex * ex + ey * ey
        if on_border or length == 0:
            continue
        t = np.minimum(1.0, np.maximum(0.0, ((xs - x1) * ex + (ys - y1) * ey) / length))
        dx, dy = xs - (x1 + t * ex), ys - (y1 + t * ey)
        squared = np.minimum(squared, dx * dx + dy * dy)
    return np.sqrt(squared)


def _distance_ellipse(xs: np.ndarray, ys: np.ndarray, a: float, b: float) -> np.ndarray:
    """Distance to an ellipse with half axes a, b: walks along the curvature circle, which needs no trigonometry."""
    px, py = np.abs(xs), np.abs(ys)
    tx = np.full(px.shape, 0.7071067811865476)
    ty = tx.copy()
    for _ in range(ELLIPSE_STEPS):
        ex, ey = (a * a - b * b) * (tx * tx * tx) / a, (b * b - a * a) * (ty * ty * ty) / b
        rx, ry = a * tx - ex, b * ty - ey
        qx, qy = px - ex, py - ey
        reach = np.sqrt(rx * rx + ry * ry) / np.maximum(np.sqrt(qx * qx + qy * qy), 1e-12)
        tx = np.minimum(1.0, np.maximum(0.0, (qx * reach + ex) / a))
        ty = np.minimum(1.0, np.maximum(0.0, (qy * reach + ey) / b))
        norm = np.maximum(np.sqrt(tx * tx + ty * ty), 1e-12)
        tx, ty = tx / norm, ty / norm
    dx, dy = px - a * tx, py - b * ty
    return np.sqrt(dx * dx + dy * dy)


def _bitmask_hits(shape: Bitmask, width: int, height: int) -> np.ndarray:
    flat = np.repeat(np.arange(len(shape.runs)) % 2, shape.runs)
    grid = flat.reshape(shape.height, shape.width).astype(np.float64)
    total = np.zeros((height, width))
    for dx, dy in _offsets():
        columns = ((np.arange(width) + dx) * shape.width / width).astype(np.int64)
        rows = ((np.arange(height) + dy) * shape.height / height).astype(np.int64)
        total += grid[rows[:, None], columns[None]]
    return total


def _feather_pixels(inside: np.ndarray, ramp: float) -> np.ndarray:
    """A ramp over the distance between pixel centres, less half a pixel, to the nearest pixel of the other kind."""
    reach = int(ramp / 2) + 2
    to_outside, to_inside = _nearest(~inside, reach), _nearest(inside, reach)
    signed = np.where(inside, to_outside - 0.5, 0.5 - to_inside)
    value = np.minimum(1.0, np.maximum(0.0, 0.5 + signed / ramp))
    return np.floor(value * 255.0 + 0.5).astype(np.uint8)


def _nearest(target: np.ndarray, reach: int) -> np.ndarray:
    """Distance from every pixel to the nearest true pixel, exact up to ``reach``, larger beyond."""
    height, width = target.shape
    far = float(4 * reach + 4)
    down = np.where(target, 0.0, far)
    for y in range(1, height):
        down[y] = np.minimum(down[y], down[y - 1] + 1.0)
    for y in range(height - 2, -1, -1):
        down[y] = np.minimum(down[y], down[y + 1] + 1.0)
    squared = down * down
    best = squared.copy()
    for step in range(1, min(reach, width - 1) + 1):
        best[:, step:] = np.minimum(best[:, step:], squared[:, :-step] + float(step * step))
        best[:, :-step] = np.minimum(best[:, :-step], squared[:, step:] + float(step * step))
    return np.sqrt(best)


def _from_input(index: int, name: str, masks: Sequence[Tensor], width: int, height: int) -> np.ndarray:
    """Input mask as uint8; another size is resized when the proportions agree, else it is an error."""
    if index >= len(masks):
        raise MixOfShowError(
            f"Regions: region {name!r} uses input mask {index}, but `masks` brings {len(masks)}; connect more masks."
        )
    mask = masks[index].detach().to("cpu", torch.float32)
    if mask.dim() != 2 or 0 in mask.shape:
        raise MixOfShowError(f"Regions: mask {index} for region {name!r} is {tuple(mask.shape)}; [H, W] is needed.")
    if not torch.isfinite(mask).all():
        raise MixOfShowError(f"Regions: mask {index} for region {name!r} holds NaN or infinite values.")
    rows, columns = mask.shape
    if abs((columns * height) / (rows * width) - 1) > ASPECT_TOLERANCE:
        raise MixOfShowError(
            f"Regions: mask {index} for region {name!r} is {columns} x {rows}, the canvas is {width} x {height}; "
            f"the proportions differ. Crop or pad the mask, or change width and height."
        )
    if (rows, columns) != (height, width):
        resize = torch.nn.functional.interpolate
        mask = resize(mask[None, None], size=(height, width), mode="bilinear", antialias=True)[0, 0]
    return (mask.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8).numpy()
