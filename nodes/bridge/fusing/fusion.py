"""One fusion inside the host: sort by role, collect or find statistics, solve, keep the finished result."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ....mixofshow_core.bounds import meaning
from ....mixofshow_core.concept import Concept, ConceptUse, concept_tensors
from ....mixofshow_core.digests import digest_of_file
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import ROLE_SPATIAL, LayerGroup
from ....mixofshow_core.families.nets import kind_of, layer_groups
from ....mixofshow_core.families.text import layer_groups_text
from ....mixofshow_core.fitting import check_once, with_unique_words
from ....mixofshow_core.formats.native import read_concept, write_concept
from ....mixofshow_core.fusion.apart import FUSED, OWN, better_apart, reads_words, words_of
from ....mixofshow_core.fusion.fuse import Spread, choose_groups, hash_of
from ....mixofshow_core.fusion.merges import merge_sum, shorten
from ....mixofshow_core.fusion.plan import CalibrationPlan
from ....mixofshow_core.fusion.report import by_role, peak_memory
from ....mixofshow_core.fusion.settings import FusionSettings
from ....mixofshow_core.fusion.store import StatisticsStore
from ..host.applied import check_unapplied
from ..host.files import concept_folder, concept_save_path, safe_name
from ..host.fingerprints import models_key
from ..host.fitting import check_fit
from ..host.model import (
    apply_deltas,
    describe_base,
    named_linears,
    native_size,
    net_of,
    text_models_of,
)
from .observe import observed_groups
from .stages import FusionJob, names_of, use_identity

log = logging.getLogger("mixofshow")

RESULT_LIMIT = 20  # finished fusions that are kept
FUSION_VERSION = 5
SHARED_WORDS = (
    "have no learned words: each changes what ordinary words mean, and one text encoder cannot read them in two ways. "
    "Fusion Settings' words: own, with CONCEPTS of Fuse wired to Place, keeps them further apart."
)


@dataclass(frozen=True)
class FusedUses:
    """What the node hands on. notes: lines for people.

    summary: the report's figures (JSON-able), those of the file and what this run cost: two equal fusions save the
    same bytes, so that stands in no file. words: what reads text of each concept, where that is not fused.
    """

    concept: Concept
    summary: Mapping[str, object]
    notes: tuple[str, ...]
    words: tuple[ConceptUse, ...] = ()


def fuse_uses(
    model,
    clip,
    uses: Sequence[ConceptUse],
    method: str,
    plan: CalibrationPlan,
    settings: FusionSettings,
    folder: Path,
    spread: Spread = map,
) -> FusedUses:
    """Fuse `uses` on a base. folder: where statistics and finished fusions are kept (safe to delete). spread: runs the
    groups of layers, as `map` does.

    One concept is only applied. Raises MixOfShowError before any long work; the host's interrupt passes through.
    """
    started = time.perf_counter()
    if not uses:
        raise MixOfShowError("`concepts` is empty: connect Load Concept, Cast or Train.")
    fits = check_fit(model, clip, uses)
    check_once(uses, "Fuse")
    check_unapplied(model, clip, uses, "Fuse")
    uses = sorted(uses, key=use_identity)  # add-ons are summed too, and the order of wires must not change a byte
    if settings.concept_rank:
        uses = [_shortened(use, settings.concept_rank) for use in uses]
    is_solved = {"concept": True, "style": True, "add-on": False}
    solved = [use for use in uses if meaning("The role of a concept", use.resolved_role, is_solved)]
    add_ons = [use for use in uses if not is_solved[use.resolved_role]]
    entries, renames = with_unique_words(entry for use in uses for entry in use.concept.entries)
    added = merge_sum([use.changes() for use in add_ons], [1.0] * len(add_ons))
    weights = settings.weights_of([names_of(use) for use in solved])
    info = describe_base(model)
    if len(solved) <= 1:
        deltas = merge_sum([use.changes() for use in uses], [1.0] * len(uses))
        label = solved[0].label if solved else ", ".join(sorted(use.label for use in add_ons))
        note = f"One concept ({label}): it is applied as it is, nothing is solved."
        return FusedUses(Concept(entries, deltas, info, {"fusion": {"note": note}}), {}, (*fits, note, *renames))

    parts = [use.changes() for use in solved]
    groups, unsolved = choose_groups(attention_groups(model, clip), named_linears(model, clip), parts)
    left = [group for group in groups if group.role not in settings.stages]
    groups = tuple(group for group in groups if group not in left)
    changed = {name for part in parts for name in part}
    unsolved += tuple(name for group in left for name in group.members if name in changed)
    apart: tuple[ConceptUse, ...] = ()
    if meaning("Fusion setting words", settings.words, {OWN: True, FUSED: False}):
        groups = tuple(group for group in groups if group.role == ROLE_SPATIAL)
        unsolved = tuple(name for name in unsolved if not reads_words(name))
        apart = tuple(sorted(map(words_of, solved), key=lambda use: use.label))
    elif kind_of(net_of(model)).finds_words and (plain := better_apart(solved)):
        fits = (*fits, f"{', '.join(sorted(plain))} {SHARED_WORDS}")
    base_model, base_clip = apply_deltas(model, clip, added)
    base = models_key(base_model, base_clip)  # add-ons are patches on them
    plan = plan.sized(native_size(model))
    described = [use_identity(use) for use in solved]
    key = hash_of(
        [
            FUSION_VERSION,
            base,
            described,
            [e.id for e in entries],
            method,
            plan.content_hash,
            settings.describe(),
            torch.__version__,
            *([] if model.load_device.type == "cpu" else [model.load_device.type]),  # another solver, other last digits
            *(digest_of_file(Path(use.statistics)) for use in solved if use.statistics),
        ]
    )
    kept = folder / "fusions" / f"{key[:32]}.safetensors"
    if (found := _load_finished(kept)) is not None:
        concept = replace(found, entries=entries)
        loaded = "Loaded: this very fusion was finished before."
        return FusedUses(concept, by_role(found.training["fusion"]), (*fits, loaded, *renames), apart)

    store = StatisticsStore(folder / "statistics")
    job = FusionJob(
        base_model,
        base_clip,
        base,
        tuple(solved),
        tuple(parts),
        groups,
        tuple(unsolved),
        plan,
        settings,
        method,
        store,
        weights,
        spread,
    )
    fusion, facts, told = job.run()
    summary = by_role(fusion.report.summary() | facts | {"strengths": [use.strength for use in solved]})
    deltas = merge_sum([fusion.deltas, added], [1.0, 1.0])
    concept = Concept(entries, deltas, info, {"fusion": summary})
    summary["size"] = _size_line(concept, summary, settings)
    lost = _keep_finished(kept, concept)
    calibration = time.perf_counter() - started - fusion.report.total_seconds
    cost = fusion.report.cost() | {"calibration": round(calibration, 2)}
    notes = *fits, *_notes(solved, add_ons, groups, store, summary), *renames, *told, *lost
    return FusedUses(concept, summary | {"seconds": cost, "peak_memory_mb": peak_memory()}, notes, apart)


def attention_groups(model, clip) -> list[LayerGroup]:
    """What every fusion solves where somebody changes it."""
    groups = [g for name, text in text_models_of(clip).items() for g in layer_groups_text(text, name)]
    return groups + list(layer_groups(net_of(model)) or observed_groups(model, clip))


def job_of_one(model, clip, use: ConceptUse, plan: CalibrationPlan, folder: Path) -> FusionJob:
    """One concept alone on a base, watched at all attention, for others may change what this one leaves. folder as in
    `fuse_uses`, which finds what this job collects."""
    check_fit(model, clip, (use,))
    check_unapplied(model, clip, (use,), "stats")
    parts = (use.changes(),)
    attention = attention_groups(model, clip)
    own = choose_groups(attention, named_linears(model, clip), parts)[0]
    groups = tuple({group.name: group for group in (*attention, *own)}.values())
    store, plan = StatisticsStore(folder / "statistics"), plan.sized(native_size(model))
    base, settings = models_key(model, clip), FusionSettings()
    return FusionJob(model, clip, base, (use,), parts, groups, (), plan, settings, "exact", store, (1.0,))


def _shortened(use: ConceptUse, rank: int) -> ConceptUse:
    deltas = {name: shorten(delta, rank) for name, delta in use.concept.deltas.items()}
    return replace(use, concept=replace(use.concept, deltas=deltas))


def _size_line(concept: Concept, summary: Mapping, settings: FusionSettings) -> str:
    """What a saved file will weigh and what its size costs, said before anything is saved."""
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in concept_tensors(concept).values()) / 1e6
    low, high = summary["ranks"]
    line = f"Size {settings.size}: rank {low} to {high} per layer, {megabytes:.1f} MB"
    if meaning("Fusion setting size", settings.size, {"exact": True, "auto": False}):
        return f"{line}, nothing left out"
    over = summary["added_error"] > settings.added_error
    why = f"; more than {settings.added_error:.1%}, because ranks end at {settings.max_rank}" if over else ""
    return f"{line}, adds {summary['added_error']:.2%} of the energy as error{why}"


def _load_finished(path: Path) -> Concept | None:
    if not path.is_file():
        return None
    try:
        return read_concept(path)
    except MixOfShowError as error:
        log.warning("A finished fusion cannot be read (%s); solving again.", error)
        return None


def _keep_finished(path: Path, concept: Concept) -> list[str]:
    """Written before the node returns, because the host may drop outputs and run the node again. Says what failed."""
    try:
        write_concept(path, concept)
        finished = sorted(path.parent.glob("*.safetensors"), key=lambda item: item.stat().st_mtime)
        for old in finished[:-RESULT_LIMIT]:
            old.unlink(missing_ok=True)
    except (MixOfShowError, OSError) as error:
        log.warning("The finished fusion could not be kept: %s", error)
        return [f"The finished fusion could not be kept, the next run solves it again: {error}"]
    return []


def _notes(solved, add_ons, groups, store: StatisticsStore, summary: Mapping) -> list[str]:
    lines = [f"roles: {', '.join(f'{use.label} ({use.resolved_role} {use.strength:g})' for use in solved)}"]
    if add_ons:
        lines.append(f"add-ons, added as they are: {', '.join(f'{u.label} ({u.strength:g})' for u in add_ons)}")
    lines.append(
        f"{len(groups)} groups of layers; statistics in {store.folder} use {store.size() / 1e6:.1f} MB "
        f"of {store.limit / 1e9:g} GB (safe to delete)"
    )
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
