"""Labelled pictures of comparisons and scores, light or dark, in colours that colour-blind people tell apart.

Colours: Okabe and Ito, "Color Universal Design" (2008). No meaning is carried by colour alone: every bar and column is
named as well.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import MixOfShowError
from .comparison import KINDS

MARGIN, GAP, STRIPE, LABELS, HEAD = 20, 4, 6, 190, 104
SHOWN = (128, 256)  # in a grid: small pictures are enlarged to this shorter side, big ones shrunk to this longer side
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Theme:
    """Colours of one background; ``kinds``: one for each of KINDS, the last also for anything else."""

    back: str
    ink: str
    faint: str
    line: str
    kinds: tuple[str, ...]

    def colour(self, kind: str) -> str:
        return self.kinds[KINDS.index(kind) if kind in KINDS else -1]


LIGHT = Theme("#ffffff", "#1d1d1f", "#5c5c61", "#d5d5da", ("#6e6e73", "#0072b2", "#d55e00", "#009e73", "#cc79a7"))
DARK = Theme("#17181b", "#f2f2f4", "#a9a9b2", "#3a3b40", ("#a9a9b2", "#56b4e9", "#e69f00", "#2fc79a", "#cc79a7"))
THEMES = {"light": LIGHT, "dark": DARK}


@dataclass(frozen=True)
class Bar:
    """One group of scores: every value, and (mean, low, high)."""

    label: str
    kind: str
    values: Sequence[float]
    interval: tuple[float, float, float]


@dataclass(frozen=True)
class Panel:
    """One sort of score with its unit; the axis runs from ``low`` to ``high``."""

    title: str
    unit: str
    bars: Sequence[Bar]
    low: float = 0.0
    high: float = 1.0


def readable(text: str) -> str:
    """The built-in font draws Latin letters only; others are shown as "?"."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _legend(draw: ImageDraw.ImageDraw, x: int, y: int, kinds: Sequence[str], theme: Theme) -> None:
    font = ImageFont.load_default(13)
    for kind in kinds:
        draw.rectangle((x, y + 2, x + 12, y + 14), fill=theme.colour(kind))
        draw.text((x + 18, y), kind, fill=theme.faint, font=font)
        x += 36 + int(draw.textlength(kind, font=font))


