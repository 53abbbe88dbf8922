"""A small picture in a concept file's header, where LoRA managers and our card look for one.

It is a picture that the concept drew, never one it learned from: files get shared, private photographs should not.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from .native import read_concept, write_concept

SIDE = 192  # pixels; about 5 kB as JPEG
QUALITY = 85


def thumbnail_url(pixels: Tensor) -> str:
    """A JPEG data URL of pixels [H, W, 3] in 0..1."""
    values = (pixels.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    picture = Image.fromarray(values)
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def add_thumbnail(path: Path | str, pixels: Tensor) -> None:
    """Put pixels [H, W, 3] in 0..1 into the header of a concept file that has no picture yet; nothing else changes."""
    concept = read_concept(Path(path))
    if "thumbnail" not in concept.training:
        write_concept(Path(path), replace(concept, training={**concept.training, "thumbnail": thumbnail_url(pixels)}))
