"""Where each concept of a prompt stands, read off cross-attention by a fitted reading.

Letters: B pictures, L layers, H heads of a layer, P places of a grid, T text tokens, K concepts, s the two words that
are looked at: the first and the last of a concept's (one and the same where it has one). With a_lhs^c(p) the share of
its attention that place p pays to word s of concept c in head h of layer l:

    f^c(p) = log(1 + a^c(p) / mean over p of a^c)              a feature for every l, h, s
    g(p) = mean over c of f^c(p)
    d^c(p) = u . (f^c(p) - g(p))                               who it is
    z(p) = v . g(p) + b                                        whether anybody is there
    u = argmin sum (d^c - y^c + mean over c of y^c)^2 + ridge |u|^2
    (v, b) = argmin sum (z - sum over c of y^c)^2 + ridge |v|^2

over pictures, steps, p and c, where y^c(p) is 1 if the calibration picture was given c by a drawn region, else 0. What
is fitted knows no concept and no order of them: it is the same for any K. d and z are the means over all steps so far
(what is found early decides what is painted, and later attention follows the picture), then, with sigma the logistic
function,

    r^c(p) = 5 x 5 mean of softmax over c of (d / T)
    M^c(p) = s(sigma((z - 1/2) / T))  if c has the largest r^c(p) / mean over p of r^c, else 0
    s(m) = (m - E) / (1 - 2 E), held in 0..1; E = 0.02

so that two people never share a place, and a place that is surely nobody's is the base's to the bit. The mean over p
gives ground to whom the reading favours less: one round of Sinkhorn's scaling (Sinkhorn and Knopp 1967).

Text: a word of concept c is read with c's changes everywhere. Where c was found, what is read is what the prompt says
of c (clauses.py): other names colour the rows of all words behind them. What is nobody's there (other words, start,
end, padding) is read with c, because a LoRA without learned words has learned its person in the keys and values of
every token of a caption. With A_c the attention to that text, A_0 that to the whole prompt, nobody's words the base's:

    out(p) = (1 - sum over c of M^c(p)) A_0(p) + sum over c of M^c(p) A_c(p)

which is a drawn region's blend (regional/attention.py).

Where to look is learned because layers differ: on the small base A one layer of seven shows places, four are at chance,
one points the other way. Attention as a map of words: Prompt-to-Prompt (arXiv 2208.01626), DAAM (arXiv 2210.04885).
The reading is ours; the nearest rival is FreeFuse (arXiv 2510.23515), which chooses layers by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MixOfShowError

WORDS = 2  # the first and the last of a concept's
PARTS = 2  # of a weight: for who it is, for whether anybody is there
MOST_PLACES = 1024  # of a grid; finer attention is pooled
MOST_LAYERS = 8  # that a reading looks at: each costs some operations at every step
RIDGE = 0.05  # of the rows
SMOOTHED = 5  # places of a grid, an odd number
SURE = 0.02  # E: so near to 0 or 1 a gate is shut, or open, altogether


@dataclass(frozen=True, eq=False)
class Reading:
    """What is fitted. ``weights``: by layer index [H, WORDS, PARTS], u and v; ``offset``: b."""

    weights: Mapping[int, Tensor]
    offset: float

    def kernel(self, layer: int, people: int) -> Tensor:
        """[H x K x WORDS, K + 1]: what features of one layer are multiplied by for d and z of ``people`` concepts."""
        who, whether = self.weights[layer].unbind(-1)
        centred = torch.eye(people) - 1 / people
        own = torch.einsum("hs,kc->hksc", who, centred)
        anybody = (whether / people)[:, None, :, None].expand(-1, people, -1, 1)
        return torch.cat([own, anybody], 3).flatten(0, 2)

    def maps(self, kernel: Tensor, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """What one layer adds to d and z, [B, K + 1, h, w], from its features [B, H, P, K x WORDS] of a grid h x w."""
        return (features.transpose(1, 2).flatten(2) @ kernel).transpose(1, 2).unflatten(2, grid)


def plain_reading(heads: Mapping[int, int]) -> Reading:
    """For a net that nobody has fitted: the mean of these layers (index -> heads) says who; somebody is everywhere."""
    share = 1.0 / (WORDS * sum(heads.values()))
    weights = {layer: torch.zeros(count, WORDS, PARTS) for layer, count in heads.items()}
    for matrix in weights.values():
        matrix[..., 0] = share
    return Reading(weights, 1.0)


def mentions(owners: Sequence[int], concept: int) -> list[tuple[int, int]]:
    """(first, last) token of every run of tokens that belong to a concept."""
    found, start = [], None
    for position, owner in enumerate([*owners, None]):
        if owner == concept and start is None:
            start = position
        elif owner != concept and start is not None:
            found.append((start, position - 1))
            start = None
    return found


def picker(owners: Sequence[int], concepts: Sequence[int]) -> Tensor:
    """[T, K x WORDS]: takes from T shares of attention the two words of every concept, averaged over its mentions."""
    chosen = torch.zeros(len(concepts), WORDS, len(owners))
    for row, concept in enumerate(concepts):
        found = mentions(owners, concept)
        for first, last in found:
            chosen[row, 0, first] += 1 / len(found)
            chosen[row, 1, last] += 1 / len(found)
    return chosen.flatten(0, 1).T.contiguous()


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which attention of a layer of this size is looked at: halved until it has few enough places."""
    rows, columns = size
    while rows * columns > MOST_PLACES:
        rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
    return rows, columns