def _shown_size(height: int, width: int) -> tuple[int, int]:
    scale = max(1, SHOWN[0] // min(height, width)) if max(height, width) < SHOWN[1] else SHOWN[1] / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def grid_size(picture: tuple[int, int], pictures: int, rows: int, columns: int) -> tuple[int, int]:
    """(width, height) of a grid in pixels; picture: (height, width), pictures: per cell. MixOfShowError if too large.

    Known before anything is painted.
    """
    width, height = _shown_size(*picture)
    size = (2 * MARGIN + LABELS + (width + GAP) * columns, HEAD + 40 + _row_height(height, pictures) * rows + MARGIN)
    if size[0] * size[1] > MAX_PIXELS:
        raise MixOfShowError(f"The grid would have {size[0]} x {size[1]} pixels: use fewer prompts, ways or pictures.")
    return size


def _row_height(height: int, pictures: int) -> int:
    return max(pictures * (height + GAP), 60) + 10


def draw_grid(
    cells: Mapping[tuple[int, int], Sequence[np.ndarray]],
    rows: Sequence[str],
    columns: Sequence[tuple[str, str]],
    blanks: Mapping[tuple[int, int], str],
    title: str,
    facts: str,
    theme: Theme = LIGHT,
) -> Image.Image:
    """cells: (row, column) -> uint8 pictures [H, W, 3], one line each; columns: (label, kind); blanks: why not painted.

    Pictures on one line have the same noise.
    """
    if not cells:
        raise MixOfShowError("A grid needs at least one painted cell.")
    first = next(iter(cells.values()))
    width, height = _shown_size(*first[0].shape[:2])
    count = max(len(pictures) for pictures in cells.values())
    small, medium, large = (ImageFont.load_default(size) for size in (12, 14, 20))
    size = grid_size(first[0].shape[:2], count, len(rows), len(columns))
    step, row_height = width + GAP, _row_height(height, count)
    image = Image.new("RGB", size, theme.back)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, 14), readable(title), fill=theme.ink, font=large)
    for n, line in enumerate(textwrap.wrap(readable(facts), max(40, (size[0] - 2 * MARGIN) // 6))[:2]):
        draw.text((MARGIN, 42 + 16 * n), line, fill=theme.faint, font=small)
    _legend(draw, MARGIN, HEAD - 26, [kind for kind in KINDS if kind in {kind for _, kind in columns}], theme)
    top, left = HEAD + 34, MARGIN + LABELS
    for column, (label, kind) in enumerate(columns):
        x = left + column * step
        draw.rectangle((x, top - STRIPE - 2, x + width - 1, top - 3), fill=theme.colour(kind))
        lines = textwrap.wrap(readable(label), max(8, width // 7))[:2]
        draw.multiline_text(
            (x, top - STRIPE - 6 - 15 * len(lines)), "\n".join(lines), fill=theme.ink, font=small, spacing=2
        )
    for row, prompt in enumerate(rows):
        y = top + row * row_height
        draw.line((MARGIN, y - 1, size[0] - MARGIN, y - 1), fill=theme.line)
        text = "\n".join(textwrap.wrap(readable(prompt), 25)[: max(3, row_height // 18)])
        draw.multiline_text((MARGIN, y + 4), text, fill=theme.ink, font=medium, spacing=3)
        for column in range(len(columns)):
            x = left + column * step
            if (row, column) in blanks:
                note = "\n".join(textwrap.wrap(blanks[row, column], max(8, width // 7)))
                draw.rectangle((x, y + 2, x + width - 1, y + 1 + count * (height + GAP) - GAP), outline=theme.line)
                draw.multiline_text((x + 6, y + 8), note, fill=theme.faint, font=small, spacing=2)
            for n, pixels in enumerate(cells.get((row, column), ())):
                smooth = Image.Resampling.LANCZOS if width < pixels.shape[1] else Image.Resampling.NEAREST
                shown = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), smooth)
                image.paste(shown, (x, y + 2 + n * (height + GAP)))
    return image


def draw_scores(panels: Sequence[Panel], title: str, facts: Sequence[str], theme: Theme = LIGHT) -> Image.Image:
    """Per panel one line for every group: its pictures as ticks, the mean as a dot, the 95 % interval as a bar."""
    small, medium, large = (ImageFont.load_default(size) for size in (12, 14, 20))
    width, line, head = 960, 40, 74 + 16 * len(facts)
    height = head + sum(76 + line * max(1, len(panel.bars)) for panel in panels) + MARGIN
    image = Image.new("RGB", (width, height), theme.back)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, 14), readable(title), fill=theme.ink, font=large)
    for n, fact in enumerate(facts):
        draw.text((MARGIN, 42 + 16 * n), readable(fact), fill=theme.faint, font=small)
    shown = {bar.kind for panel in panels for bar in panel.bars}
    _legend(draw, MARGIN, head - 22, [kind for kind in KINDS if kind in shown], theme)
    y, left, right = head, MARGIN + LABELS, width - MARGIN - 190
    for panel in panels:
        draw.text((MARGIN, y + 8), readable(panel.title), fill=theme.ink, font=medium)
        draw.text((MARGIN, y + 26), readable(panel.unit), fill=theme.faint, font=small)
        y += 62
        bottom, span = y + line * max(1, len(panel.bars)), (right - left) / (panel.high - panel.low)

        def place(value: float, panel: Panel = panel, span: float = span) -> float:
            return left + (min(max(value, panel.low), panel.high) - panel.low) * span

        for n in range(5):
            mark = panel.low + (panel.high - panel.low) * n / 4
            draw.line((place(mark), y - 4, place(mark), bottom), fill=theme.line)
            draw.text((place(mark), y - 18), f"{mark:.2f}", fill=theme.faint, font=small, anchor="ma")
        for bar in panel.bars:
            colour, middle = theme.colour(bar.kind), y + line // 2
            mean, low, high = bar.interval
            draw.text(
                (MARGIN, middle), readable(textwrap.shorten(bar.label, 28)), fill=theme.ink, font=medium, anchor="lm"
            )
            for value in bar.values:
                draw.line((place(value), middle + 8, place(value), middle + 14), fill=theme.faint)
            draw.rectangle((place(low), middle - 4, max(place(high), place(low) + 1), middle + 4), fill=colour)
            draw.ellipse((place(mean) - 6, middle - 6, place(mean) + 6, middle + 6), fill=colour, outline=theme.ink)
            note = f"{mean:.3f} [{low:.3f}, {high:.3f}]  n = {len(bar.values)}"
            draw.text((right + 12, middle), note, fill=theme.ink, font=small, anchor="lm")
            y += line
        y += 14
    return image
