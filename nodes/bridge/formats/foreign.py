"""One door for every file, with the host's own parser behind it: kohya, PEFT, diffusers and LyCORIS become concepts.

Every key of the file ends up used, or among the skipped ones under the name it has in the file.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.lora
import comfy.lora_convert
from torch import Tensor

from ....mixofshow_core import formats
from ....mixofshow_core.concept import COMMUNITY, LAYER_PATTERN, BaseInfo, Concept, ConceptEntry
from ....mixofshow_core.delta import Delta
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.known import CLIP_G, FAMILIES, UNKNOWN, family_by_signs, family_of_kind, plain_name
from ....mixofshow_core.families.layers import BIAS, UNET_PREFIX
from ....mixofshow_core.families.nets import kind_of, kind_of_name
from ....mixofshow_core.formats.diffusers_names import (
    ANY_PEFT,
    PEFT_CONFIG,
    PEFT_PARTS,
    PEFT_WEIGHTS,
    UP_BIAS,
    biases_for_the_host,
    configs_in,
    peft_alphas,
    peft_parts,
    peft_ranks,
    peft_scales,
    to_kohya_names,
)
from ....mixofshow_core.formats.native import check_finite
from ....mixofshow_core.formats.read import load_tree
from ....mixofshow_core.formats.side_files import side_facts
from ....mixofshow_core.names import name_of_file
from ....mixofshow_core.renaming import renamed
from ..host.model import family, layer_name_of, net_of
from .layer_names import KeyMap, family_key_map, key_map_of
from .live import LiveWeights
from .patches import Target, is_turned, joined, part_of, to_delta

log = logging.getLogger("mixofshow")

EXPECTED = "lora_unet_*, lora_te_*, unet.down_blocks.*, text_encoder.* or diffusion_model.* of the layers of such a net"
CONFIG_BYTES = 2**20  # of an adapter_config.json, which is text of a few kilobytes
NO_CONFIG = (
    f"there is no {PEFT_CONFIG} to read beside this PEFT file, which would give its alpha, so alpha is taken to be the "
    "rank. Put it into the same folder, or correct the strength (alpha / rank)."
)
NOTHING = "every change in it is zero, so its layers do nothing: it was saved untrained, or is not the file you wanted."
LARGEST = 65504.0  # where half precision ends; weights are a millionth of that
OTHER_PARTS = "this is one part of a PEFT adapter; the others are"
TEXT_KEY = re.compile(
    r"(?:lora_te|text_encoders?|clip_[lgh]\b|te\d?[._]|(?:base_model\.model\.)?(?:text_model|encoder\.layers)\b)"
)
LATER_WINS = {".w_norm": 1, ".b_norm": 1, ".diff": 2, ".diff_b": 2, ".set_weight": 3}  # the order of the host's parser
EIGHT_BITS = (
    "is the scale of a weight in 8 bits, which ComfyUI's parser does not multiply in. Save the file in 16 bits first."
)
REFUSED = {
    "lora_magnitude_vector": "belongs to a DoRA in PEFT's layout, which ComfyUI's parser passes over (the result would "
    "be another LoRA). Merge it in PEFT, or get it in kohya's layout (dora_scale).",
    ".ia3_l": "belongs to an IA3 adapter, which scales activations and is no change of weights. Train a LoRA instead.",
    ".oft_R": "belongs to an OFT in PEFT's layout, which ComfyUI does not know. Merge it in PEFT, or get it in the "
    "layout of LyCORIS (oft_blocks).",
    ".scale_weight": EIGHT_BITS,
    ".weight_scale": EIGHT_BITS,
    ".vera_lambda": "belongs to a VeRA adapter, whose matrices are not in the file. Merge it in PEFT.",
}


@dataclass(frozen=True)
class ReadFile:
    """A concept file of any dialect. skipped: keys that were left out; tags: the most frequent training tags.

    skipped_share: norm of what was left out, as it is stored, as a share of the whole file's. notes: what else a
    person should know.
    """

    concept: Concept
    dialect: str
    skipped: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    skipped_share: float = 0.0
    trigger_source: str = ""
    notes: tuple[str, ...] = ()

    def warning(self) -> str:
        """What was left out, and the notes, a line each; empty when there is nothing to say."""
        lines = [f"WARNING: {note}" for note in self.notes]
        if self.skipped:
            share = f", {self.skipped_share:.1%} of the file's norm" if self.skipped_share else ""
            first = ", ".join(self.skipped[:3])
            lines.append(f"WARNING: {len(self.skipped)} keys are not used{share}, the first: {first}")
        return "\n".join(lines)


def read_with_host(
    path: Path,
    name: str = "",
    base: Mapping[str, Tensor] | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> ReadFile:
    """Read a file of any dialect, or a PEFT adapter's folder.

    `name` gives concepts other plain names (renaming.py).
    `base` gives weights by layer name for files that hold whole weights (fused nets, Custom Diffusion) or changes
    that depend on them (DoRA, OFT, BOFT, GLoRA). A live base also tells how foreign names map to its own layers.
    `step(done, total)` is called for every layer.
    """
    found = _read(path, base, step)
    bounds = {layer: delta.bound() for layer, delta in found.concept.deltas.items()}
    if huge := next((layer for layer, bound in bounds.items() if bound > LARGEST), None):
        raise MixOfShowError(
            f"{path.name}: the change of {huge} has values up to {bounds[huge]:.0e}, which no weight survives: its "
            "training diverged, or the file is damaged. Take an earlier state of it, or download it again."
        )
    if bounds and not any(bounds.values()):
        found = replace(found, notes=(*found.notes, NOTHING))
        log.warning("%s: %s", path.name, NOTHING)
    return replace(found, concept=renamed(found.concept, name))


def _read(path: Path, base: Mapping[str, Tensor] | None, step: Callable[[int, int], None]) -> ReadFile:
    result = formats.read_any(path, base, step=step)
    if path.is_dir() and result.kind == "lora":
        return _joined([_read(part, base, step) for part in peft_parts(path)])
    if result.kind != "lora":
        skipped = tuple(f"{key} ({why})" for key, why in result.skipped)
        return ReadFile(result.concept, result.kind, skipped, (), result.skipped_share)
    tensors, metadata = load_tree(path)
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    check_finite(tensors, path.name)
    tensors = {key: value for key, value in tensors.items() if key not in result.used}
    found = _read_foreign(path, tensors, metadata, base, step)
    if result.concept is None:
        return found
    return replace(found, concept=replace(found.concept, entries=result.concept.entries))


def _joined(parts: list[ReadFile]) -> ReadFile:
    """The nets of one PEFT adapter as one concept. Notes on the other parts are not needed then."""
    first = parts[0]
    deltas = dict(sorted((layer, delta) for part in parts for layer, delta in part.concept.deltas.items()))
    skipped = tuple(key for part in parts for key in part.skipped)
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes if not note.startswith(OTHER_PARTS)))
    family = next((p.concept.base for p in parts if p.concept.base.family != UNKNOWN), first.concept.base)
    share = max(part.skipped_share for part in parts)
    return replace(
        first,
        concept=replace(first.concept, deltas=deltas, base=family),
        skipped=skipped,
        notes=notes,
        skipped_share=share,
    )


@dataclass(frozen=True, eq=False)
class _Lora:
    """The tensors of a LoRA under the names that the host's parser knows, and the keys they have in the file."""

    path: Path
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, str]
    notes: tuple[str, ...]

    def key(self, name: str) -> str:
        return self.origin.get(name, name)


