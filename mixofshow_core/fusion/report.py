"""What a fusion kept and what it cost, measured on the calibration inputs.

Every figure is a share of energy, E|D x|^2 = tr(D G D^T): residual_i = |(D - D_i) x|^2 / |D_i x|^2 on concept i's
inputs (0 = the concept's change is met exactly, 1 = as if it had none), kept_i = <D x, D_i x> / |D_i x|^2 (1 = all of
it), drift = |D x|^2 on generic inputs against the mean of the single concepts' own. This is the least-squares
objective, not picture quality.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from ..concept import Delta, LowRank
from .conflict import format_conflicts
from .solve import GroupProblem, as_matrix, matrix_of

ROLES = ("text", "cross_kv", "spatial")


@dataclass(frozen=True)
class Energies:
    """Energies of one group on one concept's inputs: own change, what is missed of it, overlap with the result."""

    own: float = 0.0
    residual: float = 0.0
    overlap: float = 0.0
    sum_residual: float = 0.0
    average_residual: float = 0.0


@dataclass(frozen=True)
class GroupReport:
    """One group of layers. energies: per concept in canonical order. drift: (fused, mean of singles) on the prior."""

    name: str
    role: str
    width: int
    rank: int
    energies: tuple[Energies, ...]
    drift: tuple[float, float]
    ridge: float
    condition: float
    reason: str
    added: tuple[float, float] = (0.0, 0.0)  # energy lost by a shorter answer, energy of the whole answer

    @property
    def residual(self) -> float:
        """Over all concepts."""
        own = sum(energy.own for energy in self.energies)
        return sum(energy.residual for energy in self.energies) / own if own > 0 else 0.0


@dataclass(frozen=True)
class FusionReport:
    """The whole account. labels: the concepts in canonical order."""

    method: str
    labels: tuple[str, ...]
    groups: tuple[GroupReport, ...]
    unsolved: tuple[str, ...]
    unsolved_rule: str
    solve_seconds: float
    total_seconds: float
    norms: Mapping[str, Mapping] = field(default_factory=dict)
    weights: tuple[float, ...] = ()

    def joined(self, other: FusionReport) -> FusionReport:
        """Two stages of one fusion as one account; what was left over is the later stage's."""
        norms = {}
        for kind, figures in self.norms.items():
            norms[kind] = {key: figures[key] + other.norms[kind][key] for key in figures}
        return replace(
            other,
            groups=self.groups + other.groups,
            solve_seconds=self.solve_seconds + other.solve_seconds,
            total_seconds=self.total_seconds + other.total_seconds,
            norms=norms,
        )

    def summary(self) -> dict:
        """Per role: figures per concept and overall. JSON-able; what a fused file carries."""
        roles = {}
        for role in ROLES:
            groups = [group for group in self.groups if group.role == role]
            if groups:
                roles[role] = _summarise(groups, len(self.labels))
        whole = sum(figures["norm"] for figures in self.norms.values()) or 1.0
        worst = sorted(self.groups, key=lambda group: -group.residual)[:5]
        return {
            "method": self.method,
            "measured": any(energy.own > 0 for group in self.groups for energy in group.energies),
            "concepts": list(self.labels),
            "roles": roles,
            "worst": [{"layer": group.name, "residual": group.residual} for group in worst if group.residual > 0],
            "reasons": sorted({f"{group.name}: {group.reason}" for group in self.groups if group.reason})[:20],
            "layers": {
                kind: {"layers": figures["layers"], "norm_share": figures["norm"] / whole}
                for kind, figures in self.norms.items()
            },
            "added_error": _share(group.added for group in self.groups),
            "ranks": _ranks(self.groups),
            "unsolved": {"layers": len(self.unsolved), "first": list(self.unsolved[:5]), "rule": self.unsolved_rule},
            "seconds": {"solve": round(self.solve_seconds, 3), "solve_and_report": round(self.total_seconds, 3)},
        }


def _share(pairs: Iterable[tuple[float, float]]) -> float:
    pairs = list(pairs)
    whole = sum(total for _, total in pairs)
    return sum(added for added, _ in pairs) / whole if whole > 0 else 0.0


