"""Pillow pictures as the host's IMAGE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


def to_image_batch(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Equal-sized pictures -> [B, H, W, 3] float32 in 0..1."""
    return torch.stack([torch.from_numpy(np.asarray(p.convert("RGB"), dtype=np.float32) / 255) for p in pictures])
