"""What fusion costs, against the reference's solver and against the bare library calls it is made of.

    python -m benchmarks.cost.fusion            minutes on two idle cores; SD1.5's real row counts (20 steps, 512 px)
    python -m benchmarks.cost.fusion --quick    a minute: spatial rows cut to 1/16, L-BFGS stopped after 60 iterations

Random layers of SD1.5's and SDXL's widths, inputs with a power-law spectrum. No ComfyUI, no model. Three tables:
1. same rows, one layer per (width, role), K = 3: our Gram + solve + factors at lambda = 1e-8, against L-BFGS with the
   settings of Mix-of-Show's reference; totals are per-layer times times the number of such layers (an extrapolation).
2. solve only, against the bare Cholesky, triangular solves and products of the same shapes in float64, per group of
   layers; what all groups of SD1.5 and SDXL take is per-group times times their number (an extrapolation).
3. peak extra memory of a whole fusion from stored statistics, report included, for K = 2, 5, 14, in fresh processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .start import ROOT, name_packages

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
QUICK_ROWS, QUICK_ITERATIONS = 16, 60
TIMED_ITERATIONS = 12  # of L-BFGS on all the rows of a spatial layer; its time is scaled to the reference's 50
QUICK_NOTE = "; spatial rows / 16, at most 60 L-BFGS iterations (times of text and K,V are lower bounds)"
FULL_NOTE = (
    f"; L-BFGS on spatial layers: time of {TIMED_ITERATIONS} iterations scaled to 50, "
    "loss after all 50 on 1/16 of the rows"
)

# A group of layers that share an input: role, inputs, outputs of its layers, and how many such groups there are:
# in SD1.5's attention, in SD1.5's other linears, in SDXL's attention, in SDXL's other linears.
GROUPS = (
    ("text q,k,v", 768, (768,) * 3, 12, 0, 12, 0),
    ("text out", 768, (768,), 12, 0, 12, 0),
    ("text q,k,v", 1280, (1280,) * 3, 0, 0, 32, 0),
    ("text out", 1280, (1280,), 0, 0, 32, 0),
    ("K, V", 768, (320,) * 2, 5, 0, 0, 0),
    ("K, V", 768, (640,) * 2, 5, 0, 0, 0),
    ("K, V", 768, (1280,) * 2, 6, 0, 0, 0),
    ("K, V", 2048, (640,) * 2, 0, 0, 10, 0),
    ("K, V", 2048, (1280,) * 2, 0, 0, 60, 0),
    ("attn1 q,k,v", 320, (320,) * 3, 5, 0, 0, 0),
    ("attn1 q,k,v", 640, (640,) * 3, 5, 0, 10, 0),
    ("attn1 q,k,v", 1280, (1280,) * 3, 6, 0, 60, 0),
    ("out, attn2.q, proj", 320, (320,), 15, 10, 0, 0),
    ("out, attn2.q, proj", 640, (640,), 15, 10, 30, 10),
    ("out, attn2.q, proj", 1280, (1280,), 18, 12, 180, 12),
    ("feed-forward in", 768, (3072,), 0, 12, 0, 12),
    ("feed-forward in", 320, (2560,), 0, 5, 0, 0),
    ("feed-forward in", 640, (5120,), 0, 5, 0, 10),
    ("feed-forward in", 1280, (10240,), 0, 6, 0, 60),
    ("feed-forward in", 1280, (5120,), 0, 0, 0, 32),
    ("feed-forward out", 3072, (768,), 0, 12, 0, 12),
    ("feed-forward out", 1280, (320,), 0, 5, 0, 0),
    ("feed-forward out", 2560, (640,), 0, 5, 0, 10),
    ("feed-forward out", 5120, (1280,), 0, 6, 0, 92),
)


def make_layer(width: int, outputs: int, rows: int, concepts: int, rank: int, seed: int = 0):
    """Per concept: inputs [rows, width] with eigenvalues ~ 1/k in a half-shared basis, and a random LoRA."""
    import torch
    from mos_pack.mixofshow_core.delta import LowRank

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
    total = sum(
        float(((x.double() @ weight.double().mT - v.double()) ** 2).sum()) for x, v in zip(inputs, targets, strict=True)
    )
    return total / sum(v.numel() for v in targets)


def compare_solvers(quick: bool, only: str = "", clock=time.perf_counter) -> list[dict]:
    from mos_benchmarks.cost.lbfgs import fit_lbfgs
    from mos_pack.mixofshow_core.fusion.solve import GroupProblem, solve_group
    from mos_pack.mixofshow_core.fusion.statistics import GramAccumulator

    def ours(name, inputs, deltas):
        begun, grams = clock(), []
        for x in inputs:
            accumulator = GramAccumulator()
            accumulator.add(x)
            grams.append(accumulator.finish())
        problem = GroupProblem(
            name, "spatial", ("w",), dict(enumerate(grams)), tuple({"w": d} for d in deltas), (1.0,) * 3
        )
        return solve_group(problem, RIDGE, 0.0).deltas["w"], clock() - begun

    def theirs(inputs, deltas, iterations):
        targets = [x @ delta.dense().mT for x, delta in zip(inputs, deltas, strict=True)]
        begun = clock()
        fitted, _ = fit_lbfgs(inputs, targets, iterations)
        return fitted, clock() - begun, targets

    table = []
    for name, width, outputs, rows, count, iterations in LAYERS:
        if only not in name:
            continue
        spatial, scale = name.startswith("spatial"), 1.0
        inputs, deltas = make_layer(width, outputs, rows // QUICK_ROWS if spatial else rows, 3, 4)
        iterations = min(iterations, QUICK_ITERATIONS) if quick else iterations
        answer, own_seconds = ours(name, inputs, deltas)
        fitted, seconds, targets = theirs(inputs, deltas, iterations)
        losses = [objective(weight, inputs, targets) for weight in (answer.dense(), fitted, fitted * 0)]
        if spatial and not quick:
            inputs, deltas = make_layer(width, outputs, rows, 3, 4)
            scale = iterations / TIMED_ITERATIONS
            own_seconds = ours(name, inputs, deltas)[1]
            seconds = theirs(inputs, deltas, TIMED_ITERATIONS)[1] * scale
        elif spatial:
            rows //= QUICK_ROWS
        table.append(
            {
                "layer": name,
                "rows": rows,
                "count": count,
                "ours_s": own_seconds,
                "lbfgs_s": seconds,
                "ratio": seconds / own_seconds,
                "ours_loss": losses[0] / losses[2],
                "lbfgs_loss": losses[1] / losses[2],
            }
        )
        print(
            f"  {name:<13} {rows:>6} rows x {count} layers  ours {own_seconds:7.3f} s  L-BFGS {seconds:7.2f} s "
            f"{seconds / own_seconds:7.1f}x  loss / target energy: ours {losses[0] / losses[2]:.3e}, "
            f"L-BFGS {losses[1] / losses[2]:.3e}",
            flush=True,
        )
    return table


def make_gram(width: int, seed: int):
    """A full-rank second moment with eigenvalues of about 1/k, cheaply."""
    import torch
    from mos_pack.mixofshow_core.fusion.statistics import Gram

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, width, generator=generator) * torch.arange(1, width + 1).float() ** -0.5
    matrix = (x.mT @ x / len(x)).double()
    matrix.diagonal().add_(1e-3 / width)
    return Gram(matrix, 1.0, len(x))


def make_change(width: int, outputs: int, seed: int, rank: int = 4):
    import torch
    from mos_pack.mixofshow_core.delta import LowRank

    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(outputs, rank, generator=generator), torch.randn(rank, width, generator=generator))


def bare_solve(grams, deltas) -> None:
    """The library calls that any solver of these shapes has to make. deltas: per layer, per concept."""
    import torch

    total = grams[0].clone()
    for gram in grams[1:]:
        total += gram
    total.diagonal().add_(1e-2 * float(total.diagonal().mean()))
    chol = torch.linalg.cholesky(total)
    rows = torch.cat([part.down.double() @ gram for member in deltas for part, gram in zip(member, grams, strict=True)])
    half = torch.linalg.solve_triangular(chol.mT, rows, upper=True, left=False)
    torch.linalg.solve_triangular(chol, half, upper=False, left=False).float()
    for member in deltas:
        torch.cat([part.up for part in member], 1)


def time_group(width: int, outputs: tuple[int, ...], concepts: int, rounds: int, clock) -> dict:
    """Seconds of one solve and of its bare calls, taken in turns; ratio: the median over the rounds."""
    from mos_pack.mixofshow_core.fusion.solve import GroupProblem, solve_group

    pair = [make_gram(width, seed) for seed in range(2)]  # more would only fill memory
    grams = [pair[i % 2] for i in range(concepts)]
    deltas = [[make_change(width, out, 100 * n + i) for i in range(concepts)] for n, out in enumerate(outputs)]
    names = tuple(f"w{n}" for n in range(len(outputs)))
    named = tuple({name: deltas[n][i] for n, name in enumerate(names)} for i in range(concepts))
    problem = GroupProblem("g", "spatial", names, dict(enumerate(grams)), named, (1.0,) * concepts)
    times = []
    for _ in range(rounds):
        begun = clock()
        bare_solve([gram.matrix for gram in grams], deltas)
        middle = clock()
        solve_group(problem, 1e-2, 0.0)
        times.append((clock() - middle, middle - begun))
    own, bare = (statistics.median(pair[k] for pair in times) for k in (0, 1))
    return {"ours_s": own, "bare_s": bare, "ratio": statistics.median(own / bare for own, bare in times)}


def compare_bare(quick: bool, clock=time.perf_counter) -> list[dict]:
    """K = 14 for SD1.5's shapes, K = 10 for those of SDXL alone; quick: attention only, without the very wide ones."""
    table = []
    totals = dict.fromkeys(
        ("SD1.5 attention, K = 14", "SD1.5 all linears, K = 14", "SDXL attention, K = 10", "SDXL all linears, K = 10"),
        0.0,
    )
    bare = dict(totals)
    attention, everything, attention_xl, everything_xl = totals
    for role, width, outputs, *counts in GROUPS:
        if quick and not (counts[0] or counts[2]):
            continue
        rounds = 5 if width < 1000 else 3 if width < 2500 else 1
        row = {"role": role, "width": width, "outputs": list(outputs)}
        for concepts, (some, more), names in (
            (14, counts[:2], (attention, everything)),
            (10, counts[2:], (attention_xl, everything_xl)),
        ):
            if not some and (quick or not more):
                continue
            found = time_group(width, outputs, concepts, rounds, clock)
            for name, count in zip(names, (some, some + more), strict=True):
                totals[name] += count * found["ours_s"]
                bare[name] += count * found["bare_s"]
            table.append({**row, "K": concepts, **found})
            print(
                f"  {role:<19} {width:>5} -> {len(outputs)} x {outputs[0]:>5}, K = {concepts}: ours "
                f"{found['ours_s']:.4f} s, bare {found['bare_s']:.4f} s, {found['ratio']:.2f}x",
                flush=True,
            )
    for name, seconds in totals.items():
        if not (quick and "linears" in name):
            print(
                f"  {name}, all groups, extrapolated by count: ours {seconds:.1f} s, bare {bare[name]:.1f} s, "
                f"{seconds / bare[name]:.2f}x"
            )
    print(f"  largest ratio {max(row['ratio'] for row in table):.2f}x")
    return table


