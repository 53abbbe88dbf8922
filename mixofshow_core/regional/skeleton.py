"""OpenPose's drawing of one person's body: what pose ControlNets were trained to read."""

from __future__ import annotations

import math
from collections.abc import Mapping

from PIL import Image, ImageDraw

# The 18 points in OpenPose's order; limbs join them by number. A point has the colour of its own number, a limb that of
# its place in the list, darkened (Cao et al. 2019, and the drawing of the public pose ControlNets).
POINTS = (
    "nose",
    "neck",
    "right shoulder",
    "right elbow",
    "right wrist",
    "left shoulder",
    "left elbow",
    "left wrist",
    "right hip",
    "right knee",
    "right ankle",
    "left hip",
    "left knee",
    "left ankle",
    "right eye",
    "left eye",
    "right ear",
    "left ear",
)
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
)
COLOURS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
SHADE = 0.6
RADIUS = 4 / 512  # of a point and half of a limb's width, as a share of the picture's shorter side


def draw_skeleton(points: Mapping[str, tuple[float, float]], width: int, height: int) -> Image.Image:
    """``points``: those that are seen, by name from POINTS, (x, y) as shares of width and height. Black if none."""
    picture = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(picture)
    radius = max(1.0, RADIUS * min(width, height))
    places = {POINTS.index(name): (x * width, y * height) for name, (x, y) in points.items()}
    for (one, other), colour in zip(LIMBS, COLOURS, strict=False):
        if one in places and other in places:
            shade = tuple(round(value * SHADE) for value in colour)
            pen.polygon(_spindle(places[one], places[other], radius), fill=shade)
    for number, (x, y) in places.items():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[number])
    return picture


def _spindle(one: tuple[float, float], other: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    """An ellipse from point to point, ``radius`` its smaller half axis."""
    x, y = (one[0] + other[0]) / 2, (one[1] + other[1]) / 2
    dx, dy = (other[0] - one[0]) / 2, (other[1] - one[1]) / 2
    length = math.hypot(dx, dy) or 1.0
    across = -dy / length * radius, dx / length * radius
    turns = [2 * math.pi * step / 24 for step in range(24)]
    return [
        (x + dx * math.cos(t) + across[0] * math.sin(t), y + dy * math.cos(t) + across[1] * math.sin(t)) for t in turns
    ]
