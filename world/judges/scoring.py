"""Who stands where: the scores that `dev.py demo` and `dev.py bench --quick` print.

A picture half is *right* when the nearest of the twelve known identities (two concepts, ten look-alikes never
trained) is the intended one and near enough not to count as "none"; *nearest* leaves out the second condition. The real
pictures behind all this are seen through the base's own autoencoder, whose blur alone would make everybody "none".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from . import evaluator


@dataclass(frozen=True)
class Judge:
    """The evaluator network, the gallery of known identities, and its scores on real pictures."""

    net: torch.nn.Module
    gallery: object
    report: dict[str, float]


@dataclass(frozen=True)
class Score:
    """Shares over picture halves (``nearest`` with a 95 % bootstrap interval), and mean similarity to the intended."""

    nearest: float
    low: float
    high: float
    right: float
    swapped: float
    nobody: float
    similarity: float
    count: int


def load_judge() -> Judge:
    torch.set_num_threads(max(1, torch.get_num_threads()))
    net = evaluator.load_evaluator()
    return Judge(net, *evaluator.build_gallery(net, evaluator.see_through_base))


def halves(pictures: np.ndarray, names: Sequence[str]) -> list[tuple[np.ndarray, str]]:
    """Cut pictures [N, H, W, 3] into len(names) equal columns: (pictures of one column, who should be there)."""
    width = pictures.shape[2] // len(names)
    return [(pictures[:, :, i * width : (i + 1) * width], name) for i, name in enumerate(names)]


def score(judge: Judge, parts: Sequence[tuple[np.ndarray, str]]) -> Score:
    """Score columns of pictures against who should be in each."""
    identity = evaluator.load_identity()
    concepts = {name for _, name in parts}
    right, nearest, swapped, nobody, similar = [], [], [], [], []
    for pictures, name in parts:
        rows = evaluator.features(judge.net, [Image.fromarray(picture) for picture in pictures])
        matches = identity.nearest_identity(rows, judge.gallery)
        column = judge.gallery.names.index(name)
        similar += identity.similarities(rows, judge.gallery)[:, column].tolist()
        right += [match.name == name for match in matches]
        nearest += [match.nearest == name for match in matches]
        swapped += [match.nearest in concepts - {name} for match in matches]
        nobody += [match.name == identity.NONE for match in matches]
    mean, low, high = identity.bootstrap_interval([float(value) for value in nearest])
    share = [sum(values) / len(values) for values in (right, swapped, nobody, similar)]
    return Score(mean, low, high, *share, len(nearest))


def describe_judge(judge: Judge) -> str:
    report = judge.report
    return (
        f"identity among {report['identities']} known (2 concepts, 10 look-alikes) and 'none': "
        f"chance {report['chance']:.0%}, held-out real pictures {report['ceiling_concepts']:.0%} right (the ceiling)"
    )


def describe_row(title: str, judge: Judge, parts: Sequence[tuple[np.ndarray, str]]) -> str:
    found = score(judge, parts)
    return (
        f"  {title:16s} nearest {found.nearest:4.0%} [{found.low:.0%}, {found.high:.0%}]  right {found.right:4.0%}  "
        f"the other concept {found.swapped:4.0%}  none {found.nobody:4.0%}  similarity {found.similarity:.3f}  "
        f"(n = {found.count})"
    )
