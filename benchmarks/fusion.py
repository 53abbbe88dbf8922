"""What fusion costs, against the reference's solver and against the bare library calls it is made of.

    python benchmarks/fusion.py --quick    a few minutes on two CPU cores: spatial rows cut to 1/16, L-BFGS stopped
                                           after 60 of 500 iterations on text and K,V, a small memory test
    python benchmarks/fusion.py            SD1.5's real row counts (20 steps, 512 px) and layer set: over an hour

Random layers with SD1.5's widths and inputs with a power-law spectrum. No ComfyUI, no model. Three tables:
1. same rows, one layer per (width, role), K = 3: our Gram + solve + factors at lambda = 1e-8, against L-BFGS with the
   settings of Mix-of-Show's reference; totals are per-layer times times the number of such layers (an extrapolation).
2. solve only, against the bare Cholesky, triangular solves and products of the same shapes in float64.
3. peak extra memory of a fusion from stored statistics, for K = 2, 5, 14, each in a fresh process.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# name, inputs, outputs, rows per concept (as the reference has them), layers in SD1.5, L-BFGS iterations
LAYERS = (
    ("text 768", 768, 768, 176, 48, 500),
    ("K,V 320", 768, 320, 6, 10, 500),
    ("K,V 640", 768, 640, 6, 10, 500),
    ("K,V 1280", 768, 1280, 6, 12, 500),
    ("spatial 320", 320, 320, 20 * 4096, 30, 50),
    ("spatial 640", 640, 640, 20 * 1024, 30, 50),
    ("spatial 1280", 1280, 1280, 20 * 256, 36, 50),
)
RIDGE = 1e-8  # as good as none, without the eigendecomposition that an exact zero would need on few rows
QUICK_NOTE = "; spatial rows / 16, at most 60 L-BFGS iterations (times of text and K,V are lower bounds)"
QUICK_ROWS, QUICK_ITERATIONS = 16, 60


def start() -> None:
    """Make the pack importable as the tests do."""
    spec = importlib.util.spec_from_file_location("mos_conftest", ROOT / "tests" / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def make_layer(width: int, outputs: int, rows: int, concepts: int, rank: int, seed: int = 0):
    """Per concept: inputs [rows, width] with eigenvalues ~ 1/k in a half-shared basis, and a random LoRA."""
    import torch
    from mos_pack.mixofshow_core.concept import LowRank

    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, width + 1).float() ** -0.5
    common = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    inputs, deltas = [], []
    for _ in range(concepts):
        mix = 0.5 * common + 0.5 * torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        inputs.append((torch.randn(rows, width, generator=generator) * scales) @ mix)
        up, down = torch.randn(outputs, rank, generator=generator), torch.randn(rank, width, generator=generator)
        deltas.append(LowRank(up / outputs**0.5, down / width**0.5))
    return inputs, deltas


def objective(weight, inputs, targets) -> float:
    """The reference's loss in float64: mean over rows and outputs."""
    total = sum(float(((x.double() @ weight.double().mT - v.double()) ** 2).sum()) for x, v in
                zip(inputs, targets, strict=True))  # fmt: skip
    return total / sum(v.numel() for v in targets)