def memory_groups(quick: bool):
    """All groups of SD1.5's attention (quick: one block of every width), or its widest feed-forward layer alone."""
    from mos_pack.mixofshow_core.families.layers import LayerGroup

    groups = []
    for role, width, outputs, count, *_ in GROUPS:
        for n in range(min(count, 1) if quick else count):
            name = f"diffusion_model.{role.replace(' ', '').replace(',', '').replace('.', '')}.{width}.{outputs[0]}.{n}"
            members = tuple(f"{name}.{m}" for m in range(len(outputs)))
            groups.append((LayerGroup(name, "spatial", members), width, outputs))
    return groups


def measure_memory(concepts: int, quick: bool, folder: Path) -> dict:
    """Runs in its own process: peak resident memory of a whole fuse() above what was resident before it."""
    from mos_pack.mixofshow_core.fusion.fuse import FusionSettings, Source, fuse
    from mos_pack.mixofshow_core.fusion.store import StatisticsStore

    store, groups = StatisticsStore(folder), memory_groups(quick)
    sources = []
    for i in range(concepts):
        deltas = {
            member: make_change(width, out, i)
            for group, width, outputs in groups
            for member, out in zip(group.members, outputs, strict=True)
        }
        sources.append(Source(f"c{i}", str(i), deltas, store.load(f"{i:02d}" * 32, frozenset())))
    chosen = [group for group, _, _ in groups]
    fuse(sources[:2], chosen[:1], (), FusionSettings())  # libraries take their buffers
    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    result = fuse(sources, chosen, (), FusionSettings(), sources[0].statistics)
    peak = resident("VmHWM")
    answer = sum(tensor.nbytes for delta in result.deltas.values() for tensor in delta.tensors().values()) / 2**20
    report = result.report
    return {
        "K": concepts,
        "extra_MiB": peak - held,
        "answer_MiB": answer,
        "solve_s": report.solve_seconds,
        "total_s": report.total_seconds,
    }


