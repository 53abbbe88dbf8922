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
    """``canvas`` [H, W, 3] float32 in 0..1; ``valid`` and ``subject`` [H, W] float32 in 0..1.

    ``phrase`` says how large the picture lies on the canvas, for the caption; empty for ordinary sizes.
    """

    canvas: np.ndarray
    valid: np.ndarray
    subject: np.ndarray
    phrase: str = ""


Canvas = int | tuple[int, int]  # side of a square, or (width, height)
PHRASES = {"far": ("far away", "very small"), "close": ("zoomed in", "close up")}
FAR, CLOSE = 0.6, (1.2, 1.4)


def bucket(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) of the canvas nearest to the picture's shape: about ``side`` squared pixels, at most 2:1.

    The sides are multiples of 64 (32 for small bases), which every level of the net divides evenly.
    """
    step = 64 if side >= 256 else 32
    ratio = min(max(width / height, 0.5), 2.0)
    return max(step, round(side * ratio**0.5 / step) * step), max(step, round(side / ratio**0.5 / step) * step)


def edge_colour(pixels: np.ndarray) -> tuple[int, ...]:
    """Median colour of the picture's outermost pixels."""
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(rim, axis=0))


def _sides(size: Canvas) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def paste(picture: Picture, size: Canvas, scale: float, left: float, top: float, flip: bool, phrase="") -> Placed:
    """Scale the picture and lay it on a canvas.

    ``scale`` 1 is the largest at which the whole picture fits; larger ones overflow and are cropped.
    ``left``, ``top`` in 0..1 slide it from one end of its free (or overhanging) room to the other.
    """
    height, width = picture.pixels.shape[:2]
    across, down = _sides(size)
    factor = scale * min(across / width, down / height)
    new = (max(1, round(width * factor)), max(1, round(height * factor)))
    offset = (round((across - new[0]) * left), round((down - new[1]) * top))
    resample = Image.Resampling.LANCZOS

    def lay(array: np.ndarray, fill: object, mode: str) -> np.ndarray:
        image = Image.fromarray(array).resize(new, resample)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas = Image.new(mode, (across, down), fill)
        canvas.paste(image, offset)
        return np.asarray(canvas, dtype=np.float32) / 255.0

    canvas = lay(picture.pixels, edge_colour(picture.pixels), "RGB")
    full = np.full((height, width), 255, np.uint8)
    valid = lay(full, 0, "L")
    subject = valid if picture.mask is None else lay(picture.mask, 0, "L")
    return Placed(canvas, valid, subject, phrase)


def whole(picture: Picture, size: Canvas) -> Placed:
    """The whole picture, as large as it fits, centred."""
    return paste(picture, size, 1.0, 0.5, 0.5, False)


def put_on_canvas(picture: Picture, size: Canvas, settings: TrainSettings, seed: int) -> Placed:
    """One random placement: a full crop (head room kept for portraits) or the whole picture, smaller and shifted.

    With ``size_captions`` it is Custom Diffusion's: a third enlarged and cropped, the others shrunk or left, and told.
    """
    rng = np.random.default_rng(seed)
    crop, scale, left, top, flip = rng.random(5)
    mirrored = settings.flip and flip < 0.5
    height, width = picture.pixels.shape[:2]
    across, down = _sides(size)
    ratio = max(across / width, down / height) / min(across / width, down / height)
    if settings.size_captions:
        word = int(left * 1e6) % 2
        if crop >= 2 / 3:
            zoom = CLOSE[0] + (CLOSE[1] - CLOSE[0]) * scale
            return paste(picture, size, ratio * zoom, left, top, mirrored, PHRASES["close"][word])
        shrunk = 1 / 3 + 2 / 3 * scale
        if shrunk < FAR:
            return paste(picture, size, shrunk, left, top, mirrored, PHRASES["far"][word])
        return paste(picture, size, 1.0, 0.5, 0.5, mirrored)
    if ratio > 1.0 and crop < settings.crop_chance:
        return paste(picture, size, ratio, left, top * 0.5 if height > width else 0.5, mirrored)
    size_factor = settings.scale_min + (1.0 - settings.scale_min) * scale
    return paste(picture, size, size_factor, left, top, mirrored)


def placements(picture: Picture, size: Canvas, settings: TrainSettings, seed: int) -> Iterator[Placed]:
    """``settings.variants`` placements; the first is always the whole picture, unchanged."""
    yield whole(picture, size)
    for number in range(1, settings.variants):
        yield put_on_canvas(picture, size, settings, seed * 100_003 + number)


def to_cells(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[rows, columns] mean of ``mask`` over each latent cell."""
    image = Image.fromarray(mask.astype(np.float32), "F").resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32)
