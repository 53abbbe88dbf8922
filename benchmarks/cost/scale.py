"""How fusing grows with the number of concepts, on layers of SD1.5's shapes, and what adding one to a hundred costs.

    python -m benchmarks.cost.scale                   K = 10, 25, 50, 100, 101; processor seconds on one thread
    python -m benchmarks.cost.scale --quick           one group of each shape, times how many there are
    python -m benchmarks.cost.scale --call            and one step of a random UNet of SD1.5's full size at 512 pixels

No weights of anybody: random changes of rank 4 and statistics with eigenvalues 1/k for all 80 groups of attention
layers, read from a store on the disk as a fusion reads them. Each K in a process of its own. docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .fusion import GROUPS, make_change, make_gram, memory_groups, resident
from .start import ROOT, name_packages, start

COUNTS = (10, 25, 50, 100, 101)
KEPT = 4  # different statistics on the disk, which the concepts share in turn: the disk's cache is then no limit
CALLS = {"quick": (1, 8), "standard": (2, 12), "thorough": (6, 20)}  # pictures, steps; a step is two rows of one call


def measure(concepts: int, folder: Path, quick: bool) -> dict[str, float]:
    """Runs in its own process: processor seconds and memory of a fusion of so many concepts from its statistics: solve,
    truncation and report, and the conflicts foreseen.

    quick: one group of each shape, its seconds times how many there are.
    """
    import torch
    from mos_pack.mixofshow_core.fusion.conflict import thin
    from mos_pack.mixofshow_core.fusion.fuse import FusionSettings, Source, foresee_conflicts, fuse
    from mos_pack.mixofshow_core.fusion.store import StatisticsStore

    torch.set_num_threads(1)
    store, groups = StatisticsStore(folder), memory_groups(quick)
    whole = [group for group, _, _ in memory_groups(False)]
    looked_at = len(thin(whole, concepts)) / len(whole)  # of the groups, when conflicts are foreseen
    sources = []
    for i in range(concepts):
        deltas = {
            member: make_change(width, out, i)
            for group, width, outputs in groups
            for member, out in zip(group.members, outputs, strict=True)
        }
        found = store.load(f"{i % KEPT:02d}" * 32, frozenset())
        sources.append(Source(f"c{i}", f"{i:04d}", deltas, found))
    chosen = [group for group, _, _ in groups]
    fuse(sources[:2], chosen[:1], (), FusionSettings())  # libraries take their buffers
    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    seconds = foreseen = answer = 0.0
    for group, (width, outputs) in zip(chosen, [shape[1:] for shape in groups], strict=True):
        begun = time.process_time()
        result = fuse(sources, [group], (), FusionSettings(), sources[0].statistics)
        alike = count_of(group.name, width, outputs) if quick else 1
        middle = time.process_time()
        foresee_conflicts(sources, [group])
        seconds += (middle - begun) * alike
        foreseen += (time.process_time() - middle) * alike * looked_at
        answer += alike * sum(t.nbytes for delta in result.deltas.values() for t in delta.tensors().values()) / 2**20
    extra = resident("VmHWM") - held
    return {"K": concepts, "fuse_s": seconds, "foresee_s": foreseen, "extra_MiB": extra, "answer_MiB": answer}


def count_of(name: str, width: int, outputs: tuple[int, ...]) -> int:
    """How many groups of this shape SD1.5's attention has."""
    plain = name.rpartition(".")[0]
    for role, inputs, out, count, *_ in GROUPS:
        made = f"diffusion_model.{role.replace(' ', '').replace(',', '').replace('.', '')}.{inputs}.{out[0]}"
        if count and (made, inputs, out) == (plain, width, outputs):
            return count
    raise ValueError(name)


def fill(folder: Path) -> None:
    from mos_pack.mixofshow_core.fusion.statistics import Statistics
    from mos_pack.mixofshow_core.fusion.store import StatisticsStore

    groups = memory_groups(False)
    for i in range(KEPT):
        widths = {width: make_gram(width, 10 * i) for _, width, _ in groups}
        grams = {group.name: widths[width] for group, width, _ in groups}
        StatisticsStore(folder).save(f"{i:02d}" * 32, Statistics(grams), frozenset(grams))


def bytes_of_a_concept() -> dict[str, float]:
    """Of a concept of rank 4 in SD1.5's and SDXL's attention: statistics as kept, compressed, and its file."""
    found = {}
    for name, place in (("SD1.5", 3), ("SDXL", 5)):
        packed = sum(row[place] * row[1] * (row[1] + 1) * 2 for row in GROUPS)
        small = sum(row[place] * (64 * row[1] + 4 * row[1] + 256) for row in GROUPS)
        file = sum(row[place] * 4 * 4 * sum(row[1] + out for out in row[2]) for row in GROUPS)
        found[name] = {"statistics_MB": packed / 1e6, "compressed_MB": small / 1e6, "file_MB": file / 1e6}
    return found


def time_call() -> float:
    """Processor seconds of one step with CFG (two rows) of a UNet of SD1.5's real size, random, at 512 pixels."""
    start()
    import comfy.ldm.modules.diffusionmodules.openaimodel as nets
    import comfy.ops
    import torch
    from mos_tests.host.tiny import unet_config

    torch.set_num_threads(1)
    config = unet_config("sd15", real_width=True) | {"model_channels": 320, "num_heads": 8}
    net = nets.UNetModel(**config, operations=comfy.ops.disable_weight_init, device="cpu").eval()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.02)
    x, text = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    with torch.inference_mode():
        begun = time.process_time()
        net(x, torch.tensor([500.0, 500.0]), context=text)
        return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--call", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one group of each shape, times how many there are")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name_packages()
        print(json.dumps(measure(options.one, options.folder, options.quick)))
        return
    name_packages()
    for name, sizes in bytes_of_a_concept().items():
        print(name, ", ".join(f"{what} {size:.2f}" for what, size in sizes.items()), flush=True)
    # Freed buffers go back to the system at once, so that what is resident is what is alive.
    calm = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        for count in options.counts:
            command = [sys.executable, "-m", "benchmarks.cost.scale", "--one", str(count), "--folder", folder]
            environment = os.environ | calm | {"OMP_NUM_THREADS": "1"}
            command += ["--quick"] * options.quick
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
            rows.append(json.loads(done.stdout))
            print(
                "K = {K:>3}: {fuse_s:.1f} s and {foresee_s:.1f} s to foresee conflicts, {extra_MiB:.0f} MiB more, of "
                "which the answer {answer_MiB:.1f}".format(**rows[-1]),
                flush=True,
            )
    if options.call:
        tell_adding(rows[-1], time_call())


def tell_adding(row: dict[str, float], call: float) -> None:
    """What the last concept costs, which is looked at before all are solved, as a share of looking at all anew."""
    print(f"one step with CFG at 512 pixels: {call:.1f} s")
    count, solve = row["K"], row["fuse_s"] + row["foresee_s"]
    for plan, (pictures, steps) in CALLS.items():
        look = pictures * steps * call
        share = (look + solve) / (count * look + solve)
        print(f"{plan}: looking at one concept {look:.0f} s; concept {count} costs {share:.2%} of fusing {count} anew")


if __name__ == "__main__":
    main()