def compare_memory(quick: bool) -> list[dict]:
    from mos_pack.mixofshow_core.fusion.statistics import Statistics
    from mos_pack.mixofshow_core.fusion.store import StatisticsStore

    if not Path("/proc/self/clear_refs").exists():
        print("  needs Linux")
        return []
    table = []
    # Freed buffers go back to the system at once, so that what is resident is what is alive.
    calm = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    with tempfile.TemporaryDirectory() as folder:
        groups = memory_groups(quick)
        for i in range(14):
            widths = {width: make_gram(width, 10 * i) for _, width, _ in groups}
            grams = {group.name: widths[width] for group, width, _ in groups}  # equal widths share one on the disk
            StatisticsStore(Path(folder)).save(f"{i:02d}" * 32, Statistics(grams), frozenset(grams))
        for concepts in (2, 5, 14):
            command = [sys.executable, "-m", "benchmarks.cost.fusion", "--memory", str(concepts), "--folder", folder]
            done = subprocess.run(
                command + ["--quick"] * quick,
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
                env=os.environ | calm,
            )
            row = json.loads(done.stdout)
            table.append(row)
            print(
                f"  K = {concepts:>2}: {row['extra_MiB']:.0f} MiB above what was held, of which the answer itself "
                f"{row['answer_MiB']:.1f} MiB; solve {row['solve_s']:.2f} s, with report {row['total_s']:.2f} s",
                flush=True,
            )
    return table