def compare_solvers(quick: bool, only: str = "", clock=time.perf_counter) -> list[dict]:
    from mos_pack.mixofshow_core.fusion.baselines import fit_lbfgs
    from mos_pack.mixofshow_core.fusion.solve import GroupProblem, solve_group
    from mos_pack.mixofshow_core.fusion.statistics import GramAccumulator

    table = []
    for name, width, outputs, rows, count, iterations in LAYERS:
        if only not in name:
            continue
        rows = rows // QUICK_ROWS if quick and name.startswith("spatial") else rows
        iterations = min(iterations, QUICK_ITERATIONS) if quick else iterations
        inputs, deltas = make_layer(width, outputs, rows, 3, 4)
        targets = [x @ delta.dense().mT for x, delta in zip(inputs, deltas, strict=True)]
        begun = clock()
        grams = []
        for x in inputs:
            accumulator = GramAccumulator()
            accumulator.add(x)
            grams.append(accumulator.finish())
        problem = GroupProblem(name, "spatial", ("w",), dict(enumerate(grams)),
                               tuple({"w": d} for d in deltas), (1.0,) * 3)  # fmt: skip
        ours = solve_group(problem, RIDGE, 0.0).deltas["w"]
        own_seconds = clock() - begun
        begun = clock()
        fitted, _ = fit_lbfgs(inputs, targets, iterations)
        seconds = clock() - begun
        losses = objective(ours.dense(), inputs, targets), objective(fitted, inputs, targets)
        scale = objective(ours.dense() * 0, inputs, targets)
        table.append({
            "layer": name, "rows": rows, "count": count, "ours_s": own_seconds, "lbfgs_s": seconds,
            "ratio": seconds / own_seconds, "ours_loss": losses[0] / scale, "lbfgs_loss": losses[1] / scale,
        })  # fmt: skip
        print(f"  {name:<13} {rows:>6} rows  ours {own_seconds:7.3f} s  L-BFGS {seconds:7.2f} s "
              f"{seconds / own_seconds:7.1f}x  loss / target energy: ours {losses[0] / scale:.3e}, "
              f"L-BFGS {losses[1] / scale:.3e}", flush=True)  # fmt: skip
    return table


def bare_solve(grams, deltas) -> None:
    """The library calls that any solver of these shapes has to make."""
    import torch

    total = sum(grams[1:], grams[0].clone())
    total.diagonal().add_(1e-2 * float(total.diagonal().mean()))
    chol = torch.linalg.cholesky(total)
    rows = torch.cat([part.down.double() @ gram for member in deltas for part, gram in zip(member, grams, strict=True)])
    half = torch.linalg.solve_triangular(chol.mT, rows, upper=True, left=False)
    torch.linalg.solve_triangular(chol, half, upper=False, left=False).float()
    for member in deltas:
        torch.cat([part.up for part in member], 1)


def compare_bare(concepts: int = 14, rank: int = 4, rounds: int = 5) -> list[dict]:
    import statistics

    from mos_pack.mixofshow_core.fusion.solve import GroupProblem, solve_group
    from mos_pack.mixofshow_core.fusion.statistics import GramAccumulator

    table = []
    for width, members in ((320, 3), (640, 3), (768, 2), (1280, 3)):
        grams, deltas = [], [[] for _ in range(members)]
        for seed in range(concepts):
            inputs, _ = make_layer(width, 8, 2 * width, 1, rank, seed)
            accumulator = GramAccumulator()
            accumulator.add(inputs[0])
            grams.append(accumulator.finish())
            for n in range(members):
                deltas[n].append(make_layer(width, width, 1, 1, rank, 100 * seed + n)[1][0])
        names = tuple(f"w{n}" for n in range(members))
        named = tuple({name: deltas[n][i] for n, name in enumerate(names)} for i in range(concepts))
        problem = GroupProblem("g", "spatial", names, dict(enumerate(grams)), named, (1.0,) * concepts)
        pairs = []
        for _ in range(rounds):
            begun = time.perf_counter()
            bare_solve([gram.matrix for gram in grams], deltas)
            middle = time.perf_counter()
            solve_group(problem, 1e-2, 0.0)
            pairs.append((time.perf_counter() - middle, middle - begun))
        ratio = statistics.median(own / bare for own, bare in pairs)
        own, bare = (statistics.median(pair[k] for pair in pairs) for k in (0, 1))
        table.append({"width": width, "members": members, "ours_s": own, "bare_s": bare, "ratio": ratio})
        print(f"  width {width:>4}, {members} layers, K = {concepts}: ours {own:.4f} s, bare {bare:.4f} s, "
              f"{ratio:.2f}x", flush=True)  # fmt: skip
    return table


