"""Where a fusion calculates: on the CPU in float64, or on a GPU as far as its memory and its float64 allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ..delta import Delta, Dense, LowRank

SHARE = 0.5  # of a GPU's free memory that one group of layers may take while it is solved
# Compute capabilities of NVIDIA's, and names of AMD's, whose float64 is at least half as fast as their float32.
FAST_CUDA = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))
FAST_ROCM = ("gfx908", "gfx90a", "gfx940", "gfx941", "gfx942", "gfx950")


@dataclass(frozen=True)
class Arithmetic:
    """How groups of layers are solved. device: of all that take at most `limit` bytes there; the others stay on the
    CPU. coarse: factors are float32, and what they give is refined to float64's answer (linalg.RidgeFactor).
    """

    device: torch.device = torch.device("cpu")
    limit: float = math.inf
    coarse: bool = False

    def device_for(self, deltas: Iterable[Mapping[str, Delta]]) -> torch.device:
        return self.device if bytes_of(deltas) <= self.limit else ON_CPU.device


ON_CPU = Arithmetic()


def arithmetic_on(device: torch.device, free: float) -> Arithmetic:
    """What suits a device with `free` bytes. What torch does not call cuda has no float64, or nobody knows how fast."""
    if device.type != "cuda":
        return ON_CPU
    facts = torch.cuda.get_device_properties(device)
    return Arithmetic(device, SHARE * free, not has_fast_float64(facts, torch.version.hip is not None))


def has_fast_float64(facts, rocm: bool) -> bool:
    """facts: torch's properties of the device."""
    if rocm:
        return facts.gcnArchName.split(":")[0] in FAST_ROCM
    return (facts.major, facts.minor) in FAST_CUDA


def bytes_of(deltas: Iterable[Mapping[str, Delta]]) -> int:
    """What one group takes at most while it is solved, cut and measured: float64 matrices of its inputs (the sum, a
    Gram being read, the factor, copies inside the library), of its outputs where a whole change is cut, and copies of
    its changes."""
    every = [delta for part in deltas for delta in part.values()]
    width = max((delta.sides[1] for delta in every), default=0)
    outputs = max((delta.sides[0] for delta in every if isinstance(delta, Dense)), default=0)
    numbers = 7 * (width * width + outputs * outputs)
    for delta in every:
        rows, columns = delta.sides
        numbers += 6 * delta.rank * (rows + columns) if isinstance(delta, LowRank) else 6 * rows * columns
    return 8 * numbers
