"""The solver where the host calculates, in float64 and in refined float32, against float64 on the CPU.

A part of `python dev.py gpu`. Random layers of SD1.5's and SDXL's widths (those of cost/fusion.py), rank 16: time and
answers of one group of each kind, from stored statistics to its finished account.
"""

from __future__ import annotations

import statistics
import time

from .fusion import GROUPS, make_change, make_gram

RANK, ROUNDS, SMALL_WIDTH = 16, 3, 640


def compare_arithmetic(family: str, concepts: int, small: bool) -> dict[str, dict]:
    """By kind of group: how many the family has, milliseconds in every way, and how far answers lie from the CPU's as a
    share of their norm."""
    import comfy.model_management
    from mos_pack.mixofshow_core.fusion.arithmetic import ON_CPU, Arithmetic

    device = comfy.model_management.get_torch_device()
    ways = {"cpu": ON_CPU}
    if device.type in ("cpu", "cuda"):
        ways |= {"float64": Arithmetic(device), "refined": Arithmetic(device, coarse=True)}
    table = {}
    for role, width, outputs, *counts in GROUPS:
        count = sum(counts[:2] if family == "sd15" else counts[2:])
        if not count or (small and width > SMALL_WIDTH):
            continue
        sources, group = make_sources(role, width, outputs, concepts)
        row, wanted = {"groups": count}, None
        for name, way in ways.items():
            milliseconds, found = time_group(sources, group, way, 1 if small or name == "cpu" else ROUNDS)
            wanted = found if wanted is None else wanted
            row[name] = milliseconds
            row[f"{name} apart"] = max(
                float((found[layer] - dense).norm() / dense.norm()) for layer, dense in wanted.items()
            )
        table[f"{role} {width} -> {len(outputs)} x {outputs[0]}"] = row
    return table


def make_sources(role: str, width: int, outputs: tuple[int, ...], concepts: int):
    """(concepts with a change of one group's layers and statistics as they lie on the disk, the group)"""
    from mos_pack.mixofshow_core.families.layers import LayerGroup
    from mos_pack.mixofshow_core.fusion.fuse import Source
    from mos_pack.mixofshow_core.fusion.statistics import Gram, Statistics
    from mos_pack.mixofshow_core.linalg import pack_symmetric

    names = tuple(f"layer{n}" for n in range(len(outputs)))
    matrices = [make_gram(width, seed).matrix for seed in range(2)]  # more would only fill memory
    grams = [Gram(pack_symmetric(matrix).float(), 1.0, width, rounded=True, packed=True) for matrix in matrices]
    made = []
    for k in range(concepts):
        pairs = enumerate(zip(names, outputs, strict=True))
        changes = {name: make_change(width, out, 100 * n + k, RANK) for n, (name, out) in pairs}
        made.append(Source(f"c{k}", f"{k:03}", changes, Statistics({role: grams[k % 2]})))
    return tuple(made), LayerGroup(role, "spatial", names)


def time_group(sources, group, arithmetic, rounds: int):
    """(milliseconds, median of `rounds` after one that nobody counts where there are several; the layers' changes)"""
    from mos_pack.mixofshow_core.fusion.fuse import GroupTask
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings

    task, times = GroupTask(sources, None, FusionSettings(size="exact"), "exact", arithmetic), []
    for _ in range(rounds + (rounds > 1)):
        begun = time.perf_counter()
        found, _, _ = task(group)  # its answer lies on the CPU, so nothing is pending
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[-rounds:]), {name: delta.dense() for name, delta in found.items()}
