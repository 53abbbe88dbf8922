"""What the papers claim, tried on the small world: `python dev.py bench --claims [fusing placing methods]`.

fusing: K concepts in one set of weights, by every method of Fuse: identity kept of each concept alone, drift of prompts
that name none. placing: two and three people side by side, by the host's means and by ours. methods: every preset of
Train on the same pictures. Every cell is kept in .cache/claims by what it depends on, so a run can be cut off and goes
on; --quick does the smallest of each.
"""
from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.host.runtime import find_host
from tests.host.server import Server, start_server
from world import evaluator
from world.scoring import halves

from . import claim_graphs as graphs

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "claims"
PICTURES = ROOT / "world" / "concepts" / "character"
BASE_WEIGHTS = ROOT / "assets" / "demo" / "small_base.safetensors"
SEED = 11


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass
class Lab:
    """A running host with its files, and the cache of painted cells."""

    server: Server
    object_info: Mapping
    base: str

    def run(self, nodes: dict) -> dict:
        return self.server.run(nodes, timeout=3600)

    def paint(self, title: str, nodes: dict) -> dict[str, np.ndarray]:
        """uint8 [N, H, W, 3] by the key of each SaveImage node; from the cache where the same graph was painted."""
        path = CACHE / f"{digest(self.base, nodes)}.npz"
        if path.exists():
            with np.load(path) as data:
                return dict(data)
        begin = time.monotonic()
        outputs = self.run(nodes)
        found = {}
        for key, node in nodes.items():
            if node["class_type"] == "SaveImage":
                pictures = [Image.open(io.BytesIO(self.server.image(entry))) for entry in outputs[key]["images"]]
                found[key] = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **found)
        temporary.replace(path)
        say(f"  {title}: {time.monotonic() - begin:.0f} s")
        return found

    def train(self, name: str, preset: str = "ED-LoRA", seed: int = 0) -> tuple[str, float]:
        """(file name for Load Concept, seconds); a finished training is found again by the pack itself."""
        record = CACHE / f"train-{digest(self.base, name, preset, seed)}.json"
        if record.exists():
            saved = json.loads(record.read_text())
            if (self.server.base / "models" / "loras" / saved["file"]).exists():
                return saved["file"], saved["seconds"]
        nodes = graphs.training(self.object_info, name, str(PICTURES / name / "train"), "person", "character", preset,
                                seed)
        nodes["train"]["inputs"]["save_as"] = f"{name}-{preset.lower().replace(' ', '-').replace('+', 'plus')}-{seed}"
        nodes["path"] = {"class_type": "PreviewAny", "inputs": {"source": ["train", 3]}}
        begin = time.monotonic()
        outputs = self.run(nodes)
        seconds = time.monotonic() - begin
        path = Path(outputs["path"]["text"][0].strip().splitlines()[-1])
        file = str(path.relative_to(self.server.base / "models" / "loras"))
        record.write_text(json.dumps({"file": file, "seconds": seconds}))
        say(f"  trained {name} ({preset}): {seconds:.0f} s")
        return file, seconds


@dataclass
class Judge:
    """Evaluator network and the gallery of the ten characters and ten look-alikes."""

    net: torch.nn.Module
    gallery: object
    ceiling: float

    def similarity(self, pictures: np.ndarray, name: str) -> torch.Tensor:
        """[N, 2]: cosine to one identity, and 1 where it is the nearest."""
        table = self.table(pictures)
        column = self.gallery.names.index(name)
        return torch.stack([table[:, column], (table.argmax(1) == column).float()], 1)

    def table(self, pictures: np.ndarray) -> torch.Tensor:
        """[N, identities]: cosine to everybody in the gallery."""
        return evaluator.load_identity().similarities(self.features(pictures), self.gallery)

    def features(self, pictures: np.ndarray) -> torch.Tensor:
        return evaluator.features(self.net, [Image.fromarray(picture) for picture in pictures])