def scaled_keys(keys: Tensor, heads: int) -> Tensor:
    """Keys [B, T, C] as `attention_features` takes them: [B, H, d, T], in single precision, scaled."""
    parted = keys.float().unflatten(2, (heads, -1))
    return (parted * parted.shape[-1] ** -0.5).permute(0, 2, 3, 1)


def attention_features(query: Tensor, keys: Tensor, size: tuple[int, int], chosen: Tensor) -> Tensor:
    """f [B, H, P, K x WORDS] of one layer from its query [B, N, C], scaled keys and chosen words [T, K x WORDS].

    N = rows x columns of ``size``. The host repeats a text to T' = n T tokens; the first T say all.
    """
    grid = grid_of(size)
    if grid != size:
        maps = query.transpose(1, 2).unflatten(2, size)
        query = F.adaptive_avg_pool2d(maps.float(), grid).flatten(2).transpose(1, 2)
    query = query.float().unflatten(2, (keys.shape[1], -1)).transpose(1, 2)
    shares = torch.softmax(query @ keys, -1)
    words = shares[..., : len(chosen)] @ chosen
    return torch.log1p(words / words.mean(2, keepdim=True).clamp(min=1e-12))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, K, h, w] at another size: means of cells where it is smaller, linear between them where it is larger."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if size[0] <= maps.shape[-2] and size[1] <= maps.shape[-1]:
        return F.interpolate(maps, size=size, mode="area")
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def open_gates(scores: Tensor, temperature: float) -> Tensor:
    """Gates M [B, K, h, w] of d and z [B, K + 1, h, w]."""
    who, anybody = scores[:, :-1], scores[:, -1:]
    shares = F.avg_pool2d(torch.softmax(who / temperature, 1), SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)
    shares = shares / shares.mean((2, 3), keepdim=True)
    there = (torch.sigmoid((anybody - 0.5) / temperature) - SURE) / (1 - 2 * SURE)
    return torch.zeros_like(who).scatter_(1, shares.argmax(1, keepdim=True), there.clamp(0, 1))


def winner(gates: Tensor) -> Tensor:
    """[B, K, ...]: the largest of the K has the sum of all, the others nothing."""
    best = gates.argmax(1, keepdim=True)
    return torch.zeros_like(gates).scatter_(1, best, gates.sum(1, keepdim=True))


def in_what_is_left(found: Tensor, drawn: Tensor) -> Tensor:
    """Gates [B, K, N] of concepts that were found, where drawn regions [B, R, N] leave room for them."""
    return found * (1 - drawn.sum(1, keepdim=True)).clamp(min=0)


class Fit:
    """Normal equations of both ridge fits; ``heads``: layer index -> heads, in the order in which features come."""

    def __init__(self, heads: Mapping[int, int]) -> None:
        self.heads = dict(heads)
        self.width = sum(self.heads.values()) * WORDS
        self.who, self.anybody = _Squares(self.width), _Squares(self.width, 1)

    def add(self, features: Tensor, truth: Tensor) -> None:
        """features [P, K, heads of all layers x WORDS] and y [P, K] of one picture at one step."""
        features, truth = features.double(), truth.double()
        general = features.mean(1)
        self.who.add((features - general[:, None]).flatten(0, 1), (truth - truth.mean(1, keepdim=True)).flatten())
        self.anybody.add(torch.cat([general, torch.ones_like(general[:, :1])], 1), truth.sum(1).clamp(max=1))

    def solve(self, ridge: float = RIDGE, most: int = MOST_LAYERS) -> Reading:
        """Fitted to all layers, then anew to those ``most`` that told most of who is where."""
        spans, start = {}, 0
        for layer, count in self.heads.items():
            spans[layer] = torch.arange(start, start + count * WORDS)
            start += count * WORDS
        told = self.who.solve(ridge, torch.arange(self.width)) * self.who.moment
        best = sorted(spans, key=lambda layer: (-float(told[spans[layer]].sum()), layer))[:most]
        kept = {layer: spans[layer] for layer in sorted(best)}
        where = torch.cat(list(kept.values()))
        who, anybody = self.who.solve(ridge, where), self.anybody.solve(ridge, where)
        weights = {
            layer: torch.stack([who[span], anybody[span]], 1).view(-1, WORDS, PARTS).float()
            for layer, span in kept.items()
        }
        return Reading(weights, float(anybody[-1]))


class _Squares:
    """Sums of a least-squares fit; ``free``: where unknowns begin that no ridge holds."""

    def __init__(self, width: int, more: int = 0) -> None:
        size, self.free, self.rows = width + more, width, 0
        self.gram, self.moment = torch.zeros(size, size).double(), torch.zeros(size).double()

    def add(self, rows: Tensor, wanted: Tensor) -> None:
        self.gram += rows.T @ rows
        self.moment += rows.T @ wanted
        self.rows += len(rows)

    def solve(self, ridge: float, held: Tensor) -> Tensor:
        """The unknowns, 0 but for those of ``held`` (ridge: times the rows) and what lies behind all of them (free)."""
        if not self.rows:
            raise MixOfShowError("A reading of places has no calibration picture to be fitted to.")
        size, wide = len(self.gram), self.gram.new_zeros(len(self.gram))
        used = torch.cat([held, torch.arange(self.free, size)])
        anchors = torch.zeros(len(used)).double()
        anchors[: len(held)] = ridge * self.rows
        wide[used] = torch.linalg.solve(self.gram[used][:, used] + anchors.diag(), self.moment[used])
        return wide
