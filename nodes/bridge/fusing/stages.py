"""The stages of one fusion: whose model is looked at when, where its statistics are kept, and what is solved with them.

Mode own: one pass over every concept's own complete model. Mode staged (Mix-of-Show, arXiv 2305.18292, section 4.2):
text encoder, then K,V behind the fused text encoder, then spatial layers behind both. Refine: inputs once more, from
the fused model itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

import comfy.model_management
import torch

from ....mixofshow_core.bounds import meaning
from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.delta import Delta
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import LAYER_ROLES, ROLE_SPATIAL, LayerGroup
from ....mixofshow_core.fusion.arithmetic import ON_CPU, SHARE, Arithmetic, arithmetic_on, bytes_of
from ....mixofshow_core.fusion.fuse import Fusion, Source, Spread, changes_in, foresee_conflicts, fuse, hash_of
from ....mixofshow_core.fusion.methods import method_of
from ....mixofshow_core.fusion.plan import CalibrationPlan, concept_prompts, picture_prompts, prior_prompts
from ....mixofshow_core.fusion.report import format_conflicts_of
from ....mixofshow_core.fusion.settings import FusionSettings
from ....mixofshow_core.fusion.statistics import Statistics
from ....mixofshow_core.fusion.store import StatisticsStore
from ..host.exact import apply_exactly, rounded_layers
from ..host.model import named_linears
from ..host.progress import Progress
from ..host.text import register_concepts
from .calibration import PICTURES, TEXTS, collect
from .given import given_statistics

log = logging.getLogger("mixofshow")

MODE_STAGES = {"own": (None,), "staged": LAYER_ROLES}  # what is solved one after the other; None: everything at once
SOLVING = "solving"
ROUNDED = (
    "MODEL keeps its weights in 8 bits. Calibration adds the concepts beside them and loses nothing; what Fuse lays "
    "onto it, the host rounds to 8 bits again. To keep all of it, give Place the MODEL from before and the fused file."
)
FREE_SHARE = 0.5  # of the free memory that statistics may fill; the model needs the rest


def use_identity(use: ConceptUse) -> str:
    """Hash of everything about a use that changes what it does."""
    strengths = use.strength, use.strength_of_text
    return hash_of([use.concept.content_hash, *strengths, use.trigger.strip(), use.resolved_role])


def names_of(use: ConceptUse) -> tuple[str, ...]:
    """What a person may call a use in `weights`: its concepts' names, its trigger, its file with and without ending."""
    names = (*(entry.name for entry in use.concept.entries), use.trigger, use.label, PurePath(use.path).stem)
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


@dataclass(frozen=True)
class Stage:
    """What is solved together. fixed: fused changes that everyone runs with; own: layers that stay the concept's."""

    name: str
    groups: tuple[LayerGroup, ...]
    fixed: Mapping[str, Delta] = field(default_factory=dict)
    keeps_own: bool = True


