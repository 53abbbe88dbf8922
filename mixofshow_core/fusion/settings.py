"""What a fusion can be told: the method, the anchors, which stages run and how large the answer may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import MixOfShowError
from ..topology import ROLE_CROSS_KV, ROLE_SPATIAL, ROLE_TEXT

ROLES = (ROLE_TEXT, ROLE_CROSS_KV, ROLE_SPATIAL)
UNSOLVED = ("mean", "sum", "drop")
MODES = ("own", "staged")
SIZES = ("auto", "exact")
MAX_REFINE = 5
MIN_WEIGHT, MAX_WEIGHT = 1e-3, 1e3


def per_role(value: float) -> Mapping[str, float]:
    return dict.fromkeys(ROLES, value)


@dataclass(frozen=True)
class FusionSettings:
    """Strengths of the two anchors per role (docs/maths.md, section 4), stages, size, and what the baselines need.

    ridge: lambda, a share of the mean input energy, towards the base weights. prior: mu, weight of generic inputs.
    stages: roles that are solved; layers of the others are merged by the rule for `unsolved` layers.
    mode: "own" takes every input from the concept alone, "staged" from what is fused so far. refine: how often inputs
    are collected again with the fused layers. size "auto": lowest rank that adds at most `added_error` of a layer's
    energy, at most `max_rank`; "exact" keeps all ranks. density: share of entries that TIES and DARE keep.
    off_diagonal: RegMean's shrinking of the Grams. memory_gb: for statistics in memory at once, 0 = what is free.
    weights: w_i by a concept's name, 1 where none is given. concept_rank: every concept is cut to it first, 0 = never.
    """

    ridge: Mapping[str, float] = field(default_factory=lambda: per_role(1e-2))
    prior: Mapping[str, float] = field(default_factory=lambda: per_role(0.1))
    unsolved: str = "mean"
    mode: str = "own"
    refine: int = 0
    stages: tuple[str, ...] = ROLES
    size: str = "auto"
    max_rank: int = 128
    added_error: float = 0.01
    density: float = 0.2
    off_diagonal: float = 0.9
    seed: int = 0
    memory_gb: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    concept_rank: int = 0

    def __post_init__(self) -> None:
        for name, values in (("ridge", self.ridge), ("prior", self.prior)):
            complete = set(values) == set(ROLES)
            if not complete or any(not 0 <= value < 1e6 for value in values.values()):
                raise MixOfShowError(f"{name} needs a number >= 0 for each of text, cross_kv, spatial, got {values}")
        if self.unsolved not in UNSOLVED:
            raise MixOfShowError(f"unsolved layers can be merged by {', '.join(UNSOLVED)}, not {self.unsolved!r}")
        if self.mode not in MODES or self.size not in SIZES:
            raise MixOfShowError(f"mode is one of {MODES} and size one of {SIZES}, got {self.mode!r}, {self.size!r}")
        if not self.stages or not set(self.stages) <= set(ROLES):
            raise MixOfShowError(f"at least one stage of {', '.join(ROLES)} has to be on, got {self.stages}")
        numbers = {"refine": (self.refine, 0, MAX_REFINE), "max_rank": (self.max_rank, 1, 4096),
                   "added_error": (self.added_error, 0, 0.5), "density": (self.density, 1e-3, 1),
                   "off_diagonal": (self.off_diagonal, 0, 1), "memory_gb": (self.memory_gb, 0, 1e6),
                   "concept_rank": (self.concept_rank, 0, 4096),
                   **{f"the weight of {name}": (value, MIN_WEIGHT, MAX_WEIGHT) for name, value in self.weights.items()},
                   }  # fmt: skip
        for name, (value, low, high) in numbers.items():
            if not low <= value <= high:
                raise MixOfShowError(f"{name} must lie between {low} and {high}, got {value}")

    def describe(self) -> dict:
        """Everything that changes the answer (memory does not)."""
        facts = dict(vars(self), ridge=dict(self.ridge), prior=dict(self.prior), stages=sorted(self.stages),
                     weights=dict(self.weights))  # fmt: skip
        del facts["memory_gb"]
        return facts

    def weights_of(self, concepts: Sequence[Collection[str]]) -> tuple[float, ...]:
        """w_i of every concept, each given by the names it goes by. A weight that nobody owns is an error."""
        known = {name.lower() for names in concepts for name in names}
        if strange := sorted(name for name in self.weights if name.lower() not in known):
            raise MixOfShowError(
                f"Fusion Settings gives a weight to {', '.join(strange)}, but the solved concepts are "
                f"{', '.join(sorted(known))}; correct the name in `weights`."
            )
        wanted = {name.lower(): value for name, value in self.weights.items()}
        return tuple(next((wanted[n.lower()] for n in names if n.lower() in wanted), 1.0) for names in concepts)


def parse_weights(text: str) -> dict[str, float]:
    """"mara: 2, finn: 0.5" (or one per line) as numbers by name; empty text gives none."""
    weights: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.replace("\n", ",").split(","))):
        name, _, value = part.rpartition(":")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        name = name.strip()
        if not name or name in weights or not MIN_WEIGHT <= number <= MAX_WEIGHT:
            raise MixOfShowError(
                f"`weights` of Fusion Settings has {part!r}: write name: number, every name once, each number "
                f"from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, as in `mara: 2, finn: 0.5`."
            )
        weights[name] = number
    return weights
