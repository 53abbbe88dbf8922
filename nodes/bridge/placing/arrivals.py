"""What became of Place's conditioning on its way to the sampler, and what then still counts.

Between Place and a sampler any node may change, mix, zero or cut a conditioning, or wire it elsewhere; the payload in
it does not change with it. So the text that arrives is compared with the text that left, and what differs is done as
far as it is plain (a zeroed text is no text anywhere) and told on the node that samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ....mixofshow_core.families.family import CELL
from .attention import Sampling
from .payload import Payload, payload_of

SAME, JOINED, ZEROED, CHANGED = "same", "joined", "zeroed", "changed"
# Of every value, and next to nothing of the largest: a text in half precision is still the same text. CLIP's texts have
# single values thirty times as large as all others, beside which whole mixes of texts would be small.
TOLERANCE, NOTHING = 8e-3, 1e-5


def change_of(ours: Tensor, found: Tensor) -> str:
    """How a text [1, T, C] arrived as [B, T', C]."""
    ours = ours.to(found)
    length = ours.shape[1]
    if found.shape[-1] != ours.shape[-1]:
        return CHANGED
    if found.shape[1] == length and _close(ours, found):
        return SAME
    if not found.any():
        return ZEROED
    ends = (found[:, :length], found[:, -length:])
    return JOINED if found.shape[1] > length and any(_close(ours, end) for end in ends) else CHANGED


def _close(ours: Tensor, found: Tensor) -> bool:
    return torch.allclose(found, ours, rtol=TOLERANCE, atol=NOTHING * float(ours.abs().max()))


def arriving(sampling: Sampling, conds: Sequence[Sequence[dict] | None]) -> list[list[Payload | None]]:
    """The payload that counts for every conditioning of every group (0 is positive, 1 negative), or None."""
    groups = [list(group or ()) for group in conds]
    whole = [
        {id(payload_of(cond)) for cond in group if payload_of(cond) is not None and _is_whole(sampling, cond)}
        for group in groups
    ]
    sampling.whole.update(*whole)
    if len(whole) > 1 and whole[0] & whole[1]:
        sampling.warn("Positive and negative are the same conditioning of Place: guidance has nothing to tell apart.")
    found = [[_counts(sampling, cond) for cond in group] for group in groups]
    return _gated_alike(sampling, groups, found)


def _is_whole(sampling: Sampling, cond: dict) -> bool:
    return _change(sampling, cond) in (SAME, JOINED)


def _change(sampling: Sampling, cond: dict) -> str:
    payload, text = payload_of(cond), _text(cond)
    if text is None:
        return SAME
    if payload.text is None:
        return SAME if text.shape[1] == payload.tokens else JOINED
    key = id(payload), id(text)
    if key not in sampling.changes:
        sampling.changes[key] = change_of(payload.text, text), payload, text  # kept, so that their ids stay theirs
    return sampling.changes[key][0]


def _text(cond: dict) -> Tensor | None:
    found = cond.get("model_conds", {}).get("c_crossattn")
    return None if found is None else found.cond


def _counts(sampling: Sampling, cond: dict) -> Payload | None:
    payload = payload_of(cond)
    mirrored = id(payload) in sampling.whole  # the same one is used as it was, too: this is made to be its opposite
    how = SAME if payload is None else _change(sampling, cond)
    text = _text(cond)
    if how == SAME:
        return payload
    if how == ZEROED or (how == CHANGED and mirrored):
        return _only_routes(sampling, payload, text)
    regions = " and its regions keep theirs" if payload.texts else ""
    if payload.layers is not None or payload.texts or payload.words is not None:
        what = f"was joined with another text ({text.shape[1]} tokens instead of {payload.tokens})"
        what = what if how == JOINED else "was changed by another node (mixed, scaled or cut)"
        sampling.warn(
            f"A conditioning of Mix-of-Show {what}; its layered embeddings are not used{regions}. "
            f"Write everything into Place's prompt."
        )
    if not payload.texts and payload.routes is None:
        return None
    found = ((text[:1], None),) * len(payload.found)
    plain = replace(payload, layers=None, words=None, chosen=None, found=found)
    return sampling.made.setdefault((id(payload), id(text)), plain)


def _only_routes(sampling: Sampling, payload: Payload, text: Tensor) -> Payload | None:
    """The text that arrived counts everywhere, in every place too; where concepts act does not depend on it."""
    if payload.routes is None:
        return None
    key = id(payload.routes), id(text)
    if key not in sampling.made:
        texts, found = (text[:1],) * len(payload.texts), ((text[:1], None),) * len(payload.found)
        sampling.made[key] = Payload(text.shape[1], None, texts, payload.placed, payload.routes, found=found)
    return sampling.made[key]


def _gated_alike(sampling: Sampling, groups, found: list[list[Payload | None]]) -> list[list[Payload | None]]:
    """Routed concepts act on every conditioning or on none: guidance would multiply what only one side has."""
    # Kept for the whole run: some guiders ask for one side alone in between.
    routed = sampling.routed
    routed |= {id(one.routes): one for own in found for one in own if one is not None and one.routes is not None}
    if not routed or all(one is not None and one.routes is not None for own in found for one in own):
        return found
    if len(routed) > 1:
        sampling.warn(
            "Conditionings of several Place nodes with unfused concepts meet one that has none; they act on their own "
            "side only, which guidance exaggerates. Take positive and negative from Place."
        )
        return found
    lender = next(iter(routed.values()))
    if any(payload_of(cond) is None for group in groups for cond in group):
        sampling.warn("A conditioning does not come from Place: unfused concepts act on it as they do on Place's own.")
    return [
        [_with_routes(sampling, one, cond, lender) for one, cond in zip(own, group, strict=True)]
        for own, group in zip(found, groups, strict=True)
    ]


def _with_routes(sampling: Sampling, payload: Payload | None, cond: dict, lender: Payload) -> Payload | None:
    text = _text(cond)
    if (payload is not None and payload.routes is not None) or text is None:
        return payload
    if payload is None:
        return _only_routes(sampling, lender, text)
    if payload.placed is not None:  # regions of another drawing, which says nothing of these concepts
        return payload
    key = id(payload), id(lender.routes)
    if key not in sampling.made:
        own = payload.layers if payload.layers is not None else text[:1]
        texts, found = (own,) * len(lender.texts), ((own, payload.words),) * len(lender.found)
        sampling.made[key] = replace(payload, texts=texts, placed=lender.placed, routes=lender.routes, found=found)
    return sampling.made[key]


def note_tiles(sampling: Sampling, payloads: Sequence[tuple[Payload, dict]], latent: Tensor | None, context) -> None:
    """Say it when one drawing of regions meets what looks like tiles or crops of a larger picture.

    payloads: each with a dict that outlives the sampling, as the conditioning does. latent: what is sampled from
    [B, C, h, w]; an empty one begins a picture of its own. context: which node runs, or None.
    """
    if latent is None or latent.dim() < 4 or not latent.any():
        return
    for payload, memory in payloads:
        if payload.placed is None or not bool((payload.placed.masks != 255).any()):
            continue
        spec = payload.placed.regions
        height, width = (side * CELL for side in latent.shape[-2:])
        sums = float(latent.double().sum())
        before = memory.get("sampled")
        memory["sampled"] = context, sums
        if context is not None and before is not None and before[0] == context and before[1] != sums:
            sampling.warn(
                "This node samples several pictures with one drawing of regions. If they are tiles or crops, each gets "
                "the whole drawing, squeezed: give it Pick Region's conditioning, or a tiling inside the model."
            )
        elif width < spec.width and height < spec.height:
            sampling.warn(
                f"The picture that is worked on is {width} x {height}, the regions were drawn for {spec.width} x "
                f"{spec.height}. If it is a tile or crop, it gets the whole drawing, squeezed: take Pick Region."
            )