def measure_memory(concepts: int, quick: bool) -> dict:
    """Runs in its own process: peak resident memory of fuse() above what was resident before it."""
    import torch
    from mos_pack.mixofshow_core.concept import LowRank
    from mos_pack.mixofshow_core.fusion.fuse import FusionSettings, Source, fuse
    from mos_pack.mixofshow_core.fusion.statistics import Gram, Statistics
    from mos_pack.mixofshow_core.fusion.store import StatisticsStore
    from mos_pack.mixofshow_core.topology import LayerGroup

    blocks = {320: 5, 640: 5, 1280: 6} if not quick else {320: 2, 640: 2}
    groups = [
        LayerGroup(f"diffusion_model.b{width}.{n}.{slot}", "spatial", (f"diffusion_model.b{width}.{n}.{slot}",))
        for width, count in blocks.items() for n in range(count) for slot in ("qkv", "out", "q", "out2")
    ]  # fmt: skip
    asked = frozenset(group.name for group in groups)
    with tempfile.TemporaryDirectory() as folder:
        store, sources = StatisticsStore(Path(folder)), []
        for i in range(concepts):
            generator = torch.Generator().manual_seed(i)
            grams, deltas = {}, {}
            for group in groups:
                width = int(group.name.split(".")[1][1:])
                x = torch.randn(width // 2, width, generator=generator)
                grams[group.name] = Gram((x.mT @ x / len(x)).double(), 1.0, len(x))
                deltas[group.name] = LowRank(torch.randn(width, 4, generator=generator),
                                             torch.randn(4, width, generator=generator))  # fmt: skip
            sources.append(Source(f"c{i}", str(i), deltas, store.save(f"{i:02d}" * 32, Statistics(grams), asked)))
            del grams
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        held = _resident()
        begun = time.perf_counter()
        result = fuse(sources, groups, (), FusionSettings())
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = sum(delta.up.numel() + delta.down.numel() for delta in result.deltas.values()) * 4 / 2**20
        return {
            "K": concepts, "extra_MiB": max(peak - held, 0.0), "answer_MiB": answer, "seconds": seconds,
            "solve_s": result.report.solve_seconds, "peak_was_before": peak <= before,
            "statistics_MiB": store.size() / 2**20,
        }  # fmt: skip


def _resident() -> float:
    """Resident MiB now (Linux; elsewhere the peak so far)."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--only", choices=("solvers", "bare", "memory"))
    parser.add_argument("--layer", default="", help="only the layers of table 1 whose name has this in it")
    parser.add_argument("--cpu", action="store_true", help="table 1 in processor seconds instead of wall-clock "
                        "ones: for a busy machine, with OMP_NUM_THREADS=1")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    start()
    import torch

    if options.memory:
        print(json.dumps(measure_memory(options.memory, options.quick)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), random layers of SD1.5's widths")
    figures = {}
    if options.only in (None, "solvers"):
        print(f"\n1. Gram + solve + factors against L-BFGS, K = 3, rank 4{QUICK_NOTE if options.quick else ''}")
        figures["solvers"] = rows = compare_solvers(
            options.quick, options.layer, time.process_time if options.cpu else time.perf_counter
        )
        ours, theirs = (sum(row[key] * row["count"] for row in rows) for key in ("ours_s", "lbfgs_s"))
        print(f"  all {sum(row['count'] for row in rows)} layers, extrapolated by count: ours {ours:.1f} s, "
              f"L-BFGS {theirs:.0f} s, {theirs / ours:.0f}x")  # fmt: skip
    if options.only in (None, "bare"):
        print("\n2. solve against the bare library calls (float64)")
        figures["bare"] = compare_bare()
    if options.only in (None, "memory"):
        print("\n3. peak extra memory of a fusion from stored statistics")
        figures["memory"] = compare_memory(options.quick)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def compare_memory(quick: bool) -> list[dict]:
    table = []
    for concepts in (2, 5, 14):
        command = [sys.executable, __file__, "--memory", str(concepts), *(["--quick"] if quick else [])]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        table.append(row)
        print(f"  K = {concepts:>2}: {row['extra_MiB']:.0f} MiB above what was held, of which the answer "
              f"{row['answer_MiB']:.0f} MiB; statistics on disk {row['statistics_MiB']:.0f} MiB; "
              f"solve {row['solve_s']:.2f} s", flush=True)  # fmt: skip
    return table


if __name__ == "__main__":
    main()
