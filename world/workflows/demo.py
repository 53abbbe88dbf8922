"""`python dev.py demo`: runs workflow 01 in a real ComfyUI and leaves one contact sheet with identity scores.

Columns: training pictures, each concept alone, sum, fused, sum with regions, fused with regions; rows: the same seeds.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.host.runtime import find_host
from tests.host.server import Server, start_server

from ..judges import scoring
from .graphs import BASES, to_api
from .variants import METHODS, alone, find, together

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "example_workflows" / "01_train_fuse_place.json"
NAMES = ("mara", "finn")
ALONE_PROMPT = "a photo of {name}, green background"
ZOOM, GAP, LABEL = 2, 6, 22


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def load_graph(server: Server, base: str = "A") -> dict:
    """The API form of workflow 01 as this server understands it, on one of the two small bases."""
    graph = to_api(json.loads(WORKFLOW.read_text()), server.object_info())
    for key in find(graph, "MixOfShowDemoModel"):
        graph[key]["inputs"]["base"] = BASES[base]
    return graph


def run_graph(server: Server, graph: dict, timeout: float = 900) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] that a graph's SaveImage wrote."""
    outputs = server.run(graph, timeout)
    save = next(key for key, node in graph.items() if node["class_type"] == "SaveImage")
    pictures = [Image.open(io.BytesIO(server.image(entry))) for entry in outputs[save]["images"]]
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


def run_table(server: Server, graph: dict, seed: int, batch: int) -> dict[str, np.ndarray]:
    """Pictures of the four ways to put both concepts into one picture, by column title."""
    table = {}
    for regions in (False, True):
        for method in METHODS:
            title = method + (" + regions" if regions else "")
            start = time.monotonic()
            name = title.replace(" + ", "_")
            table[title] = run_graph(server, together(graph, method, regions, f"mixofshow/{name}", seed, batch))
            say(f"  {title}: {time.monotonic() - start:.0f} s")
    return table


def contact_sheet(columns: dict[str, np.ndarray], rows: int) -> Image.Image:
    """Columns of pictures with titles; every picture is enlarged ZOOM times without smoothing."""
    widths = [pictures.shape[2] * ZOOM for pictures in columns.values()]
    height = max(pictures.shape[1] for pictures in columns.values()) * ZOOM
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), LABEL + rows * (height + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    left = GAP
    for (title, pictures), width in zip(columns.items(), widths, strict=True):
        draw.text((left, 3), title, fill="black", font=font)
        for row, picture in enumerate(pictures[:rows]):
            shown = Image.fromarray(picture)
            shown = shown.resize((shown.width * ZOOM, shown.height * ZOOM), Image.Resampling.NEAREST)
            sheet.paste(shown, (left, LABEL + row * (height + GAP)))
        left += width + GAP
    return sheet


def training_pictures(name: str, side: int, count: int) -> np.ndarray:
    files = sorted((ROOT / "assets" / "demo" / "pictures" / name).glob("*.png"))[:count]
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((side, side))) for file in files])


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=4, help="seeds per column")
    parser.add_argument("--base", choices=BASES, default="A", help="SD1.5's, SDXL's or Cosmos' kind")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "demo.png")
    options = parser.parse_args()
    start = time.monotonic()
    judge = scoring.load_judge()
    with start_server(find_host(), extra_nodes=()) as server:
        say("training mara and finn, fusing and placing them (workflow 01); expect 4 to 8 minutes on two CPU cores")
        graph = load_graph(server, options.base)
        table = run_table(server, graph, options.seed, options.pictures)
        singles = {
            name: run_graph(
                server,
                alone(graph, name, ALONE_PROMPT.format(name=name), f"mixofshow/{name}", options.seed, options.pictures),
            )
            for name in NAMES
        }
    side = next(iter(singles.values())).shape[1]
    columns = {f"{name}: pictures": training_pictures(name, side, options.pictures) for name in NAMES}
    columns |= {f"{name} alone": pictures for name, pictures in singles.items()}
    contact_sheet(columns | table, options.pictures).save(options.out)
    say(scoring.describe_judge(judge))
    for name, pictures in singles.items():
        say(scoring.describe_row(f"{name} alone", judge, [(pictures, name)]))
    for title, pictures in table.items():
        say(scoring.describe_row(title, judge, scoring.halves(pictures, NAMES)))
    say(f"contact sheet: {options.out} ({time.monotonic() - start:.0f} s in all)")


if __name__ == "__main__":
    main()
