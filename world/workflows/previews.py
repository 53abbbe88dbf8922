"""Pictures of the example workflows: `python -m world.workflows.previews [02 06 ...]` runs each in a real ComfyUI.

What a workflow saves becomes example_workflows/<name>.jpg. Workflows share their trainings; about ten minutes in all.
"""

from __future__ import annotations

import argparse
import json
import math
import sys

import numpy as np
from PIL import Image

from tests.host.runtime import find_host
from tests.host.server import start_server

from .demo import run_graph
from .graphs import to_api
from .write import FOLDER

WIDE = 512  # pixels of the finished picture
SHOWN = 4


def tile(pictures: np.ndarray) -> Image.Image:
    """uint8 [N, H, W, 3] -> at most four of them in two columns (one picture: alone), enlarged without smoothing."""
    columns = min(2, len(pictures))
    rows = [np.concatenate(list(pictures[i : i + columns]), 1) for i in range(0, min(len(pictures), SHOWN), columns)]
    sheet = Image.fromarray(np.concatenate(rows, 0))
    scale = max(1, math.ceil(WIDE / sheet.width))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", default=["02", "03", "06", "08"], help="which workflows")
    options = parser.parse_args()
    with start_server(find_host(), extra_nodes=()) as server:
        info = server.object_info()
        for path in sorted(FOLDER.glob("*.json")):
            if path.stem[:2] not in options.numbers:
                continue
            pictures = run_graph(server, to_api(json.loads(path.read_text()), info), timeout=3600)
            tile(pictures).save(path.with_suffix(".jpg"), quality=90)
            sys.stderr.write(f"wrote {path.stem}.jpg\n")


if __name__ == "__main__":
    main()
