"""What fusing three LoRAs of Anima's real width costs (2048, 28 blocks, random), against the bare library calls.

    python -m benchmarks.cost.anima             minutes on two idle cores
    python -m benchmarks.cost.anima --blocks 2  a first look: the whole fusion of two blocks

1. Solve only, one group of layers of every kind beside the bare Cholesky, triangular solves and products of the same
   shapes in float64; what 28 blocks take is the time of one times 28 (an extrapolation).
2. A whole fusion of all attention and the first feed-forward layers, from stored statistics, with its report, in a
   fresh process: seconds, and peak memory above what was held before. The second feed-forward layers read 8192 values;
   their statistics of 0.5 GB each are left to table 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .fusion import make_change, make_gram, resident, time_group
from .start import ROOT, name_packages

BLOCKS, CONCEPTS = 28, 3
GROUPS = (  # name, inputs, outputs of its layers; times that a block has such a group
    ("self_attn.qkv", 2048, (2048,) * 3, 1),
    ("q and out", 2048, (2048,), 3),
    ("cross_attn.kv", 1024, (2048,) * 2, 1),
    ("mlp.layer1", 2048, (8192,), 1),
    ("mlp.layer2", 8192, (2048,), 1),
)
STORED = GROUPS[:4]


def compare_bare() -> list[dict]:
    table, ours, bare = [], 0.0, 0.0
    for name, width, outputs, count in GROUPS:
        found = time_group(width, outputs, CONCEPTS, 3 if width < 4096 else 1, time.perf_counter)
        ours, bare = ours + BLOCKS * count * found["ours_s"], bare + BLOCKS * count * found["bare_s"]
        table.append({"group": name, "width": width, "outputs": list(outputs), **found})
        print(
            f"  {name:<14} {width:>5} -> {len(outputs)} x {outputs[0]}: ours {found['ours_s']:.3f} s, bare "
            f"{found['bare_s']:.3f} s, {found['ratio']:.2f}x",
            flush=True,
        )
    print(f"  {BLOCKS} blocks, extrapolated: ours {ours:.0f} s, bare {bare:.0f} s, {ours / bare:.2f}x")
    return table


def groups_of(blocks: int):
    from mos_pack.mixofshow_core.families.layers import LayerGroup

    for block in range(blocks):
        for name, width, outputs, count in STORED:
            for number in range(count):
                path = f"diffusion_model.blocks.{block}.{name.replace(' ', '_')}.{number}"
                members = tuple(f"{path}.m{member}" for member in range(len(outputs)))
                yield LayerGroup(path, "spatial", members), width, outputs


def fuse_whole(blocks: int, folder: Path) -> dict:
    """Runs in its own process."""
    from mos_pack.mixofshow_core.fusion.fuse import FusionSettings, Source, fuse
    from mos_pack.mixofshow_core.fusion.store import StatisticsStore

    store, chosen = StatisticsStore(folder), list(groups_of(blocks))
    sources = []
    for number in range(CONCEPTS):
        deltas = {
            member: make_change(width, out, number, rank=16)
            for group, width, outputs in chosen
            for member, out in zip(group.members, outputs, strict=True)
        }
        sources.append(Source(f"c{number}", str(number), deltas, store.load(f"{number:02d}" * 32, frozenset())))
    fuse(sources[:2], [chosen[0][0]], (), FusionSettings(size="exact"))  # libraries take their buffers
    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    result = fuse(sources, [group for group, _, _ in chosen], (), FusionSettings(size="exact"), sources[0].statistics)
    answer = sum(tensor.nbytes for delta in result.deltas.values() for tensor in delta.tensors().values()) / 2**20
    return {
        "blocks": blocks,
        "groups": len(chosen),
        "solve_s": result.report.solve_seconds,
        "total_s": result.report.total_seconds,
        "extra_MiB": resident("VmHWM") - held,
        "answer_MiB": answer,
    }


def measure_whole(blocks: int) -> dict:
    from mos_pack.mixofshow_core.fusion.statistics import Statistics
    from mos_pack.mixofshow_core.fusion.store import StatisticsStore

    with tempfile.TemporaryDirectory() as folder:
        chosen = list(groups_of(blocks))
        for number in range(CONCEPTS):
            widths = {width: make_gram(width, 10 * number) for _, width, _ in chosen}
            grams = {group.name: widths[width] for group, width, _ in chosen}  # equal widths share one on the disk
            StatisticsStore(Path(folder)).save(f"{number:02d}" * 32, Statistics(grams), frozenset(grams))
        command = [sys.executable, "-m", "benchmarks.cost.anima", "--inside", folder, "--blocks", str(blocks)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    row = json.loads(done.stdout)
    print(
        f"  {row['blocks']} blocks, {row['groups']} groups, three LoRAs of rank 16: solve {row['solve_s']:.0f} s, with "
        f"report {row['total_s']:.0f} s; {row['extra_MiB']:.0f} MiB above what was held, of which the answer "
        f"{row['answer_MiB']:.0f} MiB"
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    name_packages()
    if options.inside:
        print(json.dumps(fuse_whole(options.blocks, Path(options.inside))))
        return
    print("A whole fusion:")
    measure_whole(options.blocks)
    print("Solve only:")
    compare_bare()


if __name__ == "__main__":
    main()
