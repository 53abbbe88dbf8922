"""What a finished sampling has found, taken from the conditioning that it left it with: for Found Places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.family import CELL
from ....mixofshow_core.regional.finding import resized
from ....mixofshow_core.regional.outline import OPEN, found_regions
from ....mixofshow_core.regional.schema import RegionSet
from .finding import mark_of
from .payload import KEY


@dataclass(frozen=True, eq=False)
class FoundPicture:
    """Names and gates [K, h, w] of one picture of width x height pixels."""

    names: tuple[str, ...]
    gates: Tensor
    width: int
    height: int

    def masks(self) -> Tensor:
        """[K, height, width] in 0..1."""
        return resized(self.gates[None], (self.height, self.width))[0]

    def regions(self) -> RegionSet:
        return found_regions(self.gates, self.names, self.width, self.height)

    def describe(self) -> list[str]:
        shares = (self.gates >= OPEN).float().mean((1, 2)).tolist()
        return [f"{name}: {share:.0%} of the picture" for name, share in zip(self.names, shares, strict=True)]


def found_in(conditioning, samples: Tensor, picture: int) -> FoundPicture:
    """What was found when `samples` came out of sampling with this conditioning of Place."""
    carriers = [entry[1]["model_conds"][KEY] for entry in conditioning if KEY in entry[1].get("model_conds", {})]
    looked = [one for one in carriers if one.cond.routes is not None and one.cond.routes.search is not None]
    if not looked:
        raise MixOfShowError(
            "Found Places: `positive` looks for nobody. Connect Place's positive, with at least two unfused concepts "
            "named in its prompt that have no region."
        )
    mark = mark_of(samples)
    found = next((found for one in looked for found in one.memory.get("found", ()) if found.mark == mark), None)
    if found is None:
        raise MixOfShowError(
            "Found Places: these samples were not made with this conditioning, or were changed since. Connect the "
            "LATENT of the sampler that used Place's positive, and Place's model to that sampler."
        )
    if picture >= len(found.gates):
        raise MixOfShowError(f"Found Places: picture {picture} of a batch of {len(found.gates)}; count from 0.")
    rows, columns = samples.shape[-2:]
    gates = torch.nan_to_num(found.gates[picture])
    return FoundPicture(found.names, gates, max(64, columns * CELL), max(64, rows * CELL))
