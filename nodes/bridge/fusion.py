"""One fusion inside the host: sort by role, collect or find statistics, solve, keep the finished result."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...mixofshow_core.concept import Concept, ConceptUse, Delta, check_unique_names
from ...mixofshow_core.errors import MixOfShowError
from ...mixofshow_core.formats.native import read_concept, write_concept
from ...mixofshow_core.fusion.baselines import merge_sum
from ...mixofshow_core.fusion.fuse import FusionSettings, Source, choose_groups, fuse, hash_of
from ...mixofshow_core.fusion.plan import CalibrationPlan, concept_prompts, picture_prompts, prior_prompts
from ...mixofshow_core.fusion.statistics import Statistics
from ...mixofshow_core.fusion.store import StatisticsStore
from ...mixofshow_core.topology import LayerGroup, layer_groups_text, layer_groups_unet
from .calibration import collect
from .files import concept_folder, concept_save_path, safe_name
from .foreign import COMMUNITY
from .model import (
    apply_deltas,
    check_family,
    describe_base,
    family,
    named_linears,
    native_size,
    text_models_of,
    unet_of,
)
from .progress import Progress
from .text import register_concepts

log = logging.getLogger("mixofshow")

RESULT_LIMIT = 20  # finished fusions that are kept
FUSION_VERSION = 1


@dataclass(frozen=True)
class FusedUses:
    """What the node hands on. summary: the report's figures (JSON-able); notes: lines for people."""

    concept: Concept
    summary: Mapping[str, object]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """Everything one fusion reads: `model` and `clip` are the base, add-ons included."""

    model: object
    clip: object
    base: str
    uses: tuple[ConceptUse, ...]
    groups: tuple[LayerGroup, ...]
    plan: CalibrationPlan
    store: StatisticsStore
    progress: _Ticker


class _Ticker:
    """Counts units of work on the node's bar; every tick asks whether the user cancelled."""

    def __init__(self, total: int) -> None:
        self._progress = Progress(max(total, 1))
        self.done = 0

    def __call__(self, count: int = 1) -> None:
        self.done += count
        self._progress.step(self.done)


def check_uses(model, uses: Sequence[ConceptUse]) -> None:
    """Everything that can be wrong with a list of concepts, before any work."""
    if not uses:
        raise MixOfShowError("`concepts` is empty: connect MixOfShowLoadConcept or MixOfShowTrain.")
    check_family(model, [_as_lenient(use, model) for use in uses])
    check_list(uses)


def check_list(uses: Sequence[ConceptUse]) -> None:
    """No concept twice, no name or word twice: known without a model, so Load Concept asks too."""
    seen: dict[str, ConceptUse] = {}
    for use in uses:
        if (first := seen.setdefault(use.concept.content_hash, use)) is not use:
            places = ", ".join(sorted({first.path or first.label, use.path or use.label}))
            raise MixOfShowError(f"Concept {use.label!r} is listed twice in `concepts` ({places}); remove one.")
    check_names(uses)


def _as_lenient(use: ConceptUse, model) -> ConceptUse:
    """Community LoRAs do not say whether their base predicts v or noise, so that part is not held against them."""
    mine, theirs = family(model), use.concept.base.family
    if use.concept.training.get("source") == COMMUNITY and mine.removesuffix("-v") == theirs:
        return replace(use, concept=replace(use.concept, base=replace(use.concept.base, family=mine)))
    return use


def check_names(uses: Sequence[ConceptUse]) -> None:
    """Two files must not bring the same plain name or word; the message names both and the field to change."""
    owners: dict[str, ConceptUse] = {}
    for use in uses:
        check_unique_names(use.concept.entries, use.path or use.label)
        for entry in use.concept.entries:
            for token in (entry.name.lower(), *(word.text for word in entry.words)):
                if (other := owners.setdefault(token, use)) is not use:
                    raise MixOfShowError(
                        f"{other.path or other.label} and {use.path or use.label} both use {token!r}; "
                        f"give one of them another name in the `name` field of its Load Concept node."
                    )


