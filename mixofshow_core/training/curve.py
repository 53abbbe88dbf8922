"""The losses of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 640, 360
LEFT, TOP, RIGHT, BOTTOM = 56, 24, 16, 32
PAPER, INK, DOT, LINE, GRID = (255, 255, 255), (60, 60, 60), (190, 205, 225), (30, 90, 180), (228, 228, 228)
SMOOTH = 0.1  # share of the run that the running mean looks back


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last ``width`` values, of fewer at the start; [N] -> [N]."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - width)
    return (total[last] - total[first]) / (last - first)


def loss_curve(losses: Sequence[float], steps: int) -> np.ndarray:
    """[H, W, 3] in 0..1: every loss as a dot (they jump with the noise level) and their running mean as a line.

    ``losses`` may be thinned out; they are spread over ``steps``.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    values = np.asarray([loss for loss in losses if np.isfinite(loss)], dtype=np.float64)
    high = float(np.quantile(values, 0.98)) * 1.1 if len(values) else 1.0
    high = high or 1.0
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    for part in range(5):
        y = TOP + down * part / 4
        draw.line((LEFT, y, LEFT + across, y), GRID)
        draw.text((LEFT - 6, y), f"{high * (1 - part / 4):.3g}", INK, anchor="rm")
        x = LEFT + across * part / 4
        draw.text((x, TOP + down + 6), str(round(steps * part / 4)), INK, anchor="mt" if part else "lt")
    draw.text((LEFT, 6), f"loss of {steps} steps, and its running mean", INK)
    if len(values):
        x = LEFT + across * (np.arange(1, len(values) + 1) / len(values))
        height = TOP + down * (1 - np.clip(values / high, 0.0, 1.0))
        for column, row in zip(x, height, strict=True):
            draw.ellipse((column - 1, row - 1, column + 1, row + 1), DOT)
        mean = running_mean(values, max(1, round(SMOOTH * len(values))))
        rows = TOP + down * (1 - np.clip(mean / high, 0.0, 1.0))
        if len(values) > 1:
            draw.line(list(zip(x.tolist(), rows.tolist(), strict=True)), LINE, 2)
    return np.asarray(image, dtype=np.float32) / 255.0
