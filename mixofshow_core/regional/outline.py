"""What was found, as regions that a person can edit: the outline of each concept's largest piece as a polygon."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .schema import MAX_POINTS, Polygon, Region, RegionSet

OPEN = 0.5  # gate from which a place belongs to a concept
SLACK = 0.75  # cells by which a simplified outline may leave the exact one
LEAST = 0.01  # of the picture: less is not found

Point = tuple[int, int]  # (column, row) of a corner between cells


def found_regions(gates: Tensor, names: Sequence[str], width: int, height: int) -> RegionSet:
    """Gates [K, h, w] of concepts with these names as regions of a canvas; those that were not found are left out."""
    regions = []
    for number, (name, gate) in enumerate(zip(names, gates, strict=True), 1):
        cells = largest_piece(gate.numpy() >= OPEN)
        if cells.mean() < LEAST:
            continue
        rows, columns = cells.shape
        points = tuple((x / columns, y / rows) for x, y in outline(cells))
        regions.append(Region(f"found-{number}", Polygon(points), name=name, concept=name))
    return RegionSet(width, height, tuple(regions))


def largest_piece(cells: np.ndarray) -> np.ndarray:
    """Of the true cells of a grid those of the largest piece that hangs together by sides."""
    left, best = cells.copy(), np.zeros_like(cells)
    for start in zip(*np.nonzero(cells), strict=True):
        if not left[start]:
            continue
        piece, waiting = np.zeros_like(cells), [start]
        left[start] = False
        while waiting:
            row, column = waiting.pop()
            piece[row, column] = True
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= near[0] < cells.shape[0] and 0 <= near[1] < cells.shape[1] and left[near]:
                    left[near] = False
                    waiting.append(near)
        if piece.sum() > best.sum():
            best = piece
    return best


def outline(cells: np.ndarray) -> list[Point]:
    """The outer border of one piece, clockwise, simplified; holes in it are filled."""
    exact = _border(cells)
    slack, points = SLACK, _simplified(exact, SLACK)
    while len(points) > MAX_POINTS:
        slack *= 1.5
        points = _simplified(exact, slack)
    return points if len(points) >= 3 else _simplified(exact, 0.0)


def _border(cells: np.ndarray) -> list[Point]:
    """Corners along the border with the piece on the right hand, from its topmost leftmost one."""
    padded = np.pad(cells, 1)
    row, column = next(zip(*np.nonzero(cells), strict=True))
    start = here = (int(column), int(row))
    step, points = (1, 0), []
    while True:
        points.append(here)
        here = (here[0] + step[0], here[1] + step[1])
        if here == start:
            return points
        x, y = here
        for turn in ((step[1], -step[0]), step, (-step[1], step[0])):  # left, on, right
            right = _cell_on_the_right(padded, x, y, turn)
            left = _cell_on_the_right(padded, x, y, (turn[1], -turn[0]))
            if right and not left:
                step = turn
                break


def _cell_on_the_right(padded: np.ndarray, x: int, y: int, step: Point) -> bool:
    """Whether the cell on the right of a walk from corner (x, y) belongs to the piece."""
    column = x if step in ((1, 0), (0, -1)) else x - 1
    row = y if step in ((1, 0), (0, 1)) else y - 1
    return bool(padded[row + 1, column + 1])


def _simplified(points: list[Point], slack: float) -> list[Point]:
    """Douglas and Peucker (1973) on a closed line, parted at its first point and the one farthest from it."""
    first = np.array(points[0])
    far = int(np.argmax(((np.array(points) - first) ** 2).sum(1)))
    halves = points[: far + 1], [*points[far:], points[0]]
    return [point for half in halves for point in _line(half, slack)[:-1]]


def _line(points: list[Point], slack: float) -> list[Point]:
    ends = np.array(points[0], float), np.array(points[-1], float)
    along = ends[1] - ends[0]
    away = np.array(points, float) - ends[0]
    distance = np.abs(along[0] * away[:, 1] - along[1] * away[:, 0]) / max(float(np.hypot(*along)), 1e-9)
    worst = int(np.argmax(distance))
    if distance[worst] <= slack:
        return [points[0], points[-1]]
    return [*_line(points[: worst + 1], slack)[:-1], *_line(points[worst:], slack)]