def resident(field: str) -> float:
    """VmRSS (resident now) or VmHWM (its peak) of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--only", choices=("solvers", "bare", "memory"))
    parser.add_argument("--layer", default="", help="only the layers of table 1 whose name has this in it")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="tables 1 and 2 in processor seconds instead of "
        "wall-clock ones: for a busy machine, with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    name_packages()
    import torch

    if options.memory:
        print(json.dumps(measure_memory(options.memory, options.quick, options.folder)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), random layers of SD1.5's widths")
    figures, clock = {}, time.process_time if options.cpu else time.perf_counter
    if options.only in (None, "solvers"):
        print(f"\n1. Gram + solve + factors against L-BFGS, K = 3, rank 4{QUICK_NOTE if options.quick else FULL_NOTE}")
        figures["solvers"] = rows = compare_solvers(options.quick, options.layer, clock)
        ours, theirs = (sum(row[key] * row["count"] for row in rows) for key in ("ours_s", "lbfgs_s"))
        print(
            f"  all {sum(row['count'] for row in rows)} layers, extrapolated by count: ours {ours:.1f} s, "
            f"L-BFGS {theirs:.0f} s, {theirs / ours:.0f}x"
        )
    if options.only in (None, "bare"):
        print("\n2. solve against the bare library calls (float64)")
        figures["bare"] = compare_bare(options.quick, clock)
    if options.only in (None, "memory"):
        print("\n3. peak extra memory of a fusion from stored statistics")
        figures["memory"] = compare_memory(options.quick)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
