"""The report as a picture: per role and concept, what is lost by fusing, averaging and adding up."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from ..families.layers import ROLE_TITLES

WIDTH, MARGIN, LABEL, BAR = 960, 28, 220, 12
COLOURS = {"residual": "#2f6fde", "residual_average": "#9aa3ad", "residual_sum": "#e08a2c"}
NAMES = {"residual": "fused", "residual_average": "average", "residual_sum": "sum"}
LIMIT = 1.25  # residuals above this are cut off; their number still stands beside the bar


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
    draw.text((MARGIN, 18), f"Fusion of {len(labels)} concepts: what each one loses", fill="#222222", font=large)
    draw.text(
        (MARGIN, 48),
        "residual energy on its own calibration inputs; 0 = kept exactly, 1 = lost",
        fill="#666666",
        font=small,
    )
    x = MARGIN
    for key, colour in COLOURS.items():
        draw.rectangle((x, 76, x + 14, 90), fill=colour)
        draw.text((x + 20, 75), NAMES[key], fill="#222222", font=small)
        x += 110
    y, left = 104, MARGIN + LABEL
    scale = (WIDTH - left - 110) / LIMIT
    for role, figures in roles.items():
        drift = "" if figures["drift"] is None else f", drift on generic text {figures['drift']:.2f}"
        draw.text(
            (MARGIN, y + 12),
            f"{ROLE_TITLES.get(role, role)} ({figures['groups']} groups{drift})",
            fill="#222222",
            font=small,
        )
        y += 44
        bottom = y + row * len(labels) - 8
        for mark in (0.0, 0.5, 1.0):
            draw.line((left + mark * scale, y - 4, left + mark * scale, bottom), fill="#dddddd")
            draw.text((left + mark * scale + 3, y - 20), f"{mark:g}", fill="#888888", font=small)
        for i, label in enumerate(labels):
            draw.text((MARGIN, y + BAR), _shorten(label), fill="#222222", font=small)
            for n, (key, colour) in enumerate(COLOURS.items()):
                value = figures[key][i]
                if value is None:
                    draw.text((left + 6, y + BAR), "changes nothing here", fill="#888888", font=small)
                    break
                end = left + max(min(value, LIMIT) * scale, 1)
                draw.rectangle((left, y + n * BAR, end, y + n * BAR + BAR - 3), fill=colour)
                draw.text((end + 5, y + n * BAR - 4), f"{value:.3f}", fill="#444444", font=small)
            y += row
        y += 14
    return image


def _shorten(label: str, limit: int = 26) -> str:
    return label if len(label) <= limit else label[: limit - 3] + "..."
