"""`python -m benchmarks.claims.cast`: two community LoRAs in Cast against two concepts of our own, in the same places.

Paints workflows 14 and 15 as they ship, and 02 and 01 with our own trainings of the same pictures, with the same
noise and prompts of the same form; fused whole and with *words: own* (only layers with places are fused, Place reads
every word by its own concept), with and without regions; and each by itself in a picture of its own, which is all
that placing can keep. Writes cast.md, cast.json and a picture into docs/evidence.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.host.runtime import find_host
from tests.host.server import Server, start_server
from world.judges import evaluator, scoring
from world.workflows.demo import ALONE_PROMPT, contact_sheet, run_graph, say
from world.workflows.graphs import to_api
from world.workflows.placing import SIDE
from world.workflows.variants import Graph, alone, find, sampling_graph

from .lab import current_commit
from .page import show
from .quick import ROOT, machine, percent

WHO = ("mara", "finn")  # whose pictures both kinds were trained on, from left to right
FILES = ("anna", "ben")
FORMS = (
    "each alone",
    "routed, two regions",
    "fused, two regions",
    "fused, names in the prompt",
    "fused, words own, two regions",
    "fused, words own, names in the prompt",
)
ALONE, ROUTED, PLACED, FUSED, PLACED_OWN, FUSED_OWN = FORMS
OWN, OTHERS = "our concepts", "community LoRAs"


def graphs(server: Server, seed: int, count: int) -> dict[tuple[str, str], list[Graph]]:
    """(form, whose) -> the graphs of a shipped workflow at this seed: one, or one per person."""
    known = server.object_info()

    def shipped(name: str) -> Graph:
        return to_api(json.loads((ROOT / "example_workflows" / f"{name}.json").read_text()), known)

    def both(name: str, **changes: Mapping) -> list[Graph]:
        return [sampling_graph(shipped(name), "cast/picture", seed, count, **changes)]

    def one(file: str) -> Graph:
        changes = {
            "MixOfShowCast": {"cast": json.dumps({"version": 1, "rows": [{"file": f"{file}.safetensors [demo]"}]})},
            "MixOfShowPlace": {"regions": None, "prompt": ALONE_PROMPT.format(name=file)},
            "EmptyLatentImage": {"width": SIDE, "height": SIDE},
        }
        return sampling_graph(shipped("14_two_loras_routed"), "cast/picture", seed, count, **changes)

    def placed() -> Graph:
        """Workflow 15 with the regions of 14."""
        graph, other = shipped("15_two_loras_fused"), shipped("14_two_loras_routed")
        regions = other[find(other, "MixOfShowRegions")[0]]
        graph["regions"] = regions | {"inputs": regions["inputs"] | {"concepts": [find(graph, "MixOfShowCast")[0], 0]}}
        graph[find(graph, "MixOfShowPlace")[0]]["inputs"]["regions"] = ["regions", 0]
        return graph

    def words(how: str, parts: list[Graph]) -> Iterator[Graph]:
        """words: own in Fusion Settings, with what reads text to Place; or fused, with everything in CLIP."""
        spec = known["MixOfShowFusionSettings"]["input"]["required"]
        values = {key: part[1]["default"] for key, part in spec.items()} | {"words": how}
        for graph in map(copy.deepcopy, parts):
            graph["words"] = {"class_type": "MixOfShowFusionSettings", "inputs": values}
            fuse, place = find(graph, "MixOfShowFuse")[0], find(graph, "MixOfShowPlace")[0]
            graph[fuse]["inputs"] |= {"settings": ["words", 0], "save_as": ""}
            graph[place]["inputs"] = {k: v for k, v in graph[place]["inputs"].items() if k != "concepts"}
            if how == "own":
                graph[place]["inputs"]["concepts"] = [fuse, 2]
            yield graph

    first = shipped("01_train_fuse_place")
    fused = {
        (True, OWN): both("01_train_fuse_place"),
        (True, OTHERS): [sampling_graph(placed(), "cast/picture", seed, count)],
        (False, OWN): both("01_train_fuse_place", MixOfShowPlace={"regions": None}),
        (False, OTHERS): both("15_two_loras_fused"),
    }
    found = {
        (ALONE, OWN): [alone(first, name, ALONE_PROMPT.format(name=name), "cast/picture", seed, count) for name in WHO],
        (ALONE, OTHERS): [one(file) for file in FILES],
        (ROUTED, OWN): both("02_two_people_routed"),
        (ROUTED, OTHERS): both("14_two_loras_routed"),
    }
    for how, forms in (("fused", (PLACED, FUSED)), ("own", (PLACED_OWN, FUSED_OWN))):
        for (regions, whose), parts in fused.items():
            found[forms[0] if regions else forms[1], whose] = list(words(how, parts))
    return found


def paint(server: Server, parts: list[Graph]) -> np.ndarray:
    """[N, H, W, 3]: of several graphs, their pictures side by side."""
    return np.concatenate([run_graph(server, graph, 3600) for graph in parts], axis=2)


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
        rows[form] |= {f"{FILES[n]}, theirs": interval(found[form, OTHERS][:, n]) for n in range(2)}
        rows[form]["theirs less each alone"] = interval(others - found[ALONE, OTHERS].mean(1))
        rows[form]["ours less each alone"] = interval(own - found[ALONE, OWN].mean(1))
    return rows


def label(form: str, whose: str) -> str:
    """What fits over a column of the picture."""
    short = form.replace("fused, words own", "words own").replace("names in the prompt", "by name")
    return f"{'ours' if whose == OWN else 'theirs'}: {short}"


def write_page(rows: Mapping, facts: Mapping, folder: Path) -> None:
    heads = list(next(iter(rows.values())))
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
        "picture by picture of the same noise; *less each alone*: what placing costs.",
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
        for key, parts in graphs(server, options.seed, options.pictures).items():
            painted[key] = paint(server, parts)
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
    columns = {label(form, whose): pictures for (form, whose), pictures in painted.items()}
    contact_sheet(columns, 6).save(options.out / "images" / "cast.jpg", quality=90)
    write_page(rows, facts, options.out)


if __name__ == "__main__":
    sys.exit(main())