def make_judge(names: Sequence[str]) -> Judge:
    """Real pictures seen through the base's autoencoder are the references, so that its blur does not decide."""
    identity, net = evaluator.load_identity(), evaluator.load_evaluator()
    path = CACHE / f"gallery-{digest(BASE_WEIGHTS.stat().st_size, sorted(names))}.pt"
    if path.exists():
        references, tests = torch.load(path, weights_only=True)
    else:
        def read(folder: Path) -> torch.Tensor:
            pictures = [Image.open(p).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
                        for p in sorted(folder.glob("*.png")) if not p.stem.endswith("mask")]
            return evaluator.features(net, evaluator.see_through_base(pictures))

        references = {name: read(PICTURES / name / "train") for name in names}
        tests = {name: read(PICTURES / name / "test") for name in names}
        for folder in sorted(f for f in evaluator.IDENTITIES.iterdir() if f.is_dir() and f.name not in references):
            rows = read(folder)
            references[folder.name], tests[folder.name] = rows[:len(rows) // 2], rows[len(rows) // 2:]
        torch.save((references, tests), path)
    gallery = identity.Gallery(references)
    known = torch.cat([identity.similarities(t, gallery)[:, gallery.names.index(n)] for n, t in tests.items()])
    strangers = torch.cat([
        identity.similarities(tests[n], identity.Gallery({m: r for m, r in references.items() if m != n})).max(1).values
        for n in references if n not in names])
    gallery = identity.Gallery(references, identity.calibrate_none(known, strangers))
    hits = [m.nearest == n for n in names for m in identity.nearest_identity(tests[n], gallery)]
    return Judge(net, gallery, sum(hits) / len(hits))


def interval(rows: Sequence[float]) -> str:
    mean, low, high = evaluator.load_identity().bootstrap_interval([float(row) for row in rows])
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def percent(rows: Sequence[float]) -> str:
    mean, low, high = evaluator.load_identity().bootstrap_interval([float(row) for row in rows])
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]"


def fusing(lab: Lab, judge: Judge, names: Sequence[str], ks: Sequence[int], methods: Sequence[str], count: int,
           calibration: str) -> list[str]:
    """Identity kept, by method and number of concepts; intervals by bootstrap over concepts."""
    files = {name: lab.train(name)[0] for name in names}
    plain = lab.paint("base", graphs.fused(lab.object_info, {}, "sum", calibration, count, SEED))
    unrelated = {key: judge.features(pictures) for key, pictures in plain.items() if key.startswith("unrelated")}
    alone = {name: lab.paint(f"{name} alone", graphs.fused(lab.object_info, {name: files[name]}, "sum", calibration,
                                                            count, SEED)) for name in names}
    own = {name: judge.similarity(alone[name][name], name).mean(0) for name in names}
    floor = {name: judge.similarity(plain["person"], name)[:, 0].mean() for name in names}

    def drift(painted: Mapping[str, np.ndarray]) -> float:
        return float(torch.stack([1 - torch.nn.functional.cosine_similarity(judge.features(painted[key]), rows).mean()
                                  for key, rows in unrelated.items()]).mean())

    lines = ["| K | method | nearest is right | identity kept | drift of other prompts |", "|---|---|---|---|---|",
             f"| 1 | each alone | {percent([own[n][1] for n in names])} | 1 | "
             f"{interval([drift(alone[n]) for n in names])} |"]
    for k in ks:
        chosen = {name: files[name] for name in names[:k]}
        for method in methods:
            painted = lab.paint(f"{method}, K = {k}", graphs.fused(lab.object_info, chosen, method, calibration, count,
                                                                   SEED))
            scores = {name: judge.similarity(painted[name], name).mean(0) for name in chosen}
            kept = [(scores[n][0] - floor[n]) / max(float(own[n][0] - floor[n]), 0.02) for n in chosen]
            lines.append(f"| {k} | {method} | {percent([s[1] for s in scores.values()])} | {interval(kept)} | "
                         f"{drift(painted):.3f} |")
    return lines


def placing(lab: Lab, judge: Judge, names: Sequence[str], groups: Sequence[Sequence[str]], count: int,
            calibration: str) -> list[str]:
    """Who stands in each part, by way of placing; intervals by bootstrap over parts."""
    files = {name: lab.train(name)[0] for name in names}
    lines = ["| people | way | nearest is right | somebody else of the picture | none | seconds per picture |",
             "|---|---|---|---|---|---|"]
    for size in sorted({len(group) for group in groups}):
        for arm in graphs.ARMS:
            right, swapped, nobody, seconds, painted = [], [], [], 0.0, 0
            for number, group in enumerate(g for g in groups if len(g) == size):
                nodes = graphs.row(lab.object_info, {name: files[name] for name in group}, arm, calibration, count,
                                   SEED + number)
                begin = time.monotonic()
                pictures = lab.paint(f"{arm}, {' '.join(group)}", nodes)["row"]
                seconds, painted = seconds + time.monotonic() - begin, painted + len(pictures)
                for part, name in halves(pictures, group):
                    best = judge.table(part).max(1)
                    nearest = [judge.gallery.names[place] for place in best.indices.tolist()]
                    right += [found == name for found in nearest]
                    swapped += [found in group and found != name for found in nearest]
                    nobody += (best.values < judge.gallery.threshold).tolist()
            lines.append(f"| {size} | {arm} | {percent(right)} | {percent(swapped)} | {percent(nobody)} | "
                         f"{seconds / painted:.2f} |")
    return lines