@dataclass(frozen=True)
class FusionJob:
    """Everything one fusion reads: `model` and `clip` are the base, add-ons included; `parts` are scaled changes."""

    model: object
    clip: object
    base: str
    uses: tuple[ConceptUse, ...]
    parts: tuple[Mapping[str, Delta], ...]
    groups: tuple[LayerGroup, ...]
    unsolved: tuple[str, ...]
    plan: CalibrationPlan
    settings: FusionSettings
    method: str
    store: StatisticsStore
    weights: tuple[float, ...]
    spread: Spread = map

    def run(self) -> tuple[Fusion, dict, tuple[str, ...]]:
        """The fusion, facts for its summary, and notes about this run alone. The host's interrupt passes through."""
        ticker = _Ticker(self._work())
        if not method_of(self.method).needs_statistics:
            sources = [self._source(k, Statistics({})) for k in range(len(self.uses))]
            return self._solve(sources, self.groups, self.unsolved, None, ticker), {}, ()
        notes = [ROUNDED] if rounded_layers(self.model) else []
        roles = meaning("Fusion setting mode", self.settings.mode, MODE_STAGES)
        fusion, conflicts = None, {}
        for role in roles:
            groups = tuple(group for group in self.groups if role in (None, group.role))
            rest = self.unsolved if role == roles[-1] else ()
            if not groups and not rest:
                continue
            fixed = {} if fusion is None else dict(fusion.deltas)
            sources, prior = self._look(Stage("own" if not fixed else f"staged {role}", groups, fixed), ticker, notes)
            conflicts |= foresee_conflicts(sources, groups, arithmetic=self._arithmetic(groups))
            found = self._solve(sources, groups, rest, prior, ticker)
            fusion = found if fusion is None else _joined(fusion, found)
        if fusion is None:  # only layers that no stage takes
            fusion = self._solve(self._look(Stage("own", ()), ticker, notes)[0], (), self.unsolved, None, ticker)
        for line in format_conflicts_of(conflicts):
            log.info(line)
        residuals = [_mean_residual(fusion)]
        for _ in range(self.settings.refine):
            stage = Stage("refined", self.groups, fusion.deltas, keeps_own=False)
            sources, prior = self._look(stage, ticker, notes)
            fusion = self._solve(sources, self.groups, self.unsolved, prior, ticker)
            residuals.append(_mean_residual(fusion))
        facts = {
            "conflicts": conflicts,
            "mode": self.settings.mode,
            "refine": self.settings.refine,
            "residuals": residuals,
        }
        return fusion, facts, tuple(sorted(set(notes)))

    def _look(self, stage: Stage, ticker: _Ticker, notes: list[str]) -> tuple[list[Source], Statistics]:
        if not stage.groups:
            return [self._source(k, Statistics({})) for k in range(len(self.uses))], Statistics({})
        generic = (prior_prompts(self.plan, self.uses), self._prior_pictures())
        where = "" if not stage.fixed else f"{stage.name}: "
        ticker.words = f"{where}generic"
        prior = self._statistics("prior", stage, {}, (), *generic, ticker, notes)
        sources = []
        for k, use in enumerate(self.uses):
            ticker.words = f"{where}concept {k + 1} of {len(self.uses)}, {use.label}"
            texts = concept_prompts(self.plan, use), picture_prompts(self.plan, use)
            found = self._statistics(use.label, stage, self.parts[k], (use,), *texts, ticker, notes, prior)
            sources.append(self._source(k, found))
        return sources, prior

    def collect_own(self) -> tuple[Statistics, frozenset[str]]:
        """Statistics of the job's one concept, for others, and the names of all groups that were watched."""
        use, notes = self.uses[0], []
        texts = concept_prompts(self.plan, use), picture_prompts(self.plan, use)
        stage = Stage("own", self.groups)
        found = self._statistics(use.label, stage, self.parts[0], (use,), *texts, _Ticker(self._work()), notes)
        return found, frozenset(group.name for group in self.groups)

    def own_manifest(self) -> dict[str, object]:
        """What statistics of the job's one concept must say of themselves."""
        texts = concept_prompts(self.plan, self.uses[0]), picture_prompts(self.plan, self.uses[0])
        return self._manifest(Stage("own", self.groups), self.uses, *texts)

    def _source(self, k: int, statistics: Statistics) -> Source:
        use = self.uses[k]
        return Source(use.label, use_identity(use), self.parts[k], statistics, self.weights[k])

    def _solve(self, sources, groups, unsolved, prior, ticker) -> Fusion:
        ticker.words = f"{len(groups)} groups of layers"
        arithmetic = self._arithmetic(groups) if method_of(self.method).needs_statistics else ON_CPU

        def step() -> None:
            ticker(SOLVING)

        return fuse(sources, groups, unsolved, self.settings, prior, self.method, step, self.spread, arithmetic)

    def _arithmetic(self, groups: Sequence[LayerGroup]) -> Arithmetic:
        """Where groups are solved. What is spread may run on machines without this one's GPU: on their CPUs."""
        device = self.model.load_device
        if self.spread is not map:
            return ON_CPU
        sizes = [bytes_of(changes_in(group, part) for part in self.parts) / 1e9 for group in groups]
        if device.type != "cpu":
            comfy.model_management.free_memory(1e9 * max(sizes, default=0) / SHARE, device)
        found = arithmetic_on(device, comfy.model_management.get_free_memory(device))
        if large := [size for size in sizes if size > found.limit / 1e9]:
            log.info(
                "%d of %d groups need up to %.1f GB each; at most %.1f GB of the GPU may be taken: solved on the CPU",
                len(large),
                len(groups),
                max(large),
                found.limit / 1e9,
            )
        return found

    def _prior_pictures(self) -> tuple[str, ...]:
        return tuple(text for text in self.plan.generic if text)[: self.plan.prior_pictures]

    def _work(self) -> dict[str, int]:
        """Units of the progress bar by sort, before block-wise passes are known."""
        solve = len(self.groups)
        if not method_of(self.method).needs_statistics:
            return {SOLVING: solve}
        texts = [(concept_prompts(self.plan, use), picture_prompts(self.plan, use)) for use in self.uses]
        texts.append((prior_prompts(self.plan, self.uses), self._prior_pictures()))
        rounds = 1 + self.settings.refine
        prompts = sum(len(words) for words, _ in texts) * (rounds + (len(MODE_STAGES[self.settings.mode]) > 1))
        sampled = sum(len(pictures) for _, pictures in texts) * self.plan.steps
        return {TEXTS: prompts, PICTURES: sampled * rounds, SOLVING: solve * rounds}

    def _manifest(self, stage: Stage, uses: tuple[ConceptUse, ...], prompts, pictures) -> dict[str, object]:
        """Everything that statistics rest on."""
        # Statistics of rounded weights were others while the host rounded every concept's anew.
        return ({"exact": True} if rounded_layers(self.model) else {}) | {
            "base": self.base,
            "concepts": [use_identity(use) for use in uses],
            "prompts": list(prompts),
            "pictures": list(pictures),
            "plan": self.plan.content_hash,
            "mode": stage.name,
            "fixed": _hash_deltas(stage.fixed),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }

    def _statistics(
        self,
        label: str,
        stage: Stage,
        own: Mapping[str, Delta],
        uses: tuple[ConceptUse, ...],
        prompts: Sequence[str],
        pictures: Sequence[str],
        ticker: _Ticker,
        notes: list[str],
        prior: Statistics | None = None,
    ) -> Statistics:
        """Statistics of one model, base + fixed + own changes: given with the concept, found in the store, or collected
        now. prior: the base's own, which given ones are compared with."""
        asked = frozenset(group.name for group in stage.groups)
        spatial = any(group.role == ROLE_SPATIAL for group in stage.groups)
        prompts = prompts if any(group.role != ROLE_SPATIAL for group in stage.groups) else ()
        pictures = pictures if spatial else ()
        manifest = self._manifest(stage, uses, prompts, pictures)
        identity = hash_of(manifest)
        found = None
        if uses and uses[0].statistics:
            linears = named_linears(self.model, self.clip)
            widths = {group.name: linears[group.members[0]].weight.shape[1] for group in stage.groups}
            found = given_statistics(uses[0], manifest, widths, prior, notes)
        if found is None:
            found = self.store.load(identity, asked)
        if found is not None:
            ticker(TEXTS, len(prompts), timed=False)
            ticker(PICTURES, len(pictures) * self.plan.steps, timed=False)
            return found
        log.info(
            "Calibrating %s (%s): %d prompts, %d pictures of %d steps at %dx%d",
            label,
            stage.name,
            len(prompts),
            len(pictures),
            self.plan.steps,
            self.plan.width,
            self.plan.height,
        )
        fixed = dict(stage.fixed)
        chosen = {name: delta for name, delta in own.items() if stage.keeps_own and name not in fixed}
        model, clip = apply_exactly(self.model, register_concepts(self.clip, uses), fixed | chosen)
        blocks = list(split_groups(self.model, self.clip, stage.groups, self.settings.memory_gb))
        if len(blocks) == 1:
            grams = collect(model, clip, stage.groups, prompts, pictures, self.plan, ticker)
            return self.store.save(identity, Statistics(grams, manifest), asked)
        notes.append(f"calibration ran in {len(blocks)} passes per concept, to fit the statistics into memory")
        parts = []
        for block in blocks:
            names = frozenset(group.name for group in block)
            name = hash_of([identity, sorted(names)])
            if (found := self.store.load(name, names)) is None:
                grams = collect(model, clip, block, prompts, pictures, self.plan, ticker)
                found = self.store.save(name, Statistics(grams, manifest), names)
            parts.append(found.grams)
        return Statistics(ChainMap(*parts), manifest)