def _ranks(groups: Sequence[GroupReport]) -> list[int]:
    """[smallest, largest] rank of the answer."""
    ranks = [group.rank for group in groups if group.rank]
    return [min(ranks), max(ranks)] if ranks else [0, 0]


def peak_memory() -> int:
    """Largest memory of this process so far in MB: on the GPU if one is used, else resident; 0 if unknown."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 1e6)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def format_conflicts_of(conflicts: Mapping) -> list[str]:
    """The foreseen conflicts as lines, with the roles' titles."""
    return format_conflicts(conflicts, ROLE_TITLES)


def squared_norm(delta: Delta) -> float:
    """|D|_F^2; of factors without forming the product."""
    if isinstance(delta, LowRank):
        up, down = delta.up.double().cpu(), delta.down.double().cpu()
        return float(((up.mT @ up) * (down @ down.mT)).sum()) * delta.scale**2
    return float(delta.diff.double().square().sum())


def _summarise(groups: Sequence[GroupReport], count: int) -> dict:
    def ratio(field: str, i: int) -> float | None:
        own = sum(group.energies[i].own for group in groups)
        return sum(getattr(group.energies[i], field) for group in groups) / own if own > 0 else None

    fused, single = (sum(group.drift[k] for group in groups) for k in (0, 1))
    finite = [group.condition for group in groups if math.isfinite(group.condition)]
    return {
        "groups": len(groups),
        "residual": [ratio("residual", i) for i in range(count)],
        "kept": [ratio("overlap", i) for i in range(count)],
        "residual_sum": [ratio("sum_residual", i) for i in range(count)],
        "residual_average": [ratio("average_residual", i) for i in range(count)],
        "drift": fused / single if single > 0 else None,
        "ridge": max(group.ridge for group in groups),
        "condition": max(finite, default=1.0),
        "rank_share": sum(group.rank for group in groups) / sum(group.width for group in groups),
    }


def measure_group(
    problem: GroupProblem, found: Mapping[str, Delta], ridge: float, condition: float, reason: str
) -> GroupReport:
    """Energies of a solved group, in float32 (three digits are wanted, not thirteen)."""
    energies = [Energies() for _ in problem.deltas]
    drift, rank, width = [0.0, 0.0], 0, 1
    prior = None if problem.prior is None else problem.prior.matrix.float()
    shares = [weight / sum(problem.weights) for weight in problem.weights]
    owners, products = {}, {}
    for member, fused in found.items():
        owners[member] = [i for i in problem.present if member in problem.deltas[i]]
        products[member] = _inner_products(fused, [problem.deltas[i][member] for i in owners[member]])
        rank = max(rank, fused.rank if isinstance(fused, LowRank) else min(matrix_of(fused)))
        width = matrix_of(fused)[1]
        if prior is not None:
            table = products[member](prior)
            drift[0] += max(float(table[0, 0]), 0.0)
            drift[1] += float(table.diagonal()[1:].sum()) / len(problem.deltas)
    for i in problem.present if found else ():
        gram = problem.grams[i].matrix.float()
        for member in found:
            place = owners[member].index(i) if i in owners[member] else None
            table = products[member](gram)
            energies[i] = _added(energies[i], _energies(table, place, [shares[k] for k in owners[member]]))
    return GroupReport(
        problem.name, problem.role, width, rank, tuple(energies), (drift[0], drift[1]), ridge, condition, reason
    )


def _energies(table: Tensor, place: int | None, shares: Sequence[float]) -> Energies:
    """From inner products of the changes (fused first, then the concepts' own) on one concept's inputs."""

    def energy(coefficients: Tensor) -> float:
        return max(float(coefficients @ table @ coefficients), 0.0)

    fused, single = table.new_zeros(len(table)), table.new_zeros(len(table))
    fused[0] = 1
    if place is not None:
        single[1 + place] = 1
    added, mean = torch.ones_like(fused) - fused, table.new_tensor([0.0, *shares])
    overlap = float(fused @ table @ single)
    return Energies(
        energy(single), energy(fused - single), overlap, energy(added - single), energy(mean - single)
    )


def _added(first: Energies, second: Energies) -> Energies:
    return Energies(*(a + b for a, b in zip(asdict(first).values(), asdict(second).values(), strict=True)))


