"""What a fusion can be told: the method, the anchors, which stages run and how large the answer may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..bounds import check_bounds, choice, number
from ..errors import MixOfShowError
from ..families.layers import LAYER_ROLES
from ..names import fold
from .apart import FUSED, WORDS

UNSOLVED = ("mean", "sum", "drop")
MODES = ("own", "staged")
SIZES = ("auto", "exact")
MAX_REFINE = 5
MIN_WEIGHT, MAX_WEIGHT = 1e-3, 1e3


def per_role(value: float) -> Mapping[str, float]:
    return dict.fromkeys(LAYER_ROLES, value)


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
    words: "own" fuses layers with places only and leaves what reads text to Place, word by word (apart.py).
    """

    ridge: Mapping[str, float] = field(default_factory=lambda: per_role(1e-2))
    prior: Mapping[str, float] = field(default_factory=lambda: per_role(0.1))
    unsolved: str = choice("mean", UNSOLVED)
    mode: str = choice("own", MODES)
    refine: int = number(0, 0, MAX_REFINE)
    stages: tuple[str, ...] = LAYER_ROLES
    size: str = choice("auto", SIZES)
    max_rank: int = number(128, 1, 4096)
    added_error: float = number(0.01, 0, 0.5)
    density: float = number(0.2, 1e-3, 1)
    off_diagonal: float = number(0.9, 0, 1)
    seed: int = number(0, 0, 2**31 - 1)
    memory_gb: float = number(0.0, 0, 1000, auto=True)
    weights: Mapping[str, float] = field(default_factory=dict)
    concept_rank: int = number(0, 0, 4096)
    words: str = choice(FUSED, WORDS)

    def __post_init__(self) -> None:
        check_bounds(self, "Fusion setting")
        for name, values in (("ridge", self.ridge), ("prior", self.prior)):
            complete = set(values) == set(LAYER_ROLES)
            if not complete or any(not 0 <= value < 1e6 for value in values.values()):
                raise MixOfShowError(f"{name} needs a number >= 0 for each of text, cross_kv, spatial, got {values}")
        if not self.stages or not set(self.stages) <= set(LAYER_ROLES):
            raise MixOfShowError(f"at least one stage of {', '.join(LAYER_ROLES)} has to be on, got {self.stages}")
        for name, value in self.weights.items():
            if not MIN_WEIGHT <= value <= MAX_WEIGHT:
                raise MixOfShowError(f"The weight of {name} is {value}; it must be {MIN_WEIGHT} to {MAX_WEIGHT}.")

    def describe(self) -> dict:
        """Everything that changes the answer (memory does not)."""
        facts = dict(
            vars(self),
            ridge=dict(self.ridge),
            prior=dict(self.prior),
            stages=sorted(self.stages),
            weights=dict(self.weights),
        )
        del facts["memory_gb"]
        if self.words == FUSED:  # finished fusions from before the field are found again
            del facts["words"]
        return facts

    def weights_of(self, concepts: Sequence[Collection[str]]) -> tuple[float, ...]:
        """w_i of every concept, each given by the names it goes by. A weight that nobody owns is an error."""
        known = {fold(name) for names in concepts for name in names}
        if strange := sorted(name for name in self.weights if fold(name) not in known):
            raise MixOfShowError(
                f"Fusion Settings gives a weight to {', '.join(strange)}, but the solved concepts are "
                f"{', '.join(sorted(known))}; correct the name in `weights`."
            )
        for name in self.weights:
            owners = [names for names in concepts if fold(name) in {fold(one) for one in names}]
            if len(owners) > 1:
                listed = "; ".join(sorted(", ".join(names) for names in owners))
                raise MixOfShowError(
                    f"`weights` of Fusion Settings has {name}, which {len(owners)} concepts go by ({listed}); "
                    "use a name that only one of them has."
                )
        wanted = {fold(name): value for name, value in self.weights.items()}
        return tuple(next((wanted[fold(n)] for n in names if fold(n) in wanted), 1.0) for names in concepts)


def parse_weights(text: str) -> dict[str, float]:
    """ "mara: 2, finn: 0.5" (or one per line) as numbers by name; empty text gives none."""
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
