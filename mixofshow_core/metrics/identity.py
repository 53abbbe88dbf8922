"""Who is in the picture: nearest identity by cosine similarity of features, with a calibrated "none"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import MixOfShowError

NONE = "none"


def _checked(features: torch.Tensor, what: str) -> torch.Tensor:
    if features.ndim != 2 or not features.shape[0]:
        raise MixOfShowError(
            f"{what}: features must be a table [pictures, width] with at least one row, "
            f"not a tensor of shape {tuple(features.shape)}."
        )
    features = features.float()
    if not torch.isfinite(features).all():
        raise MixOfShowError(f"{what}: some features are not finite numbers. Check the pictures they came from.")
    return F.normalize(features, dim=1)


@dataclass(frozen=True)
class Gallery:
    """Reference features [n, D] of every known identity, and the similarity below which it is nobody known."""

    references: Mapping[str, torch.Tensor]
    threshold: float = -1.0

    def __post_init__(self) -> None:
        if not self.references:
            raise MixOfShowError("An identity gallery needs at least one identity with reference pictures.")
        if NONE in self.references:
            raise MixOfShowError(f'"{NONE}" is the answer for strangers and cannot be the name of an identity.')
        object.__setattr__(
            self, "references", {name: _checked(value, f'Identity "{name}"') for name, value in self.references.items()}
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.references)


@dataclass(frozen=True)
class Match:
    """The answer for one picture. `similarity` is that of the nearest identity, `margin` its lead on the second."""

    name: str
    nearest: str
    similarity: float
    margin: float


def similarities(features: torch.Tensor, gallery: Gallery, neighbours: int = 3) -> torch.Tensor:
    """[N, D] -> [N, identities]: mean cosine to the `neighbours` closest references of each identity."""
    query = _checked(features, "Pictures to recognise")
    columns = []
    for name, references in gallery.references.items():
        if references.shape[1] != query.shape[1]:
            raise MixOfShowError(
                f'Identity "{name}" has features of width {references.shape[1]}, the pictures '
                f"{query.shape[1]}: they come from different evaluators."
            )
        cosine = query @ references.T
        columns.append(cosine.topk(min(neighbours, cosine.shape[1]), dim=1).values.mean(1))
    return torch.stack(columns, 1)


def nearest_identity(features: torch.Tensor, gallery: Gallery, neighbours: int = 3) -> tuple[Match, ...]:
    """The nearest identity of every picture, or "none" below the gallery's threshold."""
    table = similarities(features, gallery, neighbours)
    best = table.topk(min(2, table.shape[1]), dim=1)
    names = gallery.names
    out = []
    for values, places in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        margin = values[0] - values[1] if len(values) > 1 else values[0]
        nearest = names[places[0]]
        out.append(Match(nearest if values[0] >= gallery.threshold else NONE, nearest, values[0], margin))
    return tuple(out)


def calibrate_none(known: torch.Tensor, strangers: torch.Tensor) -> float:
    """The threshold on the nearest similarity with the best balanced accuracy.

    known [N]: similarities of real pictures of known identities; strangers [M]: of pictures that show nobody known.
    """
    known, strangers = known.flatten().float(), strangers.flatten().float()
    if not known.numel() or not strangers.numel():
        raise MixOfShowError('Calibrating "none" needs pictures of known identities and of strangers.')
    values = torch.cat([known, strangers]).sort().values
    cuts = torch.cat([values[:1] - 1e-3, (values[1:] + values[:-1]) / 2, values[-1:] + 1e-3])
    accepted = (known[None, :] >= cuts[:, None]).float().mean(1)
    refused = (strangers[None, :] < cuts[:, None]).float().mean(1)
    balanced = accepted + refused
    # Several cuts are often equally good: the middle one is the least arbitrary.
    best = cuts[balanced >= balanced.max() - 1e-6]
    return float(best[len(best) // 2])


def bootstrap_interval(
    values: Sequence[float] | torch.Tensor, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high) of a list of scores by the percentile bootstrap."""
    data = torch.as_tensor(values, dtype=torch.float64).flatten()
    if not data.numel():
        raise MixOfShowError("A bootstrap interval needs at least one value.")
    if not 0 < level < 1:
        raise MixOfShowError(f"The level of a bootstrap interval lies between 0 and 1, not at {level}.")
    generator = torch.Generator().manual_seed(seed)
    means = data[torch.randint(len(data), (draws, len(data)), generator=generator)].mean(1)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return float(data.mean()), low, high
