"""`python dev.py bench --quick`: the 2 x 2 table (sum or fused, with or without regions) on workflow 01.

Prints, per way, how often the nearest identity in each half of the picture is the intended one, beside chance and the
score of real pictures. Measured on the small base that ships with the pack.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.host.runtime import find_host
from tests.host.server import start_server
from world import scoring
from world.demo import ALONE_PROMPT, NAMES, load_graph, run_graph, run_table, say
from world.variants import alone

ROOT = Path(__file__).resolve().parents[1]
GOAL = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench --quick", description=__doc__)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "bench-quick.json")
    options = parser.parse_args()
    judge = scoring.load_judge()
    with start_server(find_host(), extra_nodes=()) as server:
        say(f"workflow 01, {options.seeds} pictures per cell")
        graph = load_graph(server)
        table = run_table(server, graph, 1, options.seeds)
        singles = {
            name: run_graph(server, alone(graph, name, ALONE_PROMPT.format(name=name), name, 1, options.seeds))
            for name in NAMES
        }
    parts = {f"{name} alone": [(pictures, name)] for name, pictures in singles.items()}
    parts |= {title: scoring.halves(pictures, NAMES) for title, pictures in table.items()}
    say(scoring.describe_judge(judge))
    for title, columns in parts.items():
        say(scoring.describe_row(title, judge, columns))
    scores = {title: asdict(scoring.score(judge, columns)) for title, columns in parts.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"judge": judge.report, "scores": scores}, indent=1) + "\n")
    say(f"figures: {options.out}")
    best = scores["fused + regions"]
    verdict = "reached" if best["right"] >= GOAL else "missed"
    say(f"fused + regions: nearest {best['nearest']:.0%}, right {best['right']:.0%} (goal {GOAL:.0%} right: {verdict})")


if __name__ == "__main__":
    sys.exit(main())
