"""Pictures of every template after its run: a strip of both renderers, and what the templates browser shows of it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDE, GAP, LABEL = 470, 8, 22
CARDS = "templates browser"
LIMIT = 1_000_000  # bytes of the finished file
# The view that shows the whole workflow, as the front end's own Fit does, with less of a margin.
FIT = """() => { const {canvas, graph} = window.app; let [l, t, r, b] = [1e9, 1e9, -1e9, -1e9];
    for (const node of graph.nodes) { const [x, y, w, h] = node.getBounding(new Float32Array(4));
        [l, t, r, b] = [Math.min(l, x), Math.min(t, y), Math.max(r, x + w), Math.max(b, y + h)] }
    canvas.ds.fitToBounds([l, t, r - l, b - t], {zoom: 0.88}); canvas.setDirty(true, true) }"""


class Film:
    """Frames by (template, renderer), in the order in which they are taken."""

    def __init__(self) -> None:
        self.frames: dict[tuple[str, str], Image.Image] = {}

    def take_cards(self, desk, dialog) -> None:
        """The templates browser, once for each renderer."""
        if (CARDS, desk.renderer) not in self.frames:
            dialog.locator("img").first.wait_for()
            desk.page.wait_for_timeout(2000)
            self.keep(desk, CARDS)

    def take(self, desk, name: str) -> None:
        """The workflow that is open, all nodes in view."""
        desk.run_js(FIT)
        desk.page.wait_for_timeout(1500)
        self.keep(desk, name)

    def keep(self, desk, name: str) -> None:
        frame = Image.open(io.BytesIO(desk.page.screenshot())).convert("RGB")
        self.frames[name, desk.renderer] = frame.resize(
            (WIDE, round(frame.height * WIDE / frame.width)), Image.Resampling.LANCZOS
        )

    def sheet(self) -> Image.Image:
        """Two templates to a row, each in both renderers."""
        names = list(dict.fromkeys(name for name, _ in self.frames))
        tall = max(frame.height for frame in self.frames.values()) + LABEL
        rows = [names[n : n + 2] for n in range(0, len(names), 2)]
        sheet = Image.new("RGB", (4 * (WIDE + GAP) + GAP, len(rows) * (tall + GAP) + GAP), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
        for (name, renderer), frame in self.frames.items():
            place = names.index(name)
            left = GAP + (place % 2 * 2 + (renderer != "classic")) * (WIDE + GAP)
            top = GAP + place // 2 * (tall + GAP)
            title = f"{name}, {'classic' if renderer == 'classic' else 'Nodes 2.0'}"
            draw.text((left, top), title, fill="black", font=font)
            sheet.paste(frame, (left, top + LABEL))
        return sheet

    def write(self, path: Path) -> None:
        """As large a JPEG as LIMIT allows."""
        sheet = self.sheet()
        for quality in (85, 75, 65, 55, 45):
            sheet.save(path, quality=quality)
            if path.stat().st_size < LIMIT:
                return
