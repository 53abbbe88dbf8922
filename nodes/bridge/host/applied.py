"""What MODEL and CLIP carry already, so that no concept is laid onto them twice, whatever the order of nodes.

Our own nodes leave a mark, the content hashes of what they applied: on MODEL and CLIP, and on every patch, which a
merge of models keeps. A stock loader's LoRA is known by its factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ....mixofshow_core.concept import Concept, ConceptUse
from ....mixofshow_core.delta import Delta, LowRank
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import TEXT_PREFIX
from .model import apply_deltas, marks_on, patch_key

APPLIED = "mixofshow_applied"
SAME_SHARE = 0.5  # of a file's layers that are patched with its own factors: then the file is applied


def marks_of(concepts: Iterable[Concept]) -> frozenset[str]:
    """What is noted of concepts: whole, and their changes alone, for a renamed copy is the same change."""
    return frozenset(mark for concept in concepts for mark in (concept.content_hash, concept.changes_hash) if mark)


def mark_applied(model, clip, concepts: Iterable[Concept]) -> None:
    """Note on these clones of MODEL and CLIP (or None) what is part of them from now on."""
    marks = marks_of(concepts)
    for patcher in (model, *([] if clip is None else [clip.patcher])):
        patcher.set_attachments(APPLIED, patcher.attachments.get(APPLIED, frozenset()) | marks)


def carries(patcher, concept: Concept) -> bool:
    """Whether a patcher (MODEL, or CLIP's) has this concept's changes, also by way of a merge of models."""
    marks = marks_of([concept])
    if not marks.isdisjoint(patcher.attachments.get(APPLIED, ())):
        return True
    is_text = bool(getattr(patcher, "is_clip", False))
    own = {patch_key(name): delta for name, delta in concept.deltas.items() if name.startswith(TEXT_PREFIX) == is_text}
    if not patcher.patches or not own:
        return False
    laid = {key: list(_patches(patcher.patches.get(key, ()))) for key in own}
    if any(not marks.isdisjoint(marks_on(patch)) for patches in laid.values() for patch in patches):
        return True
    same = sum(any(_is_same(delta, patch) for patch in laid[key]) for key, delta in own.items())
    return same >= SAME_SHARE * len(own)


def _patches(entries: Iterable[Sequence]) -> Iterator[object]:
    """Every patch that acts, those inside of a merge's too: its patch is a list, whose first is the other weight."""
    for strength, patch, *_ in entries:
        if strength == 0:
            continue
        if isinstance(patch, list):
            yield from _patches(patch[1:])
        else:
            yield patch


def _is_same(delta: Delta, patch: object) -> bool:
    """Whether a patch of the host holds the very factors of a change."""
    if isinstance(delta, LowRank):
        found, wanted = tuple(getattr(patch, "weights", None) or ())[:2], (delta.up, delta.down)
    else:
        is_diff = isinstance(patch, tuple) and len(patch) == 2 and patch[0] == "diff"
        found, wanted = (tuple(patch[1])[:1] if is_diff else ()), (delta.diff,)
    return len(found) == len(wanted) and all(
        isinstance(one, Tensor)
        and one.numel() == other.numel()
        and torch.equal(one.to(other).flatten().float(), other.flatten().float())
        for one, other in zip(found, wanted, strict=True)
    )


def check_unapplied(model, clip, uses: Sequence[ConceptUse], where: str) -> None:
    """Refuse concepts that MODEL or CLIP carries: they would act twice, and what is made of them would be wrong."""
    for use in uses:
        carrying = [
            name
            for name, patcher in (("MODEL", model), ("CLIP", clip and clip.patcher))
            if patcher is not None and carries(patcher, use.concept)
        ]
        if carrying:
            raise MixOfShowError(
                f"{where}: {use.label!r} is part of {' and '.join(carrying)} already (from Fuse, Place or a LoRA "
                f"loader) and would act twice. Connect the MODEL and CLIP from before that node, or leave it out of "
                f"`concepts`."
            )


def apply_once(model, clip, use: ConceptUse):
    """Clones of MODEL and CLIP with the use's changes; the one that carries them already stays as it is."""
    new_model, new_clip = apply_deltas(
        None if carries(model, use.concept) else model,
        None if carries(clip.patcher, use.concept) else clip,
        use.concept.deltas,
        use.strength,
        use.strength_of_text,
        marks_of([use.concept]),
    )
    model, clip = new_model or model.clone(), new_clip or clip.clone()
    mark_applied(model, clip, [use.concept])
    return model, clip
