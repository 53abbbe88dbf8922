"""Who scores the claims' pictures: identities of every kind, fit to a text, and how soft the pictures are.

References are real pictures seen through the base's autoencoder. Painted pictures are softer still, so that every share
stands beside two others: that of real held-out pictures, and that of the concept alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from world.drawing.captions import BACKGROUNDS
from world.judges import bridge_score, evaluator, evaluator_kinds
from world.judges.composites import Composites, load_composites

from .lab import CACHE, Painted, digest, measure

Figure = tuple[float, float, float]  # mean, low, high


def interval(values: Mapping[str, Sequence[float]]) -> Figure:
    """Mean over clusters of a cluster's mean, and its 95 % interval by drawing clusters; clusters are concepts."""
    rows = [float(np.mean(row)) for row in values.values() if len(row)]
    return evaluator.load_identity().bootstrap_interval(rows) if rows else (float("nan"),) * 3


def ratio(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]], draws: int = 2000) -> Figure:
    """Mean of ours over mean of theirs, of the concepts that have both, and its 95 % interval by drawing concepts."""
    names = [name for name in ours if len(ours[name]) and len(theirs.get(name, ()))]
    table = torch.tensor([[float(np.mean(side[name])) for side in (ours, theirs)] for name in names]).reshape(-1, 2)
    if not table[:, 1].sum():
        return (float("nan"),) * 3
    picks = torch.randint(len(names), (draws, len(names)), generator=torch.Generator().manual_seed(0))
    drawn = table[picks].mean(1)
    shares = drawn[:, 0] / drawn[:, 1].clamp(min=1e-9)
    low, high = torch.quantile(shares[drawn[:, 1] > 0], torch.tensor([0.025, 0.975])).tolist()
    return float(table[:, 0].sum() / table[:, 1].sum()), low, high


def kernel_distance() -> Callable[..., float]:
    """The pack's own, which needs no host."""
    return evaluator.load_metrics("alignment").kernel_distance


def drift(painted: torch.Tensor, base: torch.Tensor) -> list[float]:
    """1 - cosine, picture by picture from the same noise: features [N, D] each."""
    return (1 - torch.nn.functional.cosine_similarity(painted, base)).tolist()


@dataclass(frozen=True)
class Kind:
    """One kind's gallery. real: concept -> table [pictures, identities] of its held-out pictures."""

    gallery: object
    report: dict
    real: dict[str, torch.Tensor]


class Judge:
    """Scores features; everything it needs of real pictures is kept in the evaluators' caches."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.identity = evaluator.load_identity()
        self.net = evaluator.load_evaluator()
        self.kinds = {}
        for kind in kinds:
            gallery, report = evaluator_kinds.build_kind_gallery(kind, "soft", self.net)
            rows = evaluator_kinds.load_features(kind, "soft", self.net)["test"]
            real = {name: self.identity.similarities(features, gallery) for name, features in rows.items()}
            self.kinds[kind] = Kind(gallery, report, real)

    def names(self, kind: str) -> tuple[str, ...]:
        return self.kinds[kind].gallery.names

    def table(self, kind: str, features: torch.Tensor) -> torch.Tensor:
        """[N, identities]: cosine to everybody known of a kind."""
        return self.identity.similarities(features, self.kinds[kind].gallery)

    def similarity(self, kind: str, name: str, features: torch.Tensor) -> torch.Tensor:
        return self.table(kind, features)[:, self.names(kind).index(name)]

    def hits(self, kind: str, name: str, features: torch.Tensor) -> list[float]:
        """1 where the nearest identity is the right one."""
        return (self.table(kind, features).argmax(1) == self.names(kind).index(name)).float().tolist()

    def ceiling(self, kind: str, name: str) -> float:
        """Mean similarity of real held-out pictures."""
        return float(self.kinds[kind].real[name][:, self.names(kind).index(name)].mean())

    def real_hits(self, kind: str, name: str) -> list[float]:
        table = self.kinds[kind].real[name]
        return (table.argmax(1) == self.names(kind).index(name)).float().tolist()

    def kept(self, kind: str, name: str, features: torch.Tensor, floor: float, top: float) -> float:
        """Where the mean similarity lies between `floor`, the base's bare class, and `top`."""
        return (float(self.similarity(kind, name, features).mean()) - floor) / max(top - floor, 0.02)

    @cached_property
    def composites(self) -> Composites:
        return load_composites(["test_soft"])["test_soft"]

    @cached_property
    def presence(self) -> tuple[float, float, float]:
        """(similarity to the nearest character above which somebody is there, share of real people above it, share of
        real things below it); calibrated on every second real composite, counted on the others."""
        composites = self.composites
        people = torch.tensor([word == "person" for word in composites.labels["class"]])
        best = self.table("character", composites.features).max(1).values
        known, strangers = best[people], best[~people]
        cut = self.identity.calibrate_none(known[::2], strangers[::2])
        return cut, float((known[1::2] >= cut).float().mean()), float((strangers[1::2] < cut).float().mean())

    @cached_property
    def captions(self) -> list[str]:
        return sorted(set(self.composites.captions))

    @cached_property
    def bridge(self) -> object:
        return bridge_score.load_bridge(load_composites())

    def texts(self, words: Sequence[str]) -> torch.Tensor:
        """Text features, from the cache where these words were read before."""
        path = CACHE / f"texts-{digest(list(words))}.pt"
        if not path.exists():
            torch.save(bridge_score.text_features(list(words)), path)
        return torch.load(path, weights_only=True)

    def text_match(self, features: torch.Tensor, caption: str) -> list[float]:
        """Per picture, the share of real captions that fit it worse than its own does (chance one half)."""
        others = self.bridge.scores(features, self.texts(self.captions))
        own = self.bridge.scores(features, self.texts([caption]))
        return (others < own).float().mean(1).tolist()

    @cached_property
    def sharpness(self) -> float:
        """Mean step between neighbouring pixels of real held-out characters seen through the autoencoder."""
        paths = [path for paths in evaluator_kinds.list_files("character")["test"].values() for path in paths[:3]]
        pictures = [Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS) for path in paths]
        seen = np.stack([np.asarray(picture) for picture in evaluator.see_through_base(pictures)])
        return float(measure(self.net, seen).sharpness.mean())


def background_hits(painted: Painted, wanted: str) -> list[float]:
    """1 where the colour of the upper corners is nearest to the named background's."""
    names = list(BACKGROUNDS)
    table = torch.cdist(painted.corners[:, 0], torch.tensor([BACKGROUNDS[name] for name in names]).float())
    return (table.argmin(1) == names.index(wanted)).float().tolist()
