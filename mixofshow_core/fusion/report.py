"""What a fusion kept and what it cost, as figures that a file can carry and as text that people read.

The figures are those of measure.py, summed over layers by role: shares of the least-squares objective on calibration
inputs, not picture quality.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..families.layers import LAYER_ROLES, ROLE_TITLES
from .conflict import format_conflicts
from .measure import GroupReport
from .words import verdict


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
        for role in LAYER_ROLES:
            groups = [group for group in self.groups if group.role == role]
            if groups:
                roles[role] = _summarise(groups, len(self.labels))
        whole = sum(figures["norm"] for figures in self.norms.values()) or 1.0
        worst = sorted(self.groups, key=lambda group: -group.residual)[:5]
        return {
            "method": self.method,
            "measured": any(energy.own > 0 for group in self.groups for energy in group.energies),
            "concepts": list(self.labels),
            "weights": list(self.weights),
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
        }

    def cost(self) -> dict[str, float]:
        """Seconds by what they went into: of this run, so in no file."""
        return {"solve": round(self.solve_seconds, 3), "solve_and_report": round(self.total_seconds, 3)}


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


def _summarise(groups: Sequence[GroupReport], count: int) -> dict:
    def ratio(field: str, i: int) -> float | None:
        own = sum(group.energies[i].own for group in groups)
        return sum(getattr(group.energies[i], field) for group in groups) / own if own > 0 else None

    fused, single = (sum(group.drift[k] for group in groups) for k in (0, 1))
    finite = [group.condition for group in groups if math.isfinite(group.condition)]
    return {
        "groups": len(groups),
        "residual": [ratio("residual", i) for i in range(count)],
        "overlap": [ratio("overlap", i) for i in range(count)],
        "residual_sum": [ratio("sum_residual", i) for i in range(count)],
        "residual_average": [ratio("average_residual", i) for i in range(count)],
        "drift": fused / single if single > 0 else None,
        "ridge": max(group.ridge for group in groups),
        "condition": max(finite, default=1.0),
        "rank_share": sum(group.own_rank for group in groups) / sum(group.width for group in groups),
    }


def by_role(summary: Mapping) -> dict:
    """The summary with its parts in the order in which people read them; a file's JSON has them by the alphabet."""
    parts = {key: summary[key] for key in ("roles", "conflicts") if key in summary}
    ordered = {key: {role: found[role] for role in LAYER_ROLES if role in found} for key, found in parts.items()}
    return {**summary, **ordered}


def format_report(summary: Mapping, extra: Iterable[str] = ()) -> str:
    """The report as people read it: verdict and advice, then figures, then how it was done. ``extra`` comes last."""
    lines = [*verdict(summary), *_figures(summary)]
    lines += format_conflicts_of(summary.get("conflicts", {}))
    lines += ["", *_how(summary), *extra]
    return "\n".join(lines)


def _figures(summary: Mapping) -> list[str]:
    """What every concept keeps in every part, beside what other merges would, and the weakest layers."""
    if not summary["measured"]:
        return []
    labels, lines = summary["concepts"], []
    width = max([len(label) for label in labels] + [8])
    lines.append(f"\n{'keeps':<{width + 2}}{'fused':>10}{'sum':>10}{'average':>10}")
    for role, figures in summary["roles"].items():
        lines.append(f"{ROLE_TITLES.get(role, role)}")
        for i, label in enumerate(labels):
            cells = [figures[key][i] for key in ("residual", "residual_sum", "residual_average")]
            told = "changes nothing here" if cells[0] is None else "".join(f"{1 - cell:>10.1%}" for cell in cells)
            lines.append(f"  {label:<{width}}{'  ' if cells[0] is None else ''}{told}")
    lines.append("  (below 0: worse than leaving it out)")
    if summary["worst"]:
        lines.append("\nThe layers that keep least, of all concepts together:")
        lines += [f"  {1 - item['residual']:.1%}  {item['layer']}" for item in summary["worst"]]
    return lines


def _how(summary: Mapping) -> list[str]:
    """How it was done, what was left out, and what it cost."""
    labels = summary["concepts"]
    lines = [f"Mix-of-Show fusion of {len(labels)} concepts, method {summary['method']}"]
    if any(weight != 1 for weight in summary.get("weights", ())):
        told = (f"{label} {weight:g}" for label, weight in zip(labels, summary["weights"], strict=True))
        lines.append(f"objective weights: {', '.join(told)}")
    for role, figures in summary["roles"].items() if summary["measured"] else ():
        lines.append(
            f"{ROLE_TITLES.get(role, role)}: {figures['groups']} groups, ridge {figures['ridge']:.1e}, condition up to "
            f"{figures['condition']:.1e}, sum of ranks / width {figures['rank_share']:.3f}"
        )
    if summary["unsolved"]["layers"]:
        first = ", ".join(summary["unsolved"]["first"])
        lines.append(
            f"{summary['unsolved']['layers']} layers cannot be solved (kernels, norms, biases, time and label "
            f"layers); rule: {summary['unsolved']['rule']}. First: {first}"
        )
    told = [
        f"{figures['layers']} {kind} ({figures['norm_share']:.1%} of the changes' squared norm)"
        for kind, figures in summary.get("layers", {}).items()
        if figures["layers"]
    ]
    if told:
        lines.append("Layers: " + ", ".join(told))
    if "size" in summary:
        lines.append(summary["size"])
    lines += [f"note: {reason}" for reason in summary["reasons"]]
    if summary.get("refine"):
        told = ", ".join(f"{1 - value:.1%}" for value in summary["residuals"] if value is not None)
        lines.append(f"kept by all, per round of refining, each on that round's own inputs: {told}")
    if summary.get("peak_memory_mb"):
        lines.append(f"largest memory of the whole process so far: {summary['peak_memory_mb']} MB")
    if summary.get("seconds"):
        lines.append(", ".join(f"{name.replace('_', ' ')} {value} s" for name, value in summary["seconds"].items()))
    return lines