def fuse_uses(
    model, clip, uses: Sequence[ConceptUse], method: str, plan: CalibrationPlan, settings: FusionSettings, folder: Path
) -> FusedUses:
    """Fuse `uses` on a base. folder: where statistics and finished fusions are kept (safe to delete).

    One concept is only applied. Raises MixOfShowError before any long work; the host's interrupt passes through.
    """
    started = time.perf_counter()
    check_uses(model, uses)
    add_ons = [use for use in uses if use.resolved_role == "add-on"]
    solved = sorted((use for use in uses if use not in add_ons), key=_identity)
    entries = tuple(entry for use in sorted(uses, key=_identity) for entry in use.concept.entries)
    added = merge_sum([use.concept.deltas for use in add_ons], [use.strength for use in add_ons])
    for use in uses:
        _check_fits(model, clip, use)
    info = describe_base(model)
    if len(solved) <= 1:
        deltas = merge_sum([use.concept.deltas for use in uses], [use.strength for use in uses])
        label = solved[0].label if solved else ", ".join(use.label for use in add_ons)
        note = f"One concept ({label}): it is applied as it is, nothing is solved."
        return FusedUses(Concept(entries, deltas, info, {"fusion": {"note": note}}), {}, (note,))

    parts = [merge_sum([use.concept.deltas], [use.strength]) for use in solved]
    attention = [g for name, text in text_models_of(clip).items() for g in layer_groups_text(text, name)]
    attention += layer_groups_unet(unet_of(model))
    groups, unsolved = choose_groups(attention, named_linears(model, clip), parts)
    base_model, base_clip = apply_deltas(model, clip, added)
    base = hash_of([info.family, info.fingerprint, _patches_digest(model), _patches_digest(clip.patcher),
                    _options_digest(model),
                    _text_fingerprint(clip), [_identity(use) for use in sorted(add_ons, key=_identity)]])  # fmt: skip
    plan = plan.sized(native_size(model))
    described = [_identity(use) for use in solved]
    key = hash_of([FUSION_VERSION, base, described, [e.id for e in entries], method, plan.content_hash, settings.ridge,
                   settings.prior, settings.unsolved, torch.__version__])  # fmt: skip
    kept = folder / "fusions" / f"{key[:32]}.safetensors"
    if (found := _load_finished(kept)) is not None:
        concept = replace(found, entries=entries)
        return FusedUses(concept, dict(found.training["fusion"]), ("Loaded: this very fusion was finished before.",))

    texts = [(concept_prompts(plan, use), picture_prompts(plan, use)) for use in solved]
    generic = (prior_prompts(plan, solved), tuple(text for text in plan.generic if text)[: plan.prior_pictures])
    counted = [*texts, generic] if method == "exact" else []
    work = sum(len(prompts) + len(pictures) * plan.steps for prompts, pictures in counted) + len(groups)
    job = _Job(base_model, base_clip, base, tuple(solved), groups, plan, StatisticsStore(folder / "statistics"),
               _Ticker(work))  # fmt: skip
    empty = Statistics({})
    prior, sources = empty, []
    if method == "exact":
        prior = _statistics(job, "prior", {}, (), *generic)
    for use, deltas, (prompts, pictures) in zip(solved, parts, texts, strict=True):
        stats = _statistics(job, use.label, deltas, (use,), prompts, pictures) if method == "exact" else empty
        sources.append(Source(use.label, _identity(use), deltas, stats))
    calibrated = time.perf_counter() - started
    fusion = fuse(sources, groups, unsolved, settings, prior, method, job.progress)
    summary = fusion.report.summary()
    summary["seconds"]["calibration"] = round(calibrated, 2)
    summary["strengths"] = [use.strength for use in solved]
    summary["store_bytes"] = job.store.size()
    deltas = merge_sum([fusion.deltas, added], [1.0, 1.0])
    concept = Concept(entries, deltas, info, {"fusion": summary})
    _keep_finished(kept, concept)
    return FusedUses(concept, summary, tuple(_notes(solved, add_ons, groups, job.store, summary)))


def _check_fits(model, clip, use: ConceptUse) -> None:
    """Every layer of the file exists here with the right shape; patching clones is cheap and proves it."""
    try:
        apply_deltas(model, clip, use.concept.deltas)
    except MixOfShowError as error:
        raise MixOfShowError(f"{use.path or use.label} does not fit MODEL and CLIP: {error}") from error


