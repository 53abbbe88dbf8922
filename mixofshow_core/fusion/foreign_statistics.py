"""Statistics that somebody else collected: written for sending, and asked whether they can be what they say."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from ..errors import MixOfShowError
from .compressed import LOW, compress, loss_of, parts_of
from .statistics import Gram, Statistics
from .store import StoredGrams, keys_of, write_statistics

ROUNDING = 1e-6  # of the trace: below it a negative eigenvalue is rounding
LOUD = 1e3  # times the energy that the base's own inputs have in a layer
LOUDEST = 1e8  # mean square of an input where the base was not looked at: far beyond what a working layer reads
REMEDY = "Ask for the file again, or remove the statistics: Fuse then collects its own."
CLOSE = 0.02  # how far statistics that are collected again elsewhere may lie apart (other threads, torch, GPU)


def send_statistics(statistics: Statistics, path: Path, asked: Collection[str], identity: str, rank: int = 0) -> float:
    """Write statistics that lie in a store as one file; the largest loss of a matrix (0 without compressing).

    rank: directions that are kept of each matrix; 0 sends everything as it is.
    """
    maps = statistics.grams.maps if isinstance(statistics.grams, ChainMap) else [statistics.grams]
    if not all(isinstance(stored, StoredGrams) for stored in maps):
        raise MixOfShowError("The statistics could not be kept on the disk, so they cannot be sent: make room first.")
    facts, tensors, losses = {}, {}, [0.0]
    for stored in maps:
        one_of = {key: name for name, (_, _, key) in stored.facts.items()}
        for key, name in sorted(one_of.items()):
            if not rank:
                with safe_open(stored.path, framework="pt", device="cpu") as file:
                    tensors |= {one: file.get_tensor(one) for one in keys_of(key)}
                continue
            gram = stored[name]
            parts = compress(gram, rank)
            tensors |= dict(zip(parts_of(LOW + name), parts, strict=True))
            losses.append(loss_of(gram, parts))
        new = {key: LOW + name if rank else key for key, name in one_of.items()}
        facts |= {name: (weight, rows, new[key]) for name, (weight, rows, key) in stored.facts.items()}
    header = {"identity": identity, "asked": sorted(asked), "groups": facts, "manifest": dict(statistics.manifest)}
    write_statistics(path, header, tensors)
    return max(losses)


def check_statistics(statistics: Statistics, widths: Mapping[str, int], prior: Mapping[str, Gram], whose: str) -> None:
    """Refuse what no run could have given. widths: inputs of every group; prior: the base's own Grams."""
    for name, width in sorted(widths.items()):
        gram = statistics.grams.get(name)
        if gram is None:
            continue
        place = f"{whose}: the statistics of {name}"
        if gram.width != width:
            raise MixOfShowError(
                f"{place} are {gram.width} wide, the layer reads {width}: they belong to another base."
            )
        if not 0 < gram.weight < float("inf") or gram.rows < 1:
            raise MixOfShowError(f"{place} say that {gram.rows} rows of weight {gram.weight} were seen. {REMEDY}")
        trace = float(gram.stored.double().square().sum() if gram.factored else gram.matrix.trace())
        usual = LOUDEST * width if name not in prior else LOUD * float(prior[name].matrix.trace())
        if not 0 <= trace <= usual:
            raise MixOfShowError(f"{place} have energy {trace:.3g}, where at most {usual:.3g} can be. {REMEDY}")
        if not gram.factored and not _is_positive(gram.matrix, trace):
            raise MixOfShowError(f"{place} are not positive semidefinite, so no inputs have them. {REMEDY}")


def distance(ours: Gram, theirs: Gram) -> float:
    """|G - G'| / |G|, Frobenius."""
    matrix = ours.matrix
    return float((theirs.matrix - matrix).norm() / matrix.norm().clamp(min=1e-300))


def _is_positive(matrix: torch.Tensor, trace: float) -> bool:
    if not bool(torch.isfinite(matrix).all()):
        return False
    shifted = matrix + torch.eye(len(matrix), dtype=matrix.dtype) * (ROUNDING * max(trace, 1e-300))
    return int(torch.linalg.cholesky_ex(shifted).info) == 0
