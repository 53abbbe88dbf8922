"""Placing a picture on a square canvas, with masks of what is picture and what is object.

The idea is Mix-of-Show's (scaled, shifted copies with the loss taken only where the picture is). Own choices: the
border is filled with the picture's median edge colour instead of black, so that little of it leaks into latents
beside it, and latent cells that touch the border do not count at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .dataset import Picture
from .settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Placed:
    """``canvas`` [S, S, 3] float32 in 0..1; ``valid`` and ``subject`` [S, S] float32 in 0..1."""

    canvas: np.ndarray
    valid: np.ndarray
    subject: np.ndarray


def edge_colour(pixels: np.ndarray) -> tuple[int, ...]:
    """Median colour of the picture's outermost pixels."""
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(rim, axis=0))


def paste(picture: Picture, size: int, scale: float, left: float, top: float, flip: bool) -> Placed:
    """Scale the picture and lay it on a ``size`` x ``size`` canvas.

    ``scale`` is the picture's long side over the canvas side for values up to 1; larger ones overflow and are cropped.
    ``left``, ``top`` in 0..1 slide it from one end of its free (or overhanging) room to the other.
    """
    height, width = picture.pixels.shape[:2]
    factor = scale * size / max(height, width)
    new = (max(1, round(width * factor)), max(1, round(height * factor)))
    offset = (round((size - new[0]) * left), round((size - new[1]) * top))
    resample = Image.Resampling.LANCZOS

    def lay(array: np.ndarray, fill: object, mode: str) -> np.ndarray:
        image = Image.fromarray(array).resize(new, resample)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas = Image.new(mode, (size, size), fill)
        canvas.paste(image, offset)
        return np.asarray(canvas, dtype=np.float32) / 255.0

    canvas = lay(picture.pixels, edge_colour(picture.pixels), "RGB")
    full = np.full((height, width), 255, np.uint8)
    valid = lay(full, 0, "L")
    subject = valid if picture.mask is None else lay(picture.mask, 0, "L")
    return Placed(canvas, valid, subject)


def whole(picture: Picture, size: int) -> Placed:
    """The whole picture, as large as it fits, centred."""
    return paste(picture, size, 1.0, 0.5, 0.5, False)


def place(picture: Picture, size: int, settings: TrainSettings, seed: int) -> Placed:
    """One random placement: a square crop (head room kept for portraits) or the whole picture, smaller and shifted."""
    rng = np.random.default_rng(seed)
    crop, scale, left, top, flip = rng.random(5)
    mirrored = settings.flip and flip < 0.5
    height, width = picture.pixels.shape[:2]
    ratio = max(height, width) / min(height, width)
    if ratio > 1.0 and crop < settings.crop_chance:
        return paste(picture, size, ratio, left, top * 0.5 if height > width else 0.5, mirrored)
    size_factor = settings.scale_min + (1.0 - settings.scale_min) * scale
    return paste(picture, size, size_factor, left, top, mirrored)


def placements(picture: Picture, size: int, settings: TrainSettings, seed: int) -> Iterator[Placed]:
    """``settings.variants`` placements; the first is always the whole picture, unchanged."""
    yield whole(picture, size)
    for number in range(1, settings.variants):
        yield place(picture, size, settings, seed * 100_003 + number)


def to_cells(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[rows, columns] mean of ``mask`` over each latent cell."""
    image = Image.fromarray(mask.astype(np.float32), "F").resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32)