def methods_table(lab: Lab, judge: Judge, names: Sequence[str], presets: Sequence[str], count: int) -> list[str]:
    """Every preset of Train alone, on the same pictures and steps."""
    lines = ["| method | nearest is right | similarity | file | seconds |", "|---|---|---|---|---|"]
    for preset in presets:
        nearest, similar, sizes, seconds = [], [], [], []
        for name in names:
            file, spent = lab.train(name, preset)
            painted = lab.paint(f"{name} by {preset}",
                                graphs.fused(lab.object_info, {name: file}, "sum", "standard", count, SEED))
            scores = judge.similarity(painted[name], name).mean(0)
            nearest.append(scores[1])
            similar.append(scores[0])
            sizes.append((lab.server.base / "models" / "loras" / file).stat().st_size)
            seconds.append(spent)
        lines.append(f"| {preset} | {percent(nearest)} | {interval(similar)} | {np.mean(sizes) / 1024:.0f} KiB | "
                     f"{np.mean(seconds):.0f} |")
    return lines


def head(title: str, command: str, count: int) -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return [f"### {title}", "", f"`{command}` at {commit.stdout.strip()}, training seed 0, {count} pictures a cell, "
            "two CPU cores, small base A.", ""]


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench --claims", description=__doc__)
    parser.add_argument("tables", nargs="*", default=["fusing", "placing", "methods"])
    parser.add_argument("--quick", action="store_true", help="three concepts, few pictures")
    parser.add_argument("--concepts", type=int, default=0, help="how many characters; 0: all, or three with --quick")
    parser.add_argument("--pictures", type=int, default=0, help="pictures a cell; 0: chosen by the table")
    parser.add_argument("--calibration", default="standard")
    parser.add_argument("--out", type=Path, default=CACHE / "claims.md")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    names = sorted(f.name for f in PICTURES.iterdir() if f.is_dir() and (f / "train").is_dir())
    names = names[:options.concepts or (3 if options.quick else len(names))]
    judge = make_judge(names)
    base = hashlib.sha256(BASE_WEIGHTS.read_bytes()).hexdigest()[:16]
    command = "python -m benchmarks.claims " + " ".join(sys.argv[1:])
    lines = [f"{len(names)} characters, {len(judge.gallery.names) - len(names)} look-alikes; real held-out pictures: "
             f"nearest right {judge.ceiling:.0%}; chance {1 / len(judge.gallery.names):.0%}.", ""]
    with start_server(find_host(), extra_nodes=(), base=CACHE / "host") as server:
        lab = Lab(server, server.object_info(), base)
        choices = lab.object_info
        methods = graphs.input_specs(choices["MixOfShowFuse"])["method"][1]["options"]
        presets = graphs.input_specs(choices["MixOfShowTrain"])["preset"][1]["options"]
        ks = sorted({k for k in (2, 5, 10) if k <= len(names)} | {len(names)})
        pairs = [names[i:i + 2] for i in range(0, len(names) - 1, 2)]
        triples = [names[i:i + 3] for i in range(0, len(names) - 2, 3)]
        few = 2 if options.quick else 0
        table: dict[str, tuple[int, Callable[[int], list[str]]]] = {
            "fusing": (few or 8, lambda n: fusing(lab, judge, names, ks, methods, n, options.calibration)),
            "placing": (few or 13, lambda n: placing(lab, judge, names, pairs + triples, n, options.calibration)),
            "methods": (few or 8, lambda n: methods_table(lab, judge, names[:6], presets, n)),
        }
        say(f"{len(names)} trainings of about 40 s, then {', '.join(options.tables)}")
        for title in options.tables:
            count, make = table[title]
            count = options.pictures or count
            lines += [*head(title, command, count), *make(count), ""]
            options.out.write_text("\n".join(lines))
    say("\n".join(lines))


if __name__ == "__main__":
    main()