class _Ticker:
    """Counts units of work on the node's bar; every tick asks whether the user cancelled.

    words: what is worked on now, in front of the sort of work and the time left.
    """

    def __init__(self, work: Mapping[str, int]) -> None:
        self._progress = Progress(max(sum(work.values()), 1), work=work)
        self.done, self.words = 0, ""

    def __call__(self, sort: str, count: int = 1, timed: bool = True) -> None:
        self.done += count
        self._progress.step(self.done, words=f"{self.words}: {sort}", sort=sort, timed=timed)


def split_groups(model, clip, groups: Sequence[LayerGroup], memory_gb: float) -> Iterator[tuple[LayerGroup, ...]]:
    """Groups in blocks whose statistics (8 d^2 bytes each) fit into memory_gb, or into half of what is free (0).

    Raises MixOfShowError when not even one fits.
    """
    linears = named_linears(model, clip)
    sizes = {group.name: 8 * linears[group.members[0]].weight.shape[1] ** 2 for group in groups}
    if model.load_device.type != "cpu":  # another model that lies there is no reason to look twice
        comfy.model_management.free_memory(sum(sizes.values()) / FREE_SHARE, model.load_device)
    free = min(comfy.model_management.get_free_memory(device) for device in (torch.device("cpu"), model.load_device))
    limit = memory_gb * 1e9 if memory_gb else FREE_SHARE * free
    largest = max(sizes.values(), default=0)
    if largest > limit:
        raise MixOfShowError(
            f"Not enough memory for statistics: one layer needs {largest / 1e9:.3f} GB and all {len(groups)} together "
            f"{sum(sizes.values()) / 1e9:.2f} GB; {limit / 1e9:.3f} GB may be used ({free / 1e9:.2f} GB are free). "
            f"Close other programs, or set `memory_gb` in Fusion Settings to {largest / 1e9 * 1.05:.3f} or more: "
            f"calibration then runs block by block."
        )
    block: list[LayerGroup] = []
    for group in groups:
        if block and sum(sizes[one.name] for one in (*block, group)) > limit:
            yield tuple(block)
            block = []
        block.append(group)
    yield tuple(block)


def _joined(first: Fusion, second: Fusion) -> Fusion:
    return replace(second, deltas={**first.deltas, **second.deltas}, report=first.report.joined(second.report))


def _mean_residual(fusion: Fusion) -> float | None:
    """Over all layers and concepts, energy-weighted."""
    energies = [energy for group in fusion.report.groups for energy in group.energies]
    own = sum(energy.own for energy in energies)
    return sum(energy.residual for energy in energies) / own if own > 0 else None


def _hash_deltas(deltas: Mapping[str, Delta]) -> str:
    facts = []
    for name, delta in sorted(deltas.items()):
        for tensor in delta.tensors().values():
            facts.append([name, tuple(tensor.shape), _digest(tensor)])
    return hash_of(facts) if facts else ""


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
