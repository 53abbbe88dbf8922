"""Which reading finds places on a base: the one learned on it, the one that comes with it, or a plain mean.

A reading is a small JSON file: learned by Learn Places it lies in the user's cache, safe to delete; those of the small
bases are made by `python -m benchmarks.claims.words --keep` (assets/places).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ....mixofshow_core.concept import BaseInfo, ConceptUse
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import ROLE_SPATIAL, UNET_PREFIX
from ....mixofshow_core.families.nets import cross_attention_layers, role_of
from ....mixofshow_core.regional.finding import PARTS, WORDS, Reading, plain_reading
from ..host.files import PACK, safe_name, work_folder
from ..host.model import describe_base, net_of
from .finding import Search

SHIPPED = PACK / "assets" / "places"
FORMAT = 1
PLAIN = 4  # layers of a reading that nobody has fitted
ANEW = "Run Learn Places for this base again, or delete the file (user/mixofshow/cache/places)."


def reading_of(model) -> tuple[Reading, str]:
    """(reading, where it comes from) for MODEL."""
    base = describe_base(model)
    heads = {layer.index: layer.heads for layer in cross_attention_layers(net_of(model))}
    own = kept_path(base)
    if own.is_file():
        return read_reading(own, base, heads), "what Learn Places learned on this base"
    for path in sorted(SHIPPED.glob("*.json")):
        if is_of(path, base):
            return read_reading(path, base, heads), f"the reading {path.stem}, which comes with this base"
    return plain_reading(decoder_heads(heads)), "a plain mean of attention; Learn Places makes a reading for this base"


def kept_path(base: BaseInfo) -> Path:
    """Where what is learned on this base is kept."""
    return work_folder("cache") / "places" / f"{safe_name(f'{base.family}-{base.fingerprint}')}.json"


def is_of(path: Path, base: BaseInfo) -> bool:
    return json.loads(path.read_text(encoding="utf-8"))["base"] == described(base)


def described(base: BaseInfo) -> dict:
    return {"family": base.family, "fingerprint": base.fingerprint}


def make_search(model, cast: Sequence[ConceptUse], chosen: Sequence[int], notes: list[str]) -> Search | None:
    """How the places of these concepts are looked for; None where none of them changes anything that has a place."""
    changed = (name for number in chosen for name in cast[number].concept.deltas if name.startswith(UNET_PREFIX))
    if not any(role_of(name) == ROLE_SPATIAL for name in changed):
        return None
    reading, source = reading_of(model)
    notes.append(f"places are found by {source}")
    return Search(tuple(chosen), tuple(cast[number].label for number in chosen), reading)


def decoder_heads(heads: Mapping[int, int]) -> dict[int, int]:
    """At most `PLAIN` layers, spread over the second half of the net, where pictures are put together."""
    later = [index for index in sorted(heads) if index >= len(heads) // 2]
    return {index: heads[index] for index in later[:: max(1, -(-len(later) // PLAIN))]}


def read_reading(path: Path, base: BaseInfo, heads: Mapping[int, int]) -> Reading:
    """A reading from its file; MixOfShowError unless it is whole, of this base, and fits its heads by layer."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        weights = {int(layer): torch.tensor(values).float() for layer, values in document["layers"].items()}
        reading = Reading(weights, float(document["offset"]))
        fits = document["format"] == FORMAT and document["base"] == described(base) and bool(weights)
        fits = fits and all(w.shape == (heads.get(layer), WORDS, PARTS) for layer, w in weights.items())
        fits = fits and all(bool(torch.isfinite(w).all()) for w in weights.values())
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise MixOfShowError(f"The reading of places {path.name} is damaged ({error}). {ANEW}") from error
    if not fits:
        raise MixOfShowError(f"The reading of places {path.name} does not fit this MODEL. {ANEW}")
    return reading


def write_reading(reading: Reading, base: BaseInfo, facts: Mapping[str, object]) -> str:
    """The JSON of a reading, to five digits. facts: what it was learned from, for people."""
    layers = {str(layer): _rounded(weights) for layer, weights in reading.weights.items()}
    document = {
        "format": FORMAT,
        "base": described(base),
        **facts,
        "offset": round(reading.offset, 6),
        "layers": layers,
    }
    return json.dumps(document, separators=(",", ":")) + "\n"


def _rounded(weights: Tensor) -> list:
    return [[[float(f"{value:.5g}") for value in parts] for parts in words] for words in weights.tolist()]
