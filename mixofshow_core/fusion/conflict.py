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
from .solve import GroupProblem

SKETCH = 32  # columns of the random sketch that stands for a Gram when overlaps are estimated


@dataclass(frozen=True)
class GroupConflict:
    """Of one group: energies [K, K] = E_i|D_j x|^2 (row i: whose inputs), overlap [K, K]."""

    name: str
    role: str
    energies: Tensor
    overlap: Tensor


def preview_group(problem: GroupProblem) -> GroupConflict:
    """Two passes of small products; Grams are read one at a time, and no system is solved."""
    count = len(problem.deltas)
    energies, sketches = torch.zeros(count, count, dtype=torch.float64, device=problem.device), {}
    metrics = {
        (j, member): delta.factors()[0].mT @ delta.factors()[0]
        for j in range(count)
        for member, delta in problem.deltas[j].items()
        if isinstance(delta, LowRank)
    }
    for i in problem.present:
        gram = problem.grams[i].matrix
        generator = torch.Generator().manual_seed(gram.shape[0])
        draws = torch.randn(gram.shape[0], SKETCH, generator=generator, dtype=gram.dtype)
        sketches[i] = gram @ draws.to(gram.device)
        for j in range(count):
            for member, delta in problem.deltas[j].items():
                if isinstance(delta, LowRank):
                    down = delta.factors()[1]
                    energies[i, j] += ((down @ gram) @ down.mT * metrics[j, member]).sum()
                else:
                    matrix = delta.matrix()
                    energies[i, j] += ((matrix @ gram) * matrix).sum()
    overlap = torch.eye(count, dtype=torch.float64)
    for i in sketches:
        for j in sketches:
            size = float(sketches[i].norm() * sketches[j].norm())
            overlap[i, j] = min(float((sketches[i] * sketches[j]).sum()) / size, 1.0) if size > 0 else 0.0
    return GroupConflict(problem.name, problem.role, energies.clamp_min(0).cpu(), overlap.clamp_min(0))


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