def _inner_products(fused: Delta, own: Sequence[Delta]) -> Callable[[Tensor], Tensor]:
    """A function gram -> [1 + n, 1 + n] table of E<D_p x, D_q x> over the fused change and the n own ones.

    When all are low-rank only [R, R] products are formed, R the sum of their ranks.
    """
    if isinstance(fused, LowRank) and own and all(isinstance(delta, LowRank) for delta in own):
        every = (fused, *own)
        up = torch.cat([delta.up.float().cpu() for delta in every], 1)
        downs = torch.cat([delta.down.float().cpu() * delta.scale for delta in every])
        metric = (up.double().mT @ up.double()).float()
        member = torch.repeat_interleave(torch.arange(len(every)), torch.tensor([delta.rank for delta in every]))
        select = torch.nn.functional.one_hot(member).mT.double()
        return lambda gram: select @ ((downs @ gram) @ downs.mT * metric).double() @ select.mT
    stacked = torch.stack([as_matrix(delta).float() for delta in (fused, *own)])
    return lambda gram: torch.einsum("pod,qod->pq", stacked @ gram, stacked).double()


def format_report(summary: Mapping, extra: Iterable[str] = ()) -> str:
    """The report as people read it."""
    labels = summary["concepts"]
    lines = [f"Mix-of-Show fusion of {len(labels)} concepts, method {summary['method']}"]
    lines += list(extra)
    if not summary["measured"]:
        lines.append("not measured: this method collects no statistics")
    width = max([len(label) for label in labels] + [8])
    for role, figures in summary["roles"].items() if summary["measured"] else ():
        drift = "no prior" if figures["drift"] is None else f"drift on generic text {figures['drift']:.3g}"
        lines.append(
            f"\n{ROLE_TITLES.get(role, role)}: {figures['groups']} groups, {drift}, ridge {figures['ridge']:.1e}, "
            f"condition up to {figures['condition']:.1e}, rank / width {figures['rank_share']:.3f}"
        )
        lines.append(f"  {'concept':<{width}}  residual   kept   (residual of: sum, average)")
        for i, label in enumerate(labels):
            cells = [figures[key][i] for key in ("residual", "kept", "residual_sum", "residual_average")]
            if cells[0] is None:
                lines.append(f"  {label:<{width}}  changes nothing here")
            else:
                lines.append(f"  {label:<{width}}  {cells[0]:8.4f} {cells[1]:7.3f}   ({cells[2]:.4f}, {cells[3]:.4f})")
    if summary["worst"]:
        lines.append("\nLargest residual:")
        lines += [f"  {item['residual']:.4f}  {item['layer']}" for item in summary["worst"]]
    if summary["unsolved"]["layers"]:
        first = ", ".join(summary["unsolved"]["first"])
        lines.append(
            f"\n{summary['unsolved']['layers']} layers cannot be solved (kernels, time and label layers); "
            f"rule: {summary['unsolved']['rule']}. First: {first}"
        )
    lines += format_conflicts_of(summary.get("conflicts", {}))
    told = [f"{figures['layers']} {kind} ({figures['norm_share']:.1%} of the changes' squared norm)"
            for kind, figures in summary.get("layers", {}).items() if figures["layers"]]  # fmt: skip
    if told:
        lines.append("\nLayers: " + ", ".join(told))
    if "size" in summary:
        lines.append(summary["size"])
    lines += [f"note: {reason}" for reason in summary["reasons"]]
    if summary.get("refine"):
        told = ", ".join(f"{value:.4f}" for value in summary["residuals"] if value is not None)
        lines.append(f"residual per round of refining, each on that round's own inputs: {told}")
    if summary.get("peak_memory_mb"):
        lines.append(f"largest memory of the whole process so far: {summary['peak_memory_mb']} MB")
    lines.append("\n" + ", ".join(f"{name.replace('_', ' ')} {value} s" for name, value in summary["seconds"].items()))
    if summary["measured"]:
        lines.append("residual: 0 = the concept's change is met exactly on its calibration inputs, 1 = lost. "
                     "It is the least-squares objective, not picture quality.")  # fmt: skip
    return "\n".join(lines)


ROLE_TITLES = {"text": "Text encoder", "cross_kv": "Cross-attention K, V", "spatial": "Spatial layers"}