def _read_foreign(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: Mapping[str, str],
    base: Mapping[str, Tensor] | None,
    step: Callable[[int, int], None],
) -> ReadFile:
    for mark, why in REFUSED.items():
        if key := next((key for key in tensors if mark in key), None):
            raise MixOfShowError(f"{path.name}: {key!r} {why}")
    lora = _named_for_the_host(path, tensors, metadata)
    try:
        converted = comfy.lora_convert.convert_lora(dict(lora.tensors))
        return _parse(replace(lora, tensors=converted), metadata, base, step)
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise MixOfShowError(
            f"{path.name}: ComfyUI's LoRA parser stops at {str(error)[:200]}: a part is missing or has a wrong shape. "
            "Copy or download the file again."
        ) from error


def _named_for_the_host(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> _Lora:
    """Names that diffusers and PEFT write today as kohya's, and the scale that they keep elsewhere."""
    peft = [key for key in tensors if ANY_PEFT.match(key)]
    second = bool(peft) and _is_second_encoder(path, tensors)
    named = to_kohya_names(tensors, second)
    ranks = peft_ranks(named, tensors)
    alphas: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    notes: list[str] = []
    configs = [(f"{part}.", config) for part, config in configs_in(metadata).items()]
    if peft and (ranks or any(name.endswith(".lokr_w2") for name in named)):
        beside = _config_beside(path)
        notes += [NO_CONFIG] if beside is None and not configs else []
        configs.append(("", beside or {}))
    for start, config in configs:
        own = {name: key for name, key in named.items() if key.startswith(start)}
        alphas |= peft_alphas(config, own, ranks)
        scales |= peft_scales(config, own, ranks)
    if peft and path.parent.name in PEFT_PARTS and (others := set(peft_parts(path.parent.parent)) - {path}):
        names = ", ".join(sorted(f"{other.parent.name}/{other.name}" for other in others))
        notes.append(f"{OTHER_PARTS} {names}. Load it with a Load Concept node of its own.")
    found = {name: tensors[key] for name, key in named.items() if not name.endswith(UP_BIAS)}
    found |= {name: found[name].float() * scale for name, scale in scales.items()}
    alphas |= {name: value for name, value in found.items() if name.endswith(".alpha")}
    keys, biases = biases_for_the_host(named, tensors, alphas)
    return _Lora(path, alphas | found | biases, named | keys, tuple(notes))


def _is_second_encoder(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """PEFT names the layers of both text encoders alike; the folder, or the width, tells which one it is."""
    reads = ("q_proj.lora_A.weight", "k_proj.lora_A.weight")
    widths = {value.shape[-1] for key, value in tensors.items() if key.endswith(reads)}
    return path.parent.name == CLIP_G.part or widths == {CLIP_G.width}


def _config_beside(path: Path) -> dict | None:
    """The configuration beside a PEFT file; None when there is none to read."""
    try:
        config = json.loads(path.with_name(PEFT_CONFIG).read_bytes()[:CONFIG_BYTES])
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


class _Asked(dict):
    """A LoRA's tensors that remember which of them the host's parser has fetched."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.fetched: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.fetched.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default=None):
        if key in self:
            return self[key]
        return default


def _parse(
    lora: _Lora, metadata: Mapping[str, str], base: Mapping[str, Tensor] | None, step: Callable[[int, int], None]
) -> ReadFile:
    maps = [key_map_of(base)] if isinstance(base, LiveWeights) else []
    patches: dict = {}
    for candidate in (*maps, *(family_key_map(row.name) for row in FAMILIES if row.runs)):
        asked = _Asked(lora.tensors)
        loaded = comfy.lora.load_lora(asked, candidate.keys, log_missing=False)
        if len(loaded) > len(patches) or not patches:
            patches, chosen, fetched = loaded, candidate, asked.fetched
        if not asked.keys() - asked.fetched:
            break
    used = _who_counts(fetched, patches, chosen)
    deltas: dict[str, Delta] = {}
    done = []
    for number, (key, patch) in enumerate(patches.items(), 1):
        weight, part = part_of(key)
        layer = layer_name_of(weight)
        is_known = LAYER_PATTERN.fullmatch(layer) and weight.endswith((".weight", BIAS))
        is_there = not weight.endswith(BIAS) or _has_bias(layer, weight, chosen, base)
        if key in used and is_known and is_there and not is_turned(key):
            where = f"{lora.path.name}: {lora.key(used[key][0])!r} ({layer})"
            try:
                delta = to_delta(patch, Target(layer, chosen.shapes.get(weight), base, where, part))
            except MixOfShowError as error:  # of the factors themselves: what they lack, not where they lie
                raise error if str(error).startswith(where) else MixOfShowError(f"{where}: {error}") from error
            deltas[layer] = joined(deltas[layer], delta) if layer in deltas else delta  # parts, and the whole beside
            done.append(key)
        step(number, len(patches))
    counted = {part for key in done for part in used[key]}
    skipped = sorted({lora.key(key) for key in lora.tensors if key not in counted and not key.endswith(".alpha")})
    _check_networks(lora, counted, skipped)
    facts, plain = side_facts(lora.path, metadata), name_of_file(_stem(lora.path))
    about = {"source": COMMUNITY, "named_by": "file"}
    concept = Concept((), dict(sorted(deltas.items())), BaseInfo(_family(deltas, base)), about)
    # Two files of one name, in two folders, are two concepts.
    entry = ConceptEntry(f"lora-{concept.changes_hash[:16]}", plain, trigger=facts.trigger)
    concept = replace(concept, entries=(entry,))
    everything = _norm(lora.tensors.values()) or 1.0
    left_out = _norm(value for key, value in lora.tensors.items() if lora.key(key) in set(skipped))
    found = ReadFile(
        concept, COMMUNITY, tuple(skipped), facts.suggestions, left_out / everything, facts.source, lora.notes
    )
    for line in found.warning().splitlines():
        log.warning("%s: %s", lora.path.name, line)
    return found


def _stem(path: Path) -> str:
    """The file's name; PEFT calls all its files alike, so there it is the adapter's folder."""
    if path.name != PEFT_WEIGHTS:
        return path.stem
    return path.parents[1].name if path.parent.name in PEFT_PARTS else path.parent.name


def _who_counts(fetched: Iterable[str], patches: Mapping, names: KeyMap) -> dict[str | tuple, list[str]]:
    """{weight or bias key of the host, or a part of one: the keys whose values are in its patch}.

    The host keeps one patch for a layer: the last of the names and kinds it finds replaces the others.
    """
    place = {name: number for number, name in enumerate(names.keys)}
    claims: dict[str, list[tuple[tuple[int, int], str]]] = {}
    for key in sorted(fetched):
        prefix = names.prefix(key)
        if prefix is None:
            continue
        end = next((end for end in LATER_WINS if key.endswith(end)), "")
        target = names.keys[prefix]
        if end in (".diff_b", ".b_norm") and isinstance(target, str):
            target = target.removesuffix(".weight") + BIAS
        claims.setdefault(target, []).append(((place[prefix], LATER_WINS.get(end, 0)), key))
    return {
        target: [key for order, key in found if order == max(order for order, _ in found)]
        for target, found in claims.items()
        if target in patches
    }


def _check_networks(lora: _Lora, counted: set[str], skipped: list[str]) -> None:
    """Refuse a file of which a whole network is not used: it was made for other models, whatever else is in it."""
    for is_text, what in ((False, "diffusion net"), (True, "text encoder")):
        left = [key for key in skipped if bool(TEXT_KEY.match(key)) == is_text]
        there = any(bool(TEXT_KEY.match(lora.key(key))) == is_text for key in counted)
        if left and not there:
            raise MixOfShowError(
                f"{lora.path.name} holds no LoRA for {_known_here(lora)}: none of its {len(left)} {what} keys is "
                f"known. It has: {', '.join(left[:4])}. Expected {EXPECTED}."
            )
    if not counted:
        raise MixOfShowError(f"{lora.path.name} holds no LoRA for {_known_here(lora)}. Expected {EXPECTED}.")


def _known_here(lora: _Lora) -> str:
    """What a file could be for, and what it looks like instead."""
    known = ", ".join(row.title for row in FAMILIES if row.runs)
    other = family_by_signs(lora.origin or lora.tensors)
    hint = f" (it looks like one for {other}: connect such a MODEL)" if other else ""
    return f"{known} or a connected MODEL{hint}"


def _has_bias(layer: str, key: str, names: KeyMap, base: Mapping[str, Tensor] | None) -> bool:
    """Whether the model has the bias that a file changes: most layers of attention have none."""
    return key in names.shapes or (isinstance(base, LiveWeights) and layer in base)


def _norm(tensors: Iterable[Tensor]) -> float:
    return sum(float(value.float().norm()) ** 2 for value in tensors) ** 0.5


def _family(deltas: Mapping[str, Delta], base: Mapping[str, Tensor] | None) -> str:
    """From what keys of cross-attention are called and read; what MODEL is, where it is a net without a row."""
    for name, delta in deltas.items():
        if len(delta.shape) < 2 or not name.startswith(UNET_PREFIX):  # a bias or a norm reads nothing
            continue
        row = family_of_kind(kind_of_name(name), delta.shape[1])
        if row is not None and row.runs:
            return row.name
    if isinstance(base, LiveWeights) and not kind_of(net_of(base.model)).name:
        return plain_name(family(base.model))
    return UNKNOWN
