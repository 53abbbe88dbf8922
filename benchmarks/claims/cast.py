"""`python -m benchmarks.claims.cast`: two community LoRAs in Cast against two concepts of our own, in the same places.

Paints workflows 14 and 15 as they ship, and 02 and 01 (fused, no regions) with our own trainings of the same pictures:
same noise, prompts of the same form. Writes cast.md, cast.json and a picture into docs/evidence.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.host.runtime import find_host
from tests.host.server import Server, start_server
from world.judges import evaluator, scoring
from world.workflows.demo import contact_sheet, run_graph, say
from world.workflows.graphs import to_api
from world.workflows.variants import Graph, sampling_graph

from .lab import current_commit
from .page import show
from .quick import ROOT, machine, percent

WHO = ("mara", "finn")  # whose pictures both kinds were trained on, from left to right
FORMS = ("routed, two regions", "fused, names in the prompt")
OWN, OTHERS = "our concepts", "community LoRAs"


def graphs(server: Server, seed: int, count: int) -> dict[tuple[str, str], Graph]:
    """(form, whose) -> the graph of a shipped workflow at this seed."""
    known = server.object_info()

    def shipped(name: str, key: str, **changes: Mapping) -> Graph:
        graph = to_api(json.loads((ROOT / "example_workflows" / f"{name}.json").read_text()), known)
        return sampling_graph(graph, f"cast/{key}", seed, count, **changes)

    return {
        (FORMS[0], OWN): shipped("02_two_people_routed", "own-routed"),
        (FORMS[0], OTHERS): shipped("14_two_loras_routed", "others-routed"),
        (FORMS[1], OWN): shipped("01_train_fuse_place", "own-fused", MixOfShowPlace={"regions": None}),
        (FORMS[1], OTHERS): shipped("15_two_loras_fused", "others-fused"),
    }


def hits(judge: scoring.Judge, pictures: np.ndarray) -> torch.Tensor:
    """[N, 2]: whether the nearest of twelve known identities is the right one, left and right."""
    identity = evaluator.load_identity()
    columns = []
    for half, name in scoring.halves(pictures, WHO):
        rows = evaluator.features(judge.net, [Image.fromarray(picture) for picture in half])
        columns.append([match.nearest == name for match in identity.nearest_identity(rows, judge.gallery)])
    return torch.tensor(columns, dtype=torch.float64).T


def interval(values: torch.Tensor) -> tuple[float, float, float]:
    return evaluator.load_identity().bootstrap_interval(values)


def table(found: Mapping[tuple[str, str], torch.Tensor]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Per form: nearest of both kinds, and the difference over pictures of the same noise."""
    rows = {}
    for form in FORMS:
        own, others = (found[form, whose].mean(1) for whose in (OWN, OTHERS))
        rows[form] = {OWN: interval(own), OTHERS: interval(others), "difference": interval(others - own)}
        rows[form] |= {f"{WHO[n]}'s place": interval(found[form, OTHERS][:, n]) for n in range(2)}
    return rows


def write_page(rows: Mapping, facts: Mapping, folder: Path) -> None:
    heads = (OWN, OTHERS, "difference", *(f"{name}'s place" for name in WHO))
    lines = [
        "# Two LoRAs of others in the cast",
        "",
        f"Written by `{facts['command']}` at {facts['commit']} in {facts['seconds'] / 60:.0f} minutes on "
        f"{facts['machine']}; seed {facts['seed']}, {facts['pictures']} pictures a cell, one training per person and "
        "kind. The tiny base of ours that paints 64 pixels a side.",
        "",
        "*Nearest*: in each half of the picture, of twelve known identities the intended one is the nearest (chance "
        "8 %), with a 95 % bootstrap interval over pictures. Our concepts are ED-LoRAs; the community LoRAs were "
        "trained on the same pictures without learned words, exported in kohya's dialect, and come into Cast by "
        "nothing but their file names, with the trigger from the file beside them. *difference*: theirs less ours, "
        "picture by picture of the same noise. The last two columns are theirs, left and right.",
        "",
        f"| nearest | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
    ]
    lines += [f"| {form} | {' | '.join(show(cells[head], '.0%') for head in heads)} |" for form, cells in rows.items()]
    for form, cells in rows.items():
        _, low, high = cells["difference"]
        verdict = "not told apart" if low <= 0 <= high else "theirs more often" if low > 0 else "theirs less often"
        lines += ["", f"{form}: {verdict} ({percent(low)} to {percent(high)})."]
    lines += ["", "![Same noise in every column](images/cast.jpg)", "", "All figures: [cast.json](cast.json).", ""]
    (folder / "cast.md").write_text("\n".join(lines))
    (folder / "cast.json").write_text(json.dumps({**facts, "nearest": rows}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.claims.cast", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=64, help="per cell")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence", help="folder of the page")
    options = parser.parse_args()
    started, commit = time.monotonic(), current_commit()
    judge, painted = scoring.load_judge(), {}
    with start_server(find_host(), extra_nodes=()) as server:
        for key, graph in graphs(server, options.seed, options.pictures).items():
            painted[key] = run_graph(server, graph, 3600)
            say(f"{', '.join(key)}: nearest {show(interval(hits(judge, painted[key])), '.0%')}")
    rows = table({key: hits(judge, pictures) for key, pictures in painted.items()})
    facts = {
        "command": f"python -m benchmarks.claims.cast --seed {options.seed} --pictures {options.pictures}",
        "commit": commit,
        "seed": options.seed,
        "pictures": options.pictures,
        "machine": machine(),
        "seconds": round(time.monotonic() - started),
    }
    (options.out / "images").mkdir(parents=True, exist_ok=True)
    columns = {f"{whose}: {form.split(',')[0]}": pictures for (form, whose), pictures in painted.items()}
    contact_sheet(columns, 6).save(options.out / "images" / "cast.jpg", quality=90)
    write_page(rows, facts, options.out)


if __name__ == "__main__":
    sys.exit(main())
