"""`python dev.py bench --quick`: two trained people side by side, in every way to combine them; ten minutes.

Trains as workflow 01 does, paints with the Compare node (same noise for every way), and asks who is nearest of twelve
known identities in each half of the picture. Writes quick.md, quick.json and two pictures into docs/evidence.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.host.runtime import find_host
from tests.host.server import Server, start_server
from world.host import weights_of
from world.judges import evaluator, scoring
from world.workflows.demo import ALONE_PROMPT, NAMES, load_graph, say
from world.workflows.variants import Graph, find, only_ancestors

from .lab import current_commit
from .page import show

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = weights_of("A")
GOAL = 0.8
ALONE_WAYS = "base, each"
TOGETHER_WAYS = "base, sum, average, fused, sum + regions, fused + regions, routed"
ROWS_SHOWN = 4


def comparison_graph(graph: Graph, seed: int, count: int) -> Graph:
    """Workflow 01's own models, trainings, prompts, regions and sampling, wired into two Compare nodes."""
    graph = copy.deepcopy(graph)
    fuse, place, sampler, regions = (
        graph[find(graph, kind)[0]]["inputs"]
        for kind in ("MixOfShowFuse", "MixOfShowPlace", "KSampler", "MixOfShowRegions")
    )
    width, height = regions["width"], regions["height"]
    sampling = {key: sampler[key] for key in ("steps", "cfg", "sampler_name", "scheduler")}
    common = {key: fuse[key] for key in ("model", "clip", "concepts", "calibration")} | sampling
    common |= {"vae": [find(graph, "MixOfShowDemoModel")[0], 2], "negative": place["negative"], "seed": seed}
    common |= {"settings": fuse["settings"]} if "settings" in fuse else {}
    tables = {
        "alone": (ALONE_WAYS, ALONE_PROMPT.format(name="{name}"), width // 2, {}),
        "together": (TOGETHER_WAYS, place["prompt"], width, {"regions": place["regions"]}),
    }
    ends: Graph = {}
    for key, (ways, prompts, side, extra) in tables.items():
        latent, compare = f"{key}-latent", f"{key}-compare"
        sizes = {"width": side, "height": height, "batch_size": count}
        graph[latent] = {"class_type": "EmptyLatentImage", "inputs": sizes}
        inputs = common | extra | {"latent_image": [latent, 0], "prompts": prompts, "ways": ways}
        graph[compare] = {"class_type": "MixOfShowCompare", "inputs": inputs}
        save = {"images": [compare, 2], "filename_prefix": f"quick/{key}"}
        ends[key] = {"class_type": "SaveImage", "inputs": save}
        ends[f"{key}-table"] = {"class_type": "PreviewAny", "inputs": {"source": [compare, 3]}}
    return {key: node for end in ends for key, node in only_ancestors(graph | ends, end).items()}


def paint(server: Server, graph: Graph, timeout: float = 3600) -> list[tuple[dict, np.ndarray]]:
    """Every cell of both tables with its picture."""
    outputs = server.run(graph, timeout)
    painted = []
    for key in ("alone", "together"):
        cells = json.loads(outputs[f"{key}-table"]["text"][0])["cells"]
        pictures = [Image.open(io.BytesIO(server.image(entry))).convert("RGB") for entry in outputs[key]["images"]]
        painted += [(cell, np.asarray(picture)) for cell, picture in zip(cells, pictures, strict=True)]
    return painted


def gather(painted: list[tuple[dict, np.ndarray]]) -> dict[str, tuple[str, list[tuple[np.ndarray, str]]]]:
    """Row title -> (kind, [(pictures of one half, who should be there)])."""
    rows: dict[str, tuple[str, list]] = {}
    for cell, picture in painted:
        single = len(cell["names"]) == 1
        title = f"{cell['column']}, one person" if single and cell["column"] == "base" else cell["column"]
        parts = [(picture[None], cell["names"][0])] if single else scoring.halves(picture[None], NAMES)
        rows.setdefault(title, (cell["kind"], []))[1].extend(parts)
    return {title: (kind, _joined(parts)) for title, (kind, parts) in rows.items()}


def _joined(parts: list[tuple[np.ndarray, str]]) -> list[tuple[np.ndarray, str]]:
    return [
        (np.concatenate([pictures for pictures, name in parts if name == wanted]), wanted)
        for wanted in NAMES
        if any(name == wanted for _, name in parts)
    ]


def draw(painted: list[tuple[dict, np.ndarray]], scores: dict, kinds: dict[str, str], facts: str, folder: Path) -> None:
    """The sheet of painted pictures and the plot of the table."""
    drawing = evaluator.load_metrics("drawing")
    wide = [(cell, picture) for cell, picture in painted if len(cell["names"]) != 1 and cell["noise"] < ROWS_SHOWN]
    columns = list(dict.fromkeys((cell["column"], cell["kind"]) for cell, _ in wide))
    titles = [title for title, _ in columns]
    cells: dict[tuple[int, int], list] = {}
    for cell, picture in wide:
        cells.setdefault((0, titles.index(cell["column"])), []).append(picture)
    prompt = wide[0][0]["prompt"]
    drawing.draw_grid(cells, [prompt], columns, {}, "Two people, same noise in every column", facts).save(
        folder / "quick.jpg", quality=88
    )
    bars = []
    for title, found in scores.items():
        hits = round(found["nearest"] * found["count"])
        values = [1.0] * hits + [0.0] * (found["count"] - hits)
        bars.append(drawing.Bar(title, kinds[title], values, (found["nearest"], found["low"], found["high"])))
    panel = drawing.Panel("The intended person is the nearest of twelve", "share of picture halves", bars)
    drawing.draw_scores([panel], "Who is in the picture", [facts]).save(folder / "quick-scores.png")


def machine() -> str:
    simd = torch.backends.cpu.get_cpu_capability()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, {simd}), torch {torch.__version__}, {platform.system()}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def write_page(scores: dict, report: dict, facts: dict, folder: Path) -> None:
    lines = [
        "# The quick table",
        "",
        f"Written by `{facts['command']}` at {facts['commit']} in {facts['seconds'] / 60:.1f} minutes on "
        f"{facts['machine']}; seed {facts['seed']}, {facts['pictures']} pictures a row, two trainings (one seed each), "
        f"base {facts['base']}. A tiny base of ours that paints 64 pixels a side: nothing here says how SD1.5 or SDXL "
        "will look.",
        "",
        "*nearest*: of twelve known identities (two trained, ten look-alikes never trained) the intended one is the "
        "nearest; 95 % bootstrap interval over picture halves, not over trainings or concepts. *right*: and near "
        "enough not to be called nobody, by a threshold from real pictures. *the other one*: it is the other trained "
        f"person. Chance is {percent(report['chance'])}; held-out real pictures are right in "
        f"{percent(report['ceiling_concepts'])}. Base rows have no concept in them: what is reached by accident.",
        "",
        "| | nearest | right | the other one | similarity | n |",
        "|---|---|---|---|---|---|",
    ]
    for title, found in scores.items():
        nearest = show((found["nearest"], found["low"], found["high"]), ".0%")
        lines.append(
            f"| {title} | {nearest} | {percent(found['right'])} | {percent(found['swapped'])} | "
            f"{found['similarity']:.2f} | {found['count']} |"
        )
    best = scores["fused + regions"]
    verdict = "reached" if best["right"] >= GOAL else "missed"
    lines += [
        "",
        f"First goal, {percent(GOAL)} *right* in fused + regions: {percent(best['right'])} ({verdict}). "
        "Rows whose intervals overlap are not told apart by this table.",
        "",
        "![Two people in every way, same noise](images/quick.jpg)",
        "",
        "![The table as a plot](images/quick-scores.png)",
        "",
        "All figures: [quick.json](quick.json). How the score is made and what it cannot see: "
        "[small-base.md](small-base.md), [world.md](world.md).",
        "",
    ]
    (folder / "quick.md").write_text("\n".join(lines))
    document = facts | {"judge": report, "scores": scores}
    (folder / "quick.json").write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench --quick", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=32, help="pictures per row")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence", help="folder of the page")
    options = parser.parse_args()
    started = time.monotonic()
    commit, base = current_commit(), hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:12]  # both may change meanwhile
    judge = scoring.load_judge()
    with start_server(find_host(), extra_nodes=()) as server:
        say(f"workflow 01: two trainings, then {options.seeds} pictures a row; up to 10 minutes on two CPU cores")
        graph = comparison_graph(load_graph(server), options.seed, options.seeds)
        painted = paint(server, graph)
    rows = gather(painted)
    say(scoring.describe_judge(judge))
    for title, (_, parts) in rows.items():
        say(scoring.describe_row(title, judge, parts))
    scores = {title: asdict(scoring.score(judge, parts)) for title, (_, parts) in rows.items()}
    facts = {
        "command": f"python dev.py bench --quick --seed {options.seed} --seeds {options.seeds}",
        "commit": commit,
        "seed": options.seed,
        "pictures": options.seeds,
        "machine": machine(),
        "base": base,
        "seconds": round(time.monotonic() - started),
    }
    (options.out / "images").mkdir(parents=True, exist_ok=True)
    line = f"small base, seed {options.seed}, {options.seeds} pictures a row, at {facts['commit']}"
    draw(painted, scores, {title: kind for title, (kind, _) in rows.items()}, line, options.out / "images")
    write_page(scores, judge.report, facts, options.out)
    say(f"page: {options.out / 'quick.md'} ({facts['seconds']} s)")


if __name__ == "__main__":
    sys.exit(main())
