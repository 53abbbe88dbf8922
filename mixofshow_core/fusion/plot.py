"""The report as a picture: per role and concept, what is kept by fusing, averaging and adding up."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from ..families.layers import ROLE_TITLES

WIDTH, MARGIN, LABEL, BAR = 960, 28, 220, 12
COLOURS = {"residual": "#2f6fde", "residual_average": "#9aa3ad", "residual_sum": "#e08a2c"}
NAMES = {"residual": "fused", "residual_average": "average", "residual_sum": "sum"}
FLOOR = -0.5  # a bar ends here; that it is cut, and where it would end, stands beside it
MARKS = (0.0, 0.5, 1.0)


def draw_report(summary: Mapping) -> Image.Image:
    """RGB picture, 960 pixels wide, as tall as the concepts need. An empty summary gives a one-line picture."""
    roles = summary.get("roles", {}) if summary.get("measured") else {}
    small, large = ImageFont.load_default(14), ImageFont.load_default(20)
    labels = summary.get("concepts", [])
    row = BAR * 3 + 14
    height = 110 + sum(58 + row * len(labels) for _ in roles)
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    if not roles:
        note = "Nothing was solved, so there is nothing to measure."
        draw.text((MARGIN, 40), note, fill="#222222", font=large)
        return image
    draw.text((MARGIN, 18), f"Fusion of {len(labels)} concepts: what each one keeps", fill="#222222", font=large)
    draw.text(
        (MARGIN, 48),
        "share of its own effect on its own calibration inputs; below 0: worse than leaving it out",
        fill="#666666",
        font=small,
    )
    x = MARGIN
    for key, colour in COLOURS.items():
        draw.rectangle((x, 76, x + 14, 90), fill=colour)
        draw.text((x + 20, 75), NAMES[key], fill="#222222", font=small)
        x += 110
    y, left = 104, MARGIN + LABEL
    scale = (WIDTH - left - 110) / (1 - FLOOR)
    zero = left - FLOOR * scale
    for role, figures in roles.items():
        drift = "" if figures["drift"] is None else f", other text changes {figures['drift']:.2f} times as much"
        draw.text(
            (MARGIN, y + 12),
            f"{ROLE_TITLES.get(role, role)} ({figures['groups']} groups{drift})",
            fill="#222222",
            font=small,
        )
        y += 44
        bottom = y + row * len(labels) - 8
        for mark in MARKS:
            draw.line((zero + mark * scale, y - 4, zero + mark * scale, bottom), fill="#dddddd")
            draw.text((zero + mark * scale + 3, y - 20), f"{mark:.0%}", fill="#888888", font=small)
        for i, label in enumerate(labels):
            draw.text((MARGIN, y + BAR), _shorten(label), fill="#222222", font=small)
            for n, (key, colour) in enumerate(COLOURS.items()):
                value = figures[key][i]
                if value is None:
                    draw.text((zero + 6, y + BAR), "changes nothing here", fill="#888888", font=small)
                    break
                end, told = bar_of(1 - value)
                ends = sorted((zero, zero + end * scale))
                top = y + n * BAR
                draw.rectangle((ends[0], top, max(ends[1], ends[0] + 1), top + BAR - 3), fill=colour)
                draw.text((ends[1] + 5, top - 4), told, fill="#444444", font=small)
            y += row
        y += 14
    return image


def bar_of(keeps: float) -> tuple[float, str]:
    """Where a bar ends, and what stands beside it."""
    end = max(keeps, FLOOR)
    return end, f"{keeps:.0%}" + ("" if end == keeps else f" (bar cut at {FLOOR:.0%})")


def _shorten(label: str, limit: int = 26) -> str:
    return label if len(label) <= limit else label[: limit - 3] + "..."
