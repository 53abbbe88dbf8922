"""Tables of figures as Markdown, JSON and one plot each (SVG: sharp at any size, nothing to install)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape

from .judge import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart; every group has a shape as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
COUNTS = ("concepts", "casts", "sum of ranks / width")  # heads that a plot leaves out
LINE, LEFT, PANEL, GAP, TOP = 20, 230, 260, 30, 58


@dataclass(frozen=True)
class Column:
    """key: in the rows' figures. form: a format of the mean; shares in percent. plot: draw it."""

    key: str
    title: str
    form: str = ".2f"
    plot: bool = False


@dataclass(frozen=True)
class Row:
    """One line: what it is, the group that its colour stands for, and its figures."""

    name: tuple[str, ...]
    group: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Table:
    key: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    done: int
    cells: int
    notes: tuple[str, ...] = ()
    facts: dict = field(default_factory=dict)


def show(figure: Figure | None, form: str) -> str:
    """Mean [low, high]; only the mean where there is no spread to know."""
    if figure is None or math.isnan(figure[0]):
        return "-"
    mean, low, high = figure
    text = format(mean, form).replace("%", " %")
    if math.isnan(low) or low == high:
        return text
    return f"{text} [{format(low, form).rstrip('%')}, {format(high, form).rstrip('%')}]"


def write_table(table: Table) -> list[str]:
    lines = [f"### {table.title}", "", *table.notes, f"{table.done} of {table.cells} cells.", ""]
    lines.append("| " + " | ".join([*table.heads, *(column.title for column in table.columns)]) + " |")
    lines.append("|" + "---|" * (len(table.heads) + len(table.columns)))
    for row in table.rows:
        cells = [*row.name, *(show(row.figures.get(column.key), column.form) for column in table.columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def to_json(table: Table) -> dict:
    def clean(value: object) -> object:
        if isinstance(value, float):
            return None if math.isnan(value) else round(value, 5)
        if isinstance(value, dict):
            return {key: clean(entry) for key, entry in value.items()}
        return [clean(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    return clean(asdict(table))


def _mark(shape: int, x: float, y: float, colour: str) -> str:
    if shape % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
    if shape % 3 == 1:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    return f'<path d="M{x - 5:.1f} {y + 4:.1f}h10l-5 -9z" fill="{colour}"/>'


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10(high - low))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (high - low) / s <= 6)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def draw(table: Table) -> str:
    """One panel per plotted column: a mark per row, a bar for its 95 % interval."""
    columns = [c for c in table.columns if c.plot and any(c.key in row.figures for row in table.rows)]
    groups = list(dict.fromkeys(row.group for row in table.rows))
    height = TOP + LINE * len(table.rows) + 46
    width = LEFT + (PANEL + GAP) * len(columns) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="15" font-weight="bold">{escape(table.title)}</text>',
    ]
    x = 10
    for number, group in enumerate(groups if len(groups) > 1 else []):
        out.append(
            _mark(number, x + 5, 37, COLOURS[number % len(COLOURS)]) + f'<text x="{x + 15}" y="41">'
            f"{escape(group)}</text>"
        )
        x += 30 + 7 * len(group)
    for line, row in enumerate(table.rows):
        y = TOP + LINE * line + LINE / 2
        if line % 2 == 0:
            out.append(f'<rect x="0" y="{y - LINE / 2}" width="{width}" height="{LINE}" fill="#f3f3f3"/>')
        words = [word for head, word in zip(table.heads, row.name, strict=True) if head not in COUNTS]
        out.append(f'<text x="10" y="{y + 4}">{escape(", ".join(words)[:36])}</text>')
    for number, column in enumerate(columns):
        out += _panel(table, column, groups, LEFT + number * (PANEL + GAP), height)
    return "\n".join([*out, "</svg>", ""])


def _panel(table: Table, column: Column, groups: Sequence[str], left: float, height: float) -> list[str]:
    found = [row.figures[column.key] for row in table.rows if column.key in row.figures]
    values = [value for figure in found for value in figure if not math.isnan(value)] or [0.0, 1.0]
    low, high = min(0.0, *values), max(values)
    high = 1.0 if "%" in column.form and high > 0.5 else high
    high = high if high > low else low + 1
    bottom = height - 34

    def place(value: float) -> float:
        return left + PANEL * (value - low) / (high - low)

    out = []
    for tick in _ticks(low, high):
        out.append(
            f'<path d="M{place(tick):.1f} {TOP}V{bottom}" stroke="#cccccc"/><text x="{place(tick):.1f}" '
            f'y="{bottom + 13}" text-anchor="middle" font-size="10">'
            f"{format(tick, '.0%') if '%' in column.form else format(tick, 'g')}</text>"
        )
    for line, row in enumerate(table.rows):
        figure = row.figures.get(column.key)
        if figure is None or math.isnan(figure[0]):
            continue
        y, place_in = TOP + LINE * line + LINE / 2, groups.index(row.group)
        colour = COLOURS[place_in % len(COLOURS)]
        if not math.isnan(figure[1]):
            out.append(
                f'<path d="M{place(figure[1]):.1f} {y}H{place(figure[2]):.1f}" stroke="{colour}" stroke-width="2"/>'
            )
        out.append(_mark(place_in, place(figure[0]), y, colour))
    title = escape(column.title)
    return [*out, f'<text x="{left + PANEL / 2}" y="{height - 6}" text-anchor="middle">{title}</text>']
