"""Three scenes and three styles of the small world, and ten look-alikes of each, drawn here (no third party's art).

A scene is a fixed place, 64 pixels a side, into which subjects are pasted; a style is a fixed rendering of any canvas.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SIDE = 64
BIG = 4 * SIDE
Colour = tuple[int, int, int]


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    steps = np.linspace(0, 1, BIG)[:, None, None]
    rows = np.asarray(top) * (1 - steps) + np.asarray(bottom) * steps
    return Image.fromarray(np.broadcast_to(rows, (BIG, BIG, 3)).round().astype(np.uint8))


def beach(sky: Colour, sun: Colour, sea: Colour, sand: Colour) -> Image.Image:
    picture = _gradient(sky, tuple(min(255, c + 40) for c in sky))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((176, 18, 232, 74), fill=sun)
    draw.rectangle((0, 110, BIG, BIG), fill=sea)
    for x in range(0, BIG, 64):
        draw.arc((x, 122, x + 60, 140), 180, 360, fill="white", width=4)
    draw.ellipse((-120, 160, BIG + 120, 420), fill=sand)
    draw.line((30, 190, 44, 70), fill=(112, 78, 48), width=10)
    for angle in (200, 240, 285, 330, 370):
        a = math.radians(angle)
        draw.line((44, 70, 44 + 46 * math.cos(a), 70 + 30 * math.sin(a)), fill=(44, 128, 62), width=11)
    return picture


def winter(sky: Colour, light: Colour, mountain: Colour, tree: Colour) -> Image.Image:
    picture = _gradient(sky, tuple(min(255, c + 60) for c in sky))
    draw = ImageDraw.Draw(picture)
    for x in range(0, BIG, 4):
        y = 40 + 16 * math.sin(x / 34)
        draw.line((x, y, x, y + 34), fill=light, width=4)
    for x, y, width in ((50, 70, 80), (150, 50, 100), (230, 86, 70)):
        draw.polygon(((x - width, 180), (x, y), (x + width, 180)), fill=mountain)
        draw.polygon(((x - width * 0.2, y + 24), (x, y), (x + width * 0.2, y + 24)), fill="white")
    draw.rectangle((0, 172, BIG, BIG), fill=(240, 245, 252))
    for x in (22, 62, 200, 236):
        for level in range(3):
            y = 118 + level * 22
            draw.polygon(((x - 12 - 7 * level, y + 28), (x, y), (x + 12 + 7 * level, y + 28)), fill=tree)
        draw.rectangle((x - 4, 188, x + 4, 200), fill=(92, 64, 44))
    return picture


def room(wall: Colour, floor: Colour, curtain: Colour, rug: Colour) -> Image.Image:
    picture = Image.new("RGB", (BIG, BIG), wall)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 178, BIG, BIG), fill=floor)
    draw.rectangle((0, 172, BIG, 180), fill="white")
    draw.rectangle((20, 24, 100, 110), fill=(190, 225, 250), outline=(120, 84, 56), width=6)
    draw.line((60, 24, 60, 110), fill=(120, 84, 56), width=5)
    draw.polygon(((10, 18), (40, 18), (16, 122), (10, 122)), fill=curtain)
    draw.polygon(((110, 18), (80, 18), (104, 122), (110, 122)), fill=curtain)
    draw.rectangle((160, 64, 246, 72), fill=(120, 84, 56))
    for i, colour in enumerate(((200, 60, 60), (70, 110, 190), (230, 190, 70), (90, 160, 100))):
        draw.rectangle((166 + 18 * i, 30 + 4 * (i % 2), 180 + 18 * i, 64), fill=colour)
    draw.ellipse((48, 196, 208, 250), fill=rug)
    return picture


SCENES: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "lagun": ("beach", lambda: beach((120, 190, 240), (255, 220, 90), (40, 130, 190), (240, 214, 150))),
    "norda": ("snow", lambda: winter((26, 34, 84), (90, 220, 160), (110, 124, 160), (30, 84, 70))),
    "kasteno": ("room", lambda: room((236, 200, 160), (150, 104, 70), (180, 50, 60), (90, 120, 170))),
}
SCENE_LOOKALIKES: dict[str, Callable[[], Image.Image]] = {
    "beach-dusk": lambda: beach((230, 120, 110), (255, 240, 200), (90, 70, 130), (190, 150, 130)),
    "beach-night": lambda: beach((20, 24, 60), (240, 240, 220), (16, 50, 90), (110, 104, 110)),
    "beach-green": lambda: beach((190, 230, 200), (255, 255, 255), (60, 170, 140), (230, 230, 220)),
    "beach-pink": lambda: beach((250, 190, 210), (255, 140, 90), (120, 160, 220), (250, 230, 210)),
    "snow-day": lambda: winter((120, 180, 230), (230, 240, 250), (130, 150, 180), (50, 120, 80)),
    "snow-pink": lambda: winter((120, 60, 110), (250, 160, 180), (90, 80, 120), (60, 60, 90)),
    "snow-autumn": lambda: winter((200, 150, 110), (250, 220, 140), (140, 100, 80), (190, 90, 40)),
    "room-green": lambda: room((170, 210, 180), (110, 90, 70), (240, 210, 100), (190, 80, 80)),
    "room-blue": lambda: room((150, 180, 220), (200, 170, 130), (250, 250, 250), (230, 150, 60)),
    "room-dark": lambda: room((80, 70, 100), (60, 46, 40), (120, 160, 90), (200, 190, 170)),
}


def place(scene: Callable[[], Image.Image], sprite: Image.Image, rng: random.Random) -> tuple[Image.Image, Image.Image]:
    """(picture, its subject's mask): the scene seen from a slightly other place, a subject standing in front."""
    canvas, mask = scene(), Image.new("L", (BIG, BIG))
    size = rng.randint(108, 144)
    at = (rng.randint(60, 196 - size // 2) - size // 4, BIG - size - rng.randint(6, 24))
    figure = sprite.resize((size, size), Image.Resampling.LANCZOS)
    canvas.paste(figure, at, figure)
    mask.paste(figure.getchannel("A"), at)
    edge = rng.randint(0, 18)
    x, y = rng.randint(0, edge), rng.randint(0, edge)
    box = (x, y, x + BIG - edge, y + BIG - edge)
    return tuple(p.crop(box).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for p in (canvas, mask))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.mgrid[0:BIG, 0:BIG].astype(np.float32))


def _shade(picture: Image.Image) -> np.ndarray:
    """Brightness 0..0.94 of the enlarged picture, stretched."""
    return np.asarray(ImageOps.autocontrast(_big(picture).convert("L")), dtype=np.float32) / 255 * 0.94


def _big(picture: Image.Image) -> Image.Image:
    return picture.resize((BIG, BIG), Image.Resampling.BICUBIC)


def _small(values: np.ndarray | Image.Image) -> Image.Image:
    picture = values if isinstance(values, Image.Image) else Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def halftone(
    picture: Image.Image, pitch: int = 17, ink: Colour = (30, 40, 110), paper: Colour = (250, 240, 214)
) -> Image.Image:
    """Dots whose size follows the darkness."""
    y, x = _grid()
    u, v = (x + y) / math.sqrt(2), (x - y) / math.sqrt(2)
    wave = (2 + np.cos(2 * math.pi * u / pitch) + np.cos(2 * math.pi * v / pitch)) / 4
    dots = np.clip((wave - _shade(picture) - 0.02) * 8 + 0.5, 0, 1)[..., None]
    return _small(dots * np.asarray(ink) + (1 - dots) * np.asarray(paper))


def pencil(picture: Image.Image) -> Image.Image:
    """Dark lines at edges on paper, with faint shade."""
    gray = _big(picture).convert("L").filter(ImageFilter.GaussianBlur(3))
    values = np.asarray(gray, dtype=np.float32)
    edges = np.hypot(*np.gradient(values))
    return _small((246 - 14 * np.minimum(edges, 14) - 0.16 * (255 - values))[..., None] * np.asarray((1.0, 0.99, 0.95)))


def mosaic(picture: Image.Image, cells: int = 21, joint: Colour = (60, 60, 66)) -> Image.Image:
    """Square tiles of one colour each, with joints."""
    edge = BIG // cells
    tiles = ImageOps.posterize(picture.resize((cells, cells), Image.Resampling.BOX), 5)
    canvas = tiles.resize((cells * edge, cells * edge), Image.Resampling.NEAREST).resize((BIG, BIG))
    draw = ImageDraw.Draw(canvas)
    for i in range(cells + 1):
        at = i * BIG / cells
        draw.line((at, 0, at, BIG), fill=joint, width=2)
        draw.line((0, at, BIG, at), fill=joint, width=2)
    return _small(canvas)


def screen(picture: Image.Image, angle: float, ink: Colour) -> Image.Image:
    """Parallel lines whose thickness follows the darkness."""
    y, x = _grid()
    wave = (1 + np.cos(2 * math.pi * (x * math.sin(angle) + y * math.cos(angle)) / 16)) / 2
    lines = np.clip((wave - _shade(picture) - 0.02) * 8 + 0.5, 0, 1)[..., None]
    return _small(lines * np.asarray(ink) + (1 - lines) * 250)


def glass(picture: Image.Image) -> Image.Image:
    """Seen through wavy glass."""
    y, x = _grid()
    sx = (x + 12 * np.sin(y / 9)).clip(0, BIG - 1).astype(int)
    sy = (y + 12 * np.sin(x / 9)).clip(0, BIG - 1).astype(int)
    return _small(np.asarray(_big(picture))[sy, sx])


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {"puncto": halftone, "grafo": pencil, "tessa": mosaic}
STYLE_LOOKALIKES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "dots-red": lambda p: halftone(p, ink=(180, 40, 40), paper=(255, 255, 255)),
    "dots-coarse": lambda p: halftone(p, pitch=28),
    "chalk": lambda p: ImageOps.invert(pencil(p)),
    "pencil-brown": lambda p: ImageOps.colorize(pencil(p).convert("L"), (110, 60, 20), (250, 232, 200)),
    "mosaic-coarse": lambda p: mosaic(p, cells=13),
    "mosaic-white": lambda p: mosaic(p, cells=18, joint=(250, 250, 250)),
    "lines": lambda p: screen(p, 0.0, (20, 20, 20)),
    "slants": lambda p: screen(p, 0.8, (30, 40, 110)),
    "posterised": lambda p: ImageOps.posterize(p, 1),
    "glass": glass,
}
