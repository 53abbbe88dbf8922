"""The table of methods: every preset of Train on the same pictures and steps, over concepts of four kinds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from statistics import fmean, stdev

import torch
from safetensors import safe_open

from . import graphs as graphs
from .judge import Figure, Judge, background_hits, drift, interval, kernel_distance
from .lab import Cell, Job, Lab, Painted, Training, host_folder
from .page import Column, Row, Table
from .plan import SEED, Plan, base_key, half, kind_of, noun_prompts, prompts_of, the_base

PRESETS = ("Textual Inversion", "P+", "LoRA", "LoRA with a word", "DreamBooth", "Custom Diffusion", "ED-LoRA")
GROUPED = "ED-LoRA, a row per resolution"
CHANGES = {GROUPED: ("ED-LoRA", (("embedding_rows", "resolutions"),))}  # title -> preset, Train Settings
SEEDED = ("LoRA", "ED-LoRA")  # with every training seed of the plan; the rest with the first
LOOKS = 3  # at a quarter, half and three quarters of the steps
COLUMNS = (
    Column("nearest", "nearest is right", ".0%", True),
    Column("seeds", "spread of that over seeds", ".0%"),
    Column("similarity", "similarity"),
    Column("kept", "identity, of base 0 to real 1", ".2f", True),
    Column("text", "fits its text", ".0%"),
    Column("background", "background as asked", ".0%"),
    Column("noun", "drift of the class noun", ".3f", True),
    Column("compound", "drift of a phrase with it", ".3f"),
    Column("leak", "class noun shows the concept", ".0%"),
    Column("kid", "KID of the class noun x 1000", ".1f"),
    Column("reach", "steps to 90 %", ".0f"),
    Column("kib", "file, KiB", ".0f"),
    Column("peak", "peak memory, MiB more", ".0f"),
    Column("seconds", "seconds", ".0f"),
)


def presets_of(plan: Plan) -> tuple[str, ...]:
    """A row per resolution besides, where many layers give a reason for it."""
    return (*PRESETS, GROUPED) if plan.base == "B" else PRESETS


def seeds_of(plan: Plan, preset: str) -> range:
    return range(plan.seeds if preset in SEEDED else 1)


def prompts(name: str, plan: Plan) -> dict[str, tuple[str, int]]:
    found = {str(i): (prompt.text, half(plan.pictures)) for i, prompt in enumerate(prompts_of(name))}
    return found | {key: (text, plan.pictures) for key, text in noun_prompts(name).items()}


def cell_of(plan: Plan, training: Training, label: tuple, wanted: Sequence[str] = ()) -> Cell:
    """One concept by itself: all prompts that a method is scored by, or only the wanted ones."""
    whole = prompts(training.name, plan)
    chosen = {key: whole[key] for key in wanted or whole}
    build = partial(_build, arm=graphs.SUM, wanted=chosen)
    return Cell(label, (training,), build, sum(n for _, n in chosen.values()))


def cells_of(plan: Plan, name: str, preset: str, pictures: int, seed: int = 0) -> tuple[Cell, ...]:
    """The finished concept, and what it was on its way."""
    trained_by, changes = CHANGES.get(preset, (preset, ()))
    training = plan.concept(name, trained_by, pictures, seed, changes)
    looks = [training.every * n for n in range(1, LOOKS + 1)] if training.every else []
    return tuple(
        cell_of(plan, replace(training, at=at), (name, preset, pictures, seed, at), ("0", "1") if at else ())
        for at in (0, *looks)
    )


def _build(
    studio: graphs.Studio, files: Mapping[str, str], arm: graphs.Arm, wanted: Mapping[str, tuple[str, int]]
) -> dict:
    return graphs.painted(studio, files, arm, wanted, SEED)


def jobs(plan: Plan) -> list[Job]:
    found = [Job("methods", "base", (the_base(plan),))]
    for pictures in plan.small_sets:
        for seed in range(plan.seeds):
            for name in plan.chosen:
                cells = [
                    c
                    for preset in presets_of(plan)
                    if seed in seeds_of(plan, preset)
                    for c in cells_of(plan, name, preset, pictures, seed)
                ]
                found.append(Job("methods", f"{name}, {pictures} pictures", tuple(cells)))
    return found


def score_one(judge: Judge, name: str, painted: Mapping[str, Painted], base: Mapping[str, Painted]) -> dict:
    """Lists of scores of one concept by one method; single numbers are lists of one."""
    kind, scores, floors, alike = kind_of(name), defaultdict(list), [], []
    for i, prompt in enumerate(prompts_of(name)):
        rows = painted[str(i)].features[:, 0]
        scores["nearest"] += judge.hits(kind, name, rows)
        alike += judge.similarity(kind, name, rows).tolist()
        floors += judge.similarity(kind, name, base[base_key(name, i)].features[:, 0]).tolist()
        scores["text"] += judge.text_match(rows, prompt.caption)
        if prompt.background:
            scores["background"] += background_hits(painted[str(i)], prompt.background)
    floor = sum(floors) / len(floors)
    mean, top = sum(alike) / len(alike), judge.ceiling(kind, name)
    scores |= {"similarity": alike, "kept": [(mean - floor) / max(top - floor, 0.02)]}
    for key in ("noun", "compound"):
        scores[key] = drift(painted[key].features[:, 0], base[base_key(name, key)].features[:, 0])
    noun, plain = painted["noun"].features[:, 0], base[base_key(name, "noun")].features[:, 0]
    scores["leak"] = judge.hits(kind, name, noun)
    scores["kid"] = [1000 * kernel_distance()(noun, plain, paired=True)] if len(noun) > 1 else []
    return scores


def steps_to_share(points: Sequence[tuple[float, float]], share: float = 0.9) -> list[float]:
    """The step at which `share` of the last gain over the first point is reached, linear in between; [] where the
    whole run gained next to nothing. points: (step, similarity), the first one at step 0."""
    start, last = points[0][1], points[-1][1]
    if last - start < 0.02:
        return []
    goal = start + share * (last - start)
    for (left, low), (right, high) in zip(points, points[1:], strict=False):
        if high >= goal:
            return [left + (right - left) * max(goal - low, 0) / max(high - low, 1e-9)]
    return [points[-1][0]]


def reach(lab: Lab, judge: Judge, plan: Plan, cells: Sequence[Cell], base: Mapping[str, Painted]) -> list[float]:
    """Steps to 90 % of the final similarity, on two prompts."""
    name, kind = cells[0].label[0], kind_of(cells[0].label[0])

    def mean(painted: Mapping[str, Painted], keys: Sequence[str]) -> float:
        return float(torch.cat([judge.similarity(kind, name, painted[key].features[:, 0]) for key in keys]).mean())

    points = [(0.0, mean(base, [base_key(name, i) for i in (0, 1)]))]
    for cell in (*cells[1:], cells[0]):
        found = lab.look(cell)
        if found is None:
            return []
        points.append((float(cell.label[-1] or plan.steps), mean(found[0], ("0", "1"))))
    return steps_to_share(points) if len(cells) > 1 else []


def table(lab: Lab, judge: Judge, plan: Plan) -> list[Table]:
    base, rows, by_kind, done, total = lab.look(the_base(plan)), [], [], 0, 0
    for pictures in plan.small_sets:
        for preset in presets_of(plan):
            scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            for name in plan.chosen:
                rates = []
                for seed in seeds_of(plan, preset):
                    cells = cells_of(plan, name, preset, pictures, seed)
                    total += len(cells)
                    done += sum(lab.cell_path(cell).exists() for cell in cells)
                    found = lab.look(cells[0]) if base else None
                    if found is None:
                        continue
                    scored = score_one(judge, name, found[0], base[0])
                    rates.append(fmean(scored["nearest"]))
                    for key, values in scored.items():
                        scores[key][name] += values
                    scores["reach"][name] += reach(lab, judge, plan, cells, base[0])
                    record = lab.record(cells[0].trainings[0]) or {}
                    for key, entry, unit in (("kib", "bytes", 1024), ("peak", "peak_mib", 1), ("seconds",) * 2 + (1,)):
                        scores[key][name] += [record[entry] / unit] if entry in record else []
                if len(rates) > 1:
                    scores["seeds"][name].append(stdev(rates))
            if not scores:
                continue
            figures: dict[str, Figure] = {key: interval(values) for key, values in scores.items()}
            count = len(scores["nearest"])
            rows.append(Row((str(pictures), preset, str(count)), f"{pictures} pictures", figures))
            by_kind.append(_kinds(f"{pictures}", preset, scores))
    real = interval({name: judge.real_hits(kind_of(name), name) for name in plan.chosen})
    columns, seeds = COLUMNS, "one training seed"
    if plan.seeds > 1:
        seeds = (
            f"{plan.seeds} training seeds for {' and '.join(SEEDED)} as far as they are done, one for the rest; "
            "their spread is the standard deviation within a concept"
        )
    else:
        columns = tuple(column for column in COLUMNS if column.key != "seeds")
    notes = (
        f"Equal steps ({plan.steps}), rates as the presets choose them, {seeds}. Real "
        f"held-out pictures: nearest right {real[0]:.0%}. Seconds, memory: of the whole node, other work beside; the "
        "first of DreamBooth and Custom Diffusion to meet a class draws its class pictures. KID: of the class noun "
        "painted with the concept to the same noise painted without. *Steps to 90 %* of the final similarity: from "
        "four looks at two prompts. Intervals: 95 %, by drawing concepts.",
    )
    kinds = tuple(
        Column(kind, f"{kind}: nearest is right", ".0%", True) for kind in ("character", "object", "scene", "style")
    )
    return [
        Table(
            "methods",
            "Ways to learn a concept",
            ("pictures", "method", "concepts"),
            columns,
            tuple(rows),
            done,
            total,
            notes,
        ),
        Table(
            "kinds",
            "The same by kind",
            ("pictures", "method"),
            kinds,
            tuple(by_kind),
            done,
            total,
            ("People are what the base was trained to draw; the objects, scenes and styles are not.",),
        ),
        embeddings(lab, plan),
    ]


def _kinds(pictures: str, preset: str, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Row:
    groups: dict[str, dict[str, Sequence[float]]] = defaultdict(dict)
    for name, values in scores["nearest"].items():
        groups[kind_of(name)][name] = values
    figures = {kind: interval(values) for kind, values in groups.items()}
    return Row((pictures, preset), f"{pictures} pictures", figures)


def embeddings(lab: Lab, plan: Plan) -> Table:
    """How alike the words of different concepts are, by method: the paper's figure of embeddings with and without
    weights beside them."""
    rows, done, total = [], 0, 0
    for preset in PRESETS:
        vectors = {}
        for name in plan.chosen:
            training = plan.concept(name, preset)
            total += 1
            if lab.record(training) is None:
                continue
            done += 1
            vectors |= _words(lab.file(training), name)
        if len(vectors) > 1:
            alike = {
                f"{a} {b}": [float(torch.nn.functional.cosine_similarity(vectors[a], vectors[b], dim=0))]
                for a, b in combinations(vectors, 2)
            }
            norms = {name: [float(vector.norm())] for name, vector in vectors.items()}
            rows.append(Row((preset, str(len(vectors))), "", {"alike": interval(alike), "norm": interval(norms)}))
    return Table(
        "embeddings",
        "Learned words by method",
        ("method", "concepts"),
        (
            Column("alike", "cosine between two concepts' words", ".3f", True),
            Column("norm", "norm of a word", ".2f", True),
        ),
        tuple(rows),
        done,
        total,
        ("Mean over a word's layers, last word of each concept; intervals by drawing pairs or concepts.",),
    )


def _words(file: str, name: str) -> dict[str, torch.Tensor]:
    """name -> mean embedding of its last learned word, or nothing."""
    with safe_open(host_folder(0) / "models" / "loras" / file, framework="pt") as opened:
        keys = sorted(key for key in opened.keys() if key.startswith("mixofshow.embedding.") and key.endswith("clip_l"))  # noqa: SIM118
        return {name: opened.get_tensor(keys[-1]).float().mean(0)} if keys else {}
