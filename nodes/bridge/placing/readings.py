"""Which reading finds places on a base: the one learned on it, the one that comes with it, or a plain mean.

A reading is a small JSON file, made by `python -m benchmarks.claims.reading` for the small bases (assets/places).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ....mixofshow_core.concept import BaseInfo, ConceptUse
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import ROLE_SPATIAL, UNET_PREFIX
from ....mixofshow_core.families.nets import cross_attention_layers, role_of
from ....mixofshow_core.regional.finding import PARTS, WORDS, Reading, plain_reading
from ..host.files import PACK
from ..host.model import describe_base, net_of
from .finding import Search

SHIPPED = PACK / "assets" / "places"
FORMAT = 1


def reading_of(model) -> tuple[Reading, str]:
    """(reading, where it comes from) for MODEL."""
    base = describe_base(model)
    heads = {layer.index: layer.heads for layer in cross_attention_layers(net_of(model))}
    for path in sorted(SHIPPED.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["base"]["family"] == base.family and document["base"]["fingerprint"] == base.fingerprint:
            return read_reading(document, heads, path.name), f"the reading {path.stem}"
    return plain_reading(decoder_heads(heads)), "a plain mean of attention: nothing was learned on this base"


def make_search(model, cast: Sequence[ConceptUse], chosen: Sequence[int], notes: list[str]) -> Search | None:
    """How the places of these concepts are looked for; None where none of them changes anything that has a place."""
    changed = (name for number in chosen for name in cast[number].concept.deltas if name.startswith(UNET_PREFIX))
    if not any(role_of(name) == ROLE_SPATIAL for name in changed):
        return None
    reading, source = reading_of(model)
    notes.append(f"places are found by {source}")
    return Search(tuple(chosen), tuple(cast[number].label for number in chosen), reading)


def decoder_heads(heads: Mapping[int, int]) -> dict[int, int]:
    """The layers of the second half, where pictures are put together; of a net with few layers all."""
    later = {index: count for index, count in heads.items() if index >= len(heads) // 2}
    return later or dict(heads)


def read_reading(document: Mapping, heads: Mapping[int, int], where: str) -> Reading:
    """A reading from its JSON; MixOfShowError unless it fits these heads by layer."""
    try:
        weights = {
            int(layer): torch.tensor(values, dtype=torch.float32) for layer, values in document["layers"].items()
        }
        reading = Reading(weights, float(document["offset"]))
        fits = document["format"] == FORMAT and weights
        fits = fits and all(w.shape == (heads.get(layer), WORDS, PARTS) for layer, w in weights.items())
    except (KeyError, TypeError, ValueError) as error:
        raise MixOfShowError(f"The reading of places {where} is damaged ({error}): delete the file.") from error
    if not fits or not all(torch.isfinite(w).all() for w in weights.values()):
        raise MixOfShowError(f"The reading of places {where} does not fit this MODEL's layers: delete the file.")
    return reading


def write_reading(reading: Reading, base: BaseInfo, facts: Mapping[str, object]) -> str:
    """The JSON of a reading, to six digits."""
    layers = {str(layer): _rounded(weights) for layer, weights in reading.weights.items()}
    document = {
        "format": FORMAT,
        "base": {"family": base.family, "fingerprint": base.fingerprint},
        **facts,
        "offset": round(reading.offset, 6),
        "layers": layers,
    }
    return json.dumps(document, indent=None, separators=(",", ":")) + "\n"


def _rounded(weights: Tensor) -> list:
    return [[[float(f"{value:.5g}") for value in parts] for parts in words] for words in weights.tolist()]
