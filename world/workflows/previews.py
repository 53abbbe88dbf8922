"""The small pictures that the templates browser shows: example_workflows/<name>.jpg, all of one shape.

`python -m world.workflows.previews` has the browser tests run every workflow as it ships, which makes them anew, and
the strip of all of them in docs/images/templates.jpg.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from PIL import Image

from .write import ROOT

SIDE = 512
TESTS = ("tests/browser/test_templates.py", "-k", "opened_run")


def tile(pictures: Sequence[Image.Image]) -> Image.Image:
    """As many of the pictures as fill a square: four squares, two that are twice as wide as high, three of three times.
    A picture of another shape (Compare's table) stands alone on white."""
    width, height = pictures[0].size
    across = {1: 2, 2: 1, 3: 1}.get(width // height if width % height == 0 else 0)
    if across is None or len(pictures) < (down := across * width // height) * across:
        square = Image.new("RGB", (max(width, height),) * 2, "white")
        square.paste(pictures[0], ((square.width - width) // 2, (square.height - height) // 2))
    else:
        square = Image.new("RGB", (across * width, down * height))
        for place, picture in enumerate(pictures[: across * down]):
            square.paste(picture, (place % across * width, place // across * height))
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def main() -> None:
    command = (sys.executable, "-m", "pytest", "-q", *TESTS)
    subprocess.run(command, cwd=ROOT, env=os.environ | {"MOS_FILM": "1"}, check=True)


if __name__ == "__main__":
    main()
