"""How much concepts will get into each other's way, told from statistics alone, before anything is solved.

disturbance_ij = E_i|D_j x|^2 / E_i|D_i x|^2     what j does to i's inputs, against what i does to them
overlap_ij     = <G_i, G_j> / (|G_i| |G_j|)       how alike their inputs are (1 = the same, so not separable)
conflict_ij    = disturbance_ij * overlap_ij      activation-weighted conflict
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..delta import LowRank
from ..families.layers import LayerGroup
from .solve import GroupProblem

SKETCH = 32  # columns of the random sketch that stands for a Gram when overlaps are estimated
WHOLE = 16  # concepts up to which conflicts are foreseen in every group of layers


@dataclass(frozen=True)
class GroupConflict:
    """Of one group: energies [K, K] = E_i|D_j x|^2 (row i: whose inputs), overlap [K, K]."""

    name: str
    role: str
    energies: Tensor
    overlap: Tensor


def thin(groups: Sequence[LayerGroup], count: int) -> list[LayerGroup]:
    """The groups that a preview of `count` concepts looks at: every pair is measured in each, so of many concepts only
    every n-th group of a role, and the work grows with their number, not with its square."""
    every = max(1, -(-count // WHOLE))
    roles = dict.fromkeys(group.role for group in groups)
    chosen = {group.name for role in roles for group in [g for g in groups if g.role == role][::every]}
    return [group for group in groups if group.name in chosen]


def preview_group(problem: GroupProblem) -> GroupConflict:
    """One product with each Gram for all changes together, in float32; no system is solved."""
    count = len(problem.deltas)
    energies, sketches = torch.zeros(count, count, dtype=torch.float64), {}
    every = [(j, delta) for j, deltas in enumerate(problem.deltas) for delta in deltas.values()]
    low = [(j, delta) for j, delta in every if isinstance(delta, LowRank)]
    owners = torch.tensor([j for j, delta in low for _ in range(delta.rank)])
    downs = [delta.down.float() * delta.scale for _, delta in low]
    ups = [delta.up.float() for _, delta in low]
    tops = torch.cat([up.mT @ up @ down for up, down in zip(ups, downs, strict=True)]) if low else None
    downs = torch.cat(downs) if low else None
    for i in problem.present:
        gram = problem.grams[i].rough
        generator = torch.Generator().manual_seed(gram.shape[0])
        sketches[i] = (gram @ torch.randn(gram.shape[0], SKETCH, generator=generator).to(gram)).flatten()
        if low:
            energies[i].index_add_(0, owners, torch.linalg.vecdot(downs @ gram, tops).cpu().double())
        for j, delta in every:
            if not isinstance(delta, LowRank):
                matrix = delta.dense().reshape(delta.sides)
                energies[i, j] += float(torch.linalg.vecdot(matrix @ gram, matrix).sum(dtype=torch.float64))
    overlap = torch.eye(count, dtype=torch.float64)
    if sketches:
        flat = torch.nn.functional.normalize(torch.stack(list(sketches.values())), eps=1e-30)
        places = torch.tensor(list(sketches))
        overlap[places[:, None], places] = (flat @ flat.mT).cpu().double().clamp(0, 1)
    return GroupConflict(problem.name, problem.role, energies.clamp_min(0), overlap)


def summarise_conflicts(groups: Iterable[GroupConflict], labels: Sequence[str]) -> dict:
    """JSON-able, per role: the pairs with the largest conflict, and each concept's total."""
    roles: dict[str, dict] = {}
    groups = list(groups)
    for role in dict.fromkeys(group.role for group in groups):
        own = sum(group.energies.diagonal() for group in groups if group.role == role)
        crossed = sum(group.energies * group.overlap for group in groups if group.role == role)
        table = crossed / own.clamp_min(1e-30)[:, None] * (own > 0)[:, None]
        table.fill_diagonal_(0)
        pairs = [
            (float(table[i, j]), labels[i], labels[j])
            for i in range(len(labels))
            for j in range(len(labels))
            if table[i, j] > 0
        ]
        roles[role] = {
            "total": [round(float(row.sum()), 6) for row in table],
            "pairs": [{"on": a, "from": b, "conflict": value} for value, a, b in sorted(pairs, reverse=True)[:3]],
        }
    return roles


def format_conflicts(roles: dict, titles: dict[str, str]) -> list[str]:
    """Lines for people; empty when there is nothing to say."""
    lines = []
    for role, figures in roles.items():
        told = ", ".join(f"{pair['from']} on {pair['on']} {pair['conflict']:.2f}" for pair in figures["pairs"])
        if told:
            lines.append(f"  {titles.get(role, role)}: {told}")
    return ["\nConflict foreseen (what one does to another's inputs; 1 = as much as its own):", *lines] if lines else []