def _statistics(
    job: _Job, label: str, deltas: Mapping[str, Delta], uses: tuple[ConceptUse, ...], prompts: Sequence[str],
    pictures: Sequence[str],
) -> Statistics:  # fmt: skip
    """Statistics of one complete model: base + `deltas`, found in the store or collected now."""
    asked = frozenset(group.name for group in job.groups)
    manifest = {
        "base": job.base, "concepts": [_identity(use) for use in uses], "prompts": list(prompts),
        "pictures": list(pictures), "plan": job.plan.content_hash, "mode": "own", "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    identity = hash_of(manifest)
    if (found := job.store.load(identity, asked)) is not None:
        job.progress(len(prompts) + len(pictures) * job.plan.steps)
        return found
    log.info("Calibrating %s: %d prompts, %d pictures of %d steps at %dx%d", label, len(prompts), len(pictures),
             job.plan.steps, job.plan.width, job.plan.height)  # fmt: skip
    model, clip = apply_deltas(job.model, register_concepts(job.clip, uses), deltas)
    grams = collect(model, clip, job.groups, prompts, pictures, job.plan, job.progress)
    return job.store.save(identity, Statistics(grams, manifest), asked)


def _identity(use: ConceptUse) -> str:
    return hash_of([use.concept.content_hash, use.strength, use.trigger.strip(), use.resolved_role])


def _patches_digest(patcher) -> str:
    """Tells LoRAs apart that stock nodes already put on MODEL or CLIP: they belong to the base."""
    digest = hashlib.sha256()

    def feed(value) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().flatten()[:4096].float().cpu().contiguous().numpy().tobytes())
        elif isinstance(value, list | tuple):
            for item in value:
                feed(item)
        elif hasattr(value, "weights"):
            feed(value.weights)
        elif isinstance(value, str | int | float):
            digest.update(repr(value).encode())

    for key in sorted(patcher.patches, key=str):
        feed(str(key))
        feed(patcher.patches[key])
    return digest.hexdigest()


def _options_digest(model) -> str:
    """Names of what other nodes hooked into MODEL (patches, wrappers, swapped objects): they change its inputs too."""

    def names(value) -> object:
        if isinstance(value, Mapping):
            return {str(key): names(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [names(item) for item in value]
        return getattr(value, "__qualname__", type(value).__qualname__)

    return hash_of([names(model.model_options), {key: names(value) for key, value in model.object_patches.items()}])


def _text_fingerprint(clip) -> str:
    """A few weights of every text encoder, and where it stops: what K and V read depends on them."""
    digest = hashlib.sha256(repr(clip.layer_idx).encode())
    for name, linear in sorted(named_linears(None, clip).items()):
        if name.endswith(".self_attn.out_proj"):
            key = name.removeprefix("text_encoders.") + ".weight"
            kept = clip.patcher.backup.get(key)
            weight = linear.weight if kept is None else kept.weight
            digest.update(weight.detach().flatten()[:64].float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load_finished(path: Path) -> Concept | None:
    if not path.is_file():
        return None
    try:
        return read_concept(path)
    except MixOfShowError as error:
        log.warning("A finished fusion cannot be read (%s); solving again.", error)
        return None


def _keep_finished(path: Path, concept: Concept) -> None:
    """Written before the node returns, because the host may drop outputs and run the node again."""
    try:
        write_concept(path, concept)
        finished = sorted(path.parent.glob("*.safetensors"), key=lambda item: item.stat().st_mtime)
        for old in finished[:-RESULT_LIMIT]:
            old.unlink(missing_ok=True)
    except (MixOfShowError, OSError) as error:
        log.warning("The finished fusion could not be kept: %s", error)


def _notes(solved, add_ons, groups, store: StatisticsStore, summary: Mapping) -> list[str]:
    width = {role: figures["rank_share"] for role, figures in summary["roles"].items()}
    lines = [f"roles: {', '.join(f'{use.label} ({use.resolved_role} {use.strength:g})' for use in solved)}"]
    if add_ons:
        lines.append(f"add-ons, added as they are: {', '.join(f'{u.label} ({u.strength:g})' for u in add_ons)}")
    if width:
        lines.append("total rank / layer width: " + ", ".join(f"{role} {share:.3f}" for role, share in width.items()))
    lines.append(f"{len(groups)} groups of layers; statistics in {store.folder} use {store.size() / 1e6:.1f} MB "
                 f"of {store.limit / 1e9:g} GB (safe to delete)")  # fmt: skip
    return lines


def save_fused(name: str, concept: Concept) -> Path:
    """Write the fused concept under `name`; a file of that name with the very same content is not written twice."""
    folder = concept_folder()
    for path in sorted(folder.glob(f"{safe_name(name)}*.safetensors")) if folder.is_dir() else ():
        try:
            if read_concept(path).content_hash == concept.content_hash:
                return path
        except MixOfShowError:
            continue
    path = concept_save_path(name)
    write_concept(path, concept)
    return path
