"""A labelled sheet of training pictures, for a person to check before a run."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .augment import put_on_canvas
from .captions import vary
from .dataset import Picture, TrainingSet
from .settings import TrainSettings

CELL, TEXT, COLUMNS, MOST = 192, 44, 4, 16
PLACED = COLUMNS  # placed samples per concept, one row of the sheet


def _cell(pixels: np.ndarray, mask: np.ndarray | None, caption: str) -> Image.Image:
    cell = Image.new("RGB", (CELL, CELL + TEXT), "white")
    image = Image.fromarray(pixels)
    if mask is not None:
        # What the mask leaves out is dimmed, so that a wrong mask is seen at once.
        image = Image.composite(image, Image.blend(image, Image.new("RGB", image.size), 0.6), Image.fromarray(mask))
    image.thumbnail((CELL, CELL))
    cell.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2))
    lines = textwrap.wrap(caption, 30)[:3] or [""]
    # The built-in font draws Latin letters only; others are shown as "?" and trained as they are.
    text = "\n".join(lines).encode("latin-1", "replace").decode("latin-1")
    ImageDraw.Draw(cell).multiline_text((4, CELL + 2), text, fill="black", font=ImageFont.load_default(), spacing=2)
    return cell


def _placed_cells(training_set: TrainingSet) -> list[Image.Image]:
    """Placements with the captions of single steps, by the default settings: what augmentation makes of pictures."""
    settings, cells = TrainSettings(scale_min=0.7), []
    for concept in training_set.concepts:
        for number in range(PLACED):
            picture = concept.pictures[number % len(concept.pictures)]
            placed = put_on_canvas(picture, CELL, settings, number)
            caption = vary(
                picture.caption,
                concept.name,
                concept.kind,
                random.Random(number),
                settings.templates,
                settings.shuffle_captions,
                concept.style,
            )
            mask = placed.valid if picture.mask is None else placed.valid * placed.subject
            pixels, seen = (np.round(array * 255.0).astype(np.uint8) for array in (placed.canvas, mask))
            cells.append(_cell(pixels, seen, caption))
    return cells


def contact_sheet(training_set: TrainingSet) -> np.ndarray:
    """[H, W, 3] float32 in 0..1: up to 16 pictures with their captions, then rows of samples as a step sees them."""
    pictures: Sequence[Picture] = [p for concept in training_set.concepts for p in concept.pictures][:MOST]
    cells = [_cell(picture.pixels, picture.mask, picture.caption) for picture in pictures]
    rows = -(-len(cells) // COLUMNS)
    placed = _placed_cells(training_set)
    sheet = Image.new("RGB", (COLUMNS * CELL, (rows + len(placed) // COLUMNS) * (CELL + TEXT)), "white")
    for number, cell in [*enumerate(cells), *enumerate(placed, rows * COLUMNS)]:
        sheet.paste(cell, (number % COLUMNS * CELL, number // COLUMNS * (CELL + TEXT)))
    return np.asarray(sheet, dtype=np.float32) / 255.0


def labelled_grid(
    rows: Sequence[Sequence[np.ndarray]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> Image.Image:
    """Pictures [H, W, 3] in 0..1 in rows under column labels, each row under its own label."""
    height, width = rows[0][0].shape[:2]
    line = 16
    sheet = Image.new("RGB", (width * len(column_labels), line + (height + line) * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for column, label in enumerate(column_labels):
        draw.text((column * width + 4, 2), label[: width // 6], fill="black", font=font)
    for number, (row, label) in enumerate(zip(rows, row_labels, strict=True)):
        top = line + number * (height + line)
        draw.text((4, top + 2), label.encode("latin-1", "replace").decode("latin-1"), fill="black", font=font)
        for column, pixels in enumerate(row):
            sheet.paste(Image.fromarray(np.round(pixels * 255.0).astype(np.uint8)), (column * width, top + line))
    return sheet
