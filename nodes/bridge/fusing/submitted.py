"""A concept that a client gave, with its statistics or without: written for sending, and checked before it is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.delta import norm
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import ROLE_SPATIAL, LayerGroup, module_of
from ....mixofshow_core.fusion.foreign_statistics import CLOSE, check_statistics, distance, send_statistics
from ....mixofshow_core.fusion.fuse import hash_of
from ....mixofshow_core.fusion.plan import CalibrationPlan, concept_prompts
from ....mixofshow_core.fusion.statistics import Gram, Statistics
from ....mixofshow_core.fusion.store import read_statistics
from ..host.model import apply_deltas, effective, key_patches, named_linears, patch_key
from ..host.text import register_concepts
from .calibration import collect_text
from .fusion import job_of_one
from .given import differences

LOUD_CHANGE = 10.0  # times the norm of the layer's own weights: no training comes near
COARSE = 0.3  # loss of a compressed matrix beyond which it says too little


def write_own_statistics(
    model, clip, use: ConceptUse, plan: CalibrationPlan, folder: Path, path: Path, rank=0
) -> float:
    """Collect (or find) the statistics of one concept and write them to `path`; the largest loss by compressing."""
    with torch.inference_mode():
        statistics, asked = job_of_one(model, clip, use, plan, folder).collect_own()
        return send_statistics(statistics, path, asked, hash_of(statistics.manifest), rank)


def check_submitted(model, clip, use: ConceptUse, plan: CalibrationPlan, folder: Path, loss: float = 0.0) -> None:
    """Refuse a concept that does not fit the base, is too loud or gives no numbers, and statistics not its own.

    The text encoder is run on the concept's prompts, and what it and K, V read is compared with what the statistics
    say; the net is not run, so statistics of spatial layers are only asked whether they can be any. loss: what the
    manifest says that compressing cost.
    """
    with torch.inference_mode():
        job = job_of_one(model, clip, use, plan, folder)
        linears = named_linears(model, clip)
        weights = key_patches(model) | key_patches(clip.patcher)
        for name, delta in use.concept.deltas.items():
            keys = {
                patch_key(name),
                patch_key(module_of(name)),
            }  # a bias may be all zeros: its layer's weight counts, too
            size, own = norm(delta), math.hypot(*(float(effective(weights[key], key).norm()) for key in keys))
            if not size <= LOUD_CHANGE * own:
                raise MixOfShowError(f"its change of {name} has norm {size:.3g}, the layer itself {own:.3g}: too loud")
        ours = _read_prompts(model, clip, use, plan, job.groups)
        if not use.statistics:
            return
        found, header = read_statistics(Path(use.statistics))
        if other := differences(found.manifest, job.own_manifest()):
            raise MixOfShowError(f"its statistics were collected for {'; '.join(other)}")
        widths = {group.name: linears[group.members[0]].weight.shape[1] for group in job.groups}
        if missing := set(widths) - set(header["asked"]):
            raise MixOfShowError(f"its statistics lack {len(missing)} layers, {sorted(missing)[0]} for one")
        check_statistics(found, widths, {}, "it cannot be used")
        _compare(ours, found, loss)


def _read_prompts(model, clip, use: ConceptUse, plan, groups: Sequence[LayerGroup]) -> dict[str, Gram]:
    """What the text encoder and K, V read of the concept's prompts, by group."""
    texts = [group for group in groups if group.role != ROLE_SPATIAL]
    changed = apply_deltas(model, register_concepts(clip, (use,)), use.changes())
    return collect_text(*changed, texts, concept_prompts(plan, use), lambda sort: None)


def _compare(ours: Mapping[str, Gram], found: Statistics, loss: float) -> None:
    if not 0 <= loss <= COARSE:
        raise MixOfShowError(f"its statistics lose {loss:.0%} by compressing; at most {COARSE:.0%} is of use")
    for name, gram in sorted(ours.items()):
        if name not in found.grams:
            raise MixOfShowError(f"its statistics have nothing on {name}, which its own prompts reach")
        if (apart := distance(gram, found.grams[name])) > CLOSE + loss:
            raise MixOfShowError(
                f"its statistics of {name} are not those of this concept: {apart:.0%} apart, {CLOSE + loss:.0%} allowed"
            )
