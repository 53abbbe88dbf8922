"""What the papers claim, tried on the small world: `python dev.py bench --claims [TABLE ...]`.

methods: every preset of Train on the same pictures. fusing: K concepts in one set of weights. placing: two and three
people side by side. scenes: two people and an object in a learned scene. ours: our own settings. crossed: ways to
learn, merged, or learned together. parts: of a training, on and off. Every training and every painted cell is kept in
.cache/claims, so a run that is cut off goes on; `--budget MINUTES` stops by itself, with every table begun. All tables
are written from what is there, whichever were asked for (but see --alone): Markdown, JSON and plots. `--quick` is a run
of ten minutes, and four more the first time, when the judge's pictures are fetched and drawn. First it says how much
there is to do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from world.host import MODULES, weights_of
from world.judges.scores import GUIDANCE, STEPS

from . import crossed as claim_crossed
from . import fusing as claim_fusing
from . import graphs as claim_graphs
from . import known as claim_known
from . import methods as claim_methods
from . import page as claim_page
from . import parts as claim_parts
from . import placing as claim_placing
from .judge import Judge
from .lab import CACHE, ROOT, Job, Lab, current_commit, host_folder, run_jobs
from .plan import Plan, roster

JOBS: Mapping[str, Callable[[Plan], list[Job]]] = {
    "methods": claim_methods.jobs,
    "fusing": claim_fusing.jobs,
    "placing": claim_placing.jobs,
    "scenes": claim_placing.scene_jobs,
    "ours": claim_fusing.ours_jobs,
    "crossed": claim_crossed.jobs,
    "parts": claim_parts.jobs,
    "known": claim_known.jobs,
}
# What is worth most for its time comes first where the budget is short.
SHARES = {
    "methods": 1.5,
    "fusing": 1.5,
    "placing": 1.5,
    "scenes": 0.3,
    "ours": 0.4,
    "crossed": 0.5,
    "parts": 0.5,
    "known": 0.5,
}
KEYS = {"methods": ("methods", "kinds", "embeddings"), "crossed": ("crossed", "pairs")}  # tables by what is asked for
CHOSEN = ("mara", "olmo", "lagun", "puncto", "finn", "husk")  # of the table of methods: every kind early
FEW = {"characters": ("mara", "finn"), "objects": ("olmo",), "chosen": ("mara", "olmo"), "ks": (2,), "groups": 1}
QUICK, SMALLEST = Plan(4, 120, small_sets=(10,), **FEW), Plan(2, 10, small_sets=(4,), **FEW)
QUICK_MINUTES = 9.0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def make_plan(options: argparse.Namespace) -> Plan:
    plan = Plan(
        characters=roster("character")[: options.concepts], objects=roster("object")[: options.concepts], chosen=CHOSEN
    )
    plan = SMALLEST if options.smallest else QUICK if options.quick else plan
    changes = {
        "pictures": options.pictures,
        "steps": options.steps,
        "seeds": options.seeds,
        "chosen": options.chosen,
        "small_sets": options.sets,
        "base": options.base,
    }
    return Plan(**{**vars(plan), **{key: value for key, value in changes.items() if value}})


def arrange(lab: Lab, plan: Plan, tables: Sequence[str]) -> list[Job]:
    """All jobs of all tables, so that at any moment each table has had its share of the time; no cell twice."""
    queues = {table: JOBS[table](plan) for table in tables}
    spent, order, seen = dict.fromkeys(tables, 0.0), [], set()
    while any(queues.values()):
        table = min((t for t in tables if queues[t]), key=lambda t: spent[t] / SHARES[t])
        job = queues[table].pop(0)
        cells = tuple(cell for cell in job.cells if cell.label not in seen)
        seen |= {cell.label for cell in cells}
        spent[table] += lab.estimate(cells)
        order.append(Job(table, job.title, cells))
    return order


def announce(lab: Lab, jobs: Sequence[Job], workers: int, budget: float) -> None:
    cells = list({cell.label: cell for job in jobs for cell in job.cells}.values())
    missing, trainings = lab.missing(cells)
    seconds = lab.estimate(cells)
    say(
        f"{len(trainings)} trainings, {len(missing)} of {len(cells)} cells and {sum(c.canvases for c in missing)} "
        f"pictures of 64 pixels to do: {seconds / 3600:.1f} hours of one idle core, {seconds / 3600 / workers:.1f} on "
        f"{workers}" + (f"; stops after {budget:g} minutes" if budget else "")
    )
    for table in dict.fromkeys(job.table for job in jobs):
        minutes = lab.estimate([cell for job in jobs if job.table == table for cell in job.cells]) / 60
        say(f"  {table}: {minutes:.0f} minutes of one core, with every training that it needs")


def tables_of(lab: Lab, judge: Judge, plan: Plan, keys: Sequence[str]) -> list[claim_page.Table]:
    """The tables of these keys, all where there are none."""
    found = [
        *claim_methods.table(lab, judge, plan),
        *claim_fusing.table(lab, judge, plan),
        *claim_crossed.table(lab, judge, plan),
        *claim_parts.table(lab, judge, plan),
        *claim_placing.table(lab, judge, plan),
        *claim_known.table(lab, judge, plan),
    ]
    return [table for table in found if table.cells and (not keys or table.key in keys)]


def write(
    tables: Sequence[claim_page.Table], lab: Lab, plan: Plan, options: argparse.Namespace, command: str, out: Path
) -> None:
    """<out>.md, <out>.json and images/<out>-<table>.svg. What stands in <out>-words.md comes first."""
    words = out.with_name(f"{out.stem}-words.md")
    facts = {
        "command": command,
        "commits": ", ".join(sorted(lab.commits or {lab.commit})),
        "base": lab.studio.base,
        "base_weights": lab.base,
        "steps": plan.steps,
        "pictures": plan.pictures,
        "training_seeds": plan.seeds,
        "sampler": {"steps": lab.studio.steps, "guidance": lab.studio.guidance, "name": "dpmpp_2m normal"},
        "machine": options.machine or f"{os.cpu_count()} CPU cores, no GPU",
    }
    lines = [f"# Claims tried on the small world, base {lab.studio.base}", ""]
    lines += [words.read_text().strip(), ""] if words.exists() else []
    lines += [
        f"`{command}` at {facts['commits']}; {facts['machine']}; {plan.steps} steps a training, {plan.pictures} "
        "pictures a prompt (half of it for K of 10 and more and for each of four prompts), "
        f"{facts['sampler']['name']}, {lab.studio.steps} steps, guidance {lab.studio.guidance:g}. Seeds: training 0 "
        "and on, noise fixed per group. Tiny models trained by us: nothing here says how SD1.5 or SDXL will look.",
        "",
    ]
    images = out.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    empty = [table.title for table in tables if not table.rows]
    lines += [f"Not begun: {', '.join(empty)}.", ""] if empty else []
    for table in tables:
        if table.rows:
            lines += claim_page.write_table(table)
            plot = images / f"{out.stem}-{table.key}.svg"
            plot.write_text(claim_page.draw(table))
            lines += [f"![{table.title}](images/{plot.name})", ""]
    out.write_text("\n".join(lines))
    document = facts | {"tables": [claim_page.to_json(table) for table in tables]}
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py bench --claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(JOBS)}; all by default")
    parser.add_argument(
        "--base", choices=tuple(MODULES), default="A", help="the small base: SD1.5's, SDXL's or Cosmos' kind"
    )
    parser.add_argument("--jobs", type=int, default=2, help="hosts at once, each with one thread")
    parser.add_argument("--budget", type=float, default=0, metavar="MINUTES", help="stop by then; 0: when all is done")
    parser.add_argument("--concepts", type=int, default=10, help="at most so many characters and objects")
    parser.add_argument(
        "--chosen",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="NAME,NAME",
        help=f"concepts of the table of methods; {','.join(CHOSEN)}",
    )
    parser.add_argument(
        "--sets",
        type=lambda text: tuple(map(int, text.split(","))),
        default=(),
        metavar="N,N",
        help="training pictures in the table of methods, 10,4; all other tables use the first",
    )
    parser.add_argument("--pictures", type=int, default=0, help="of a prompt; 0: 8")
    parser.add_argument("--steps", type=int, default=0, help="of every training; 0: 240")
    parser.add_argument("--seeds", type=int, default=0, help="training seeds in the table of methods; 0: one")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--quick", action="store_true", help=f"three concepts, {QUICK_MINUTES:g} minutes")
    parser.add_argument("--smallest", action="store_true", help="three concepts, two pictures, 10 steps: does it run")
    parser.add_argument("--plan", action="store_true", help="only say what there is to do")
    parser.add_argument("--score", action="store_true", help="only write the tables from what is there")
    parser.add_argument("--alone", action="store_true", help="write only the tables that are asked for")
    parser.add_argument("--machine", default="", help="what to call this machine on the page")
    parser.add_argument("--out", type=Path, default=None, help="the page; docs/evidence/claims.md by default")
    options = parser.parse_args(arguments)
    unknown = set(options.tables) - set(JOBS)
    if unknown:
        parser.error(f"unknown tables: {', '.join(sorted(unknown))}; choose from {', '.join(JOBS)}")
    if "known" in options.tables and options.base == "C":
        parser.error("known asks by words too, which Place refuses on Cosmos' kind: leave it out, or take base A or B")
    options.tables = options.tables or [table for table in JOBS if (table, options.base) != ("known", "C")]
    if options.out is None:
        page = "claims.md" if options.base == "A" else f"claims-{options.base}.md"
        short = "smallest-" if options.smallest else "quick-"
        few = options.smallest or options.quick
        options.out = CACHE / f"{short}{page}" if few else ROOT / "docs" / "evidence" / page
    if options.quick:
        options.budget = options.budget or QUICK_MINUTES
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = " ".join(["python dev.py bench --claims", *(word for word in words if word != "--score")])
    begin = time.monotonic()
    torch.set_num_threads(1)
    plan = make_plan(options)
    weights = hashlib.sha256(weights_of(options.base).read_bytes()).hexdigest()[:16]
    info = CACHE / "object_info.json"

    def make_lab(server) -> Lab:
        found = server.object_info()
        CACHE.mkdir(parents=True, exist_ok=True)
        info.write_text(json.dumps(found))
        return lab_of(found)

    def lab_of(found: Mapping) -> Lab:
        studio = claim_graphs.Studio(found, options.base, 4 if options.smallest else STEPS, options.guidance)
        return Lab(studio, weights, current_commit(), say)

    def order(lab: Lab) -> list[Job]:
        jobs = arrange(lab, plan, options.tables)
        announce(lab, jobs, options.jobs, options.budget)
        return [] if options.plan else jobs

    @cache
    def judge() -> Judge:
        return Judge(("character", "object", "scene", "style"))

    def save(lab: Lab, out: Path) -> None:
        keys = [key for table in options.tables for key in KEYS.get(table, (table,))] if options.alone else []
        write(tables_of(lab, judge(), plan, keys), lab, plan, options, command, out)
        say(f"written: {out}")

    def look_in(lab: Lab) -> None:
        if not options.plan:
            save(lab, CACHE / f"so-far-{options.out.name}")

    if (options.score or options.plan) and info.exists():
        lab = lab_of(json.loads(info.read_text()))
        if options.plan:
            order(lab)
            return 0
    else:
        # Half a minute in the end for the tables.
        deadline = begin + 60 * options.budget - 45 if options.budget else float("inf")
        lab = run_jobs(make_lab, order, 1 if options.plan else options.jobs, deadline, look_in)
        if lab.expected > 30:
            say(f"one second of an idle core took {lab.slowness:.2f} s here")
    if not options.plan:
        save(lab, options.out)
    for failure in lab.failures:
        say(f"FAILED {failure}")
    say(
        f"{(time.monotonic() - begin) / 60:.1f} minutes; {threading.active_count() - 1} threads left; cells in "
        f"{host_folder(0).parent.relative_to(ROOT)}"
    )
    return 1 if lab.failures else 0


if __name__ == "__main__":
    sys.exit(main())
