"""A concept: low-rank deltas for named layers plus layered embeddings for its words.

This is the one data type that training makes, fusion reads and writes, and placing uses. Layers are named by
their *layer name*: ``diffusion_model.<path>`` or ``text_encoders.<encoder>.<path>``, where ``<path>`` is the host's
state-dict path without ``.weight`` and ``<encoder>`` is the host's (``clip_l``, ``clip_g``, ``qwen3_06b``).
A layer's bias is named ``<layer name>.bias``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .bounds import meaning
from .delta import Delta, check_matrix
from .errors import MixOfShowError
from .families.layers import BIAS, TEXT_PREFIX, module_of
from .names import MAX_NAME, fold, is_name, is_word, normal

KINDS = ("character", "object", "scene", "style")
ROLES = ("auto", "concept", "style", "add-on")
ROLE_OF_KIND = {"character": "concept", "object": "concept", "scene": "concept", "style": "style"}
MAX_STRENGTH = 10.0
CONTEXT = "context"  # in place of a text encoder's name: rows of what the encoder wrote, not of what it reads
COMMUNITY = "community LoRA"  # training["source"] of a concept that another program trained
LAYER_PATTERN = re.compile(r"(diffusion_model|text_encoders\.[a-z]\w*)(\.[A-Za-z0-9_]+)+")


@dataclass(frozen=True)
class Word:
    """One concept word as the tokenizer sees it (``<mara-1>``) and how its embedding was started."""

    text: str
    init: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", normal(self.text))
        if not is_word(self.text):
            raise MixOfShowError(f"Concept word {self.text!r} must look like <name-1>: letters, digits, - _ + in <>.")


@dataclass(frozen=True)
class LayeredEmbedding:
    """The embedding of one concept word for every cross-attention layer (P+, extended textual inversion).

    ``rows`` maps a text encoder to [R, D], or CONTEXT to rows as wide as the text that the net reads; ``index`` maps
    cross-attention layer -> row, so that one row may serve all layers (textual inversion), a group of layers, or a
    single one.
    """

    rows: Mapping[str, Tensor]
    index: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.rows or not self.index:
            raise MixOfShowError("A layered embedding needs at least one text encoder and one layer.")
        for encoder, rows in self.rows.items():
            check_matrix(rows, f"embedding rows of {encoder}")
            if min(self.index) < 0 or max(self.index) >= rows.shape[0]:
                raise MixOfShowError(f"Embedding index needs row {max(self.index)} of {rows.shape[0]} in {encoder}.")

    @property
    def layers(self) -> int:
        return len(self.index)

    def per_layer(self, encoder: str) -> Tensor:
        """[layers, D]: the row that each cross-attention layer sees."""
        return self.rows[encoder][list(self.index)]

    def mean(self, encoder: str) -> Tensor:
        """[D]: the mean over layers, for text nodes that know nothing of layers."""
        return self.per_layer(encoder).mean(0)


@dataclass(frozen=True)
class ConceptEntry:
    """One named concept inside a file: the plain ``name`` a person types, and the words it expands to.

    ``with_class``: it was trained with its class word behind it (Custom Diffusion's ``<new1> cat``, a plain LoRA's
    ``zorbo person``), so the name stands for both. ``trigger``: what the name stands for where there are no words,
    the text that calls a community LoRA up.
    """

    id: str
    name: str
    class_word: str = ""
    kind: str = "character"
    words: tuple[Word, ...] = ()
    embeddings: tuple[LayeredEmbedding, ...] = ()
    with_class: bool = False
    trigger: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", normal(self.name))
        if not is_name(self.name):
            raise MixOfShowError(
                f"Concept name {self.name!r} must be letters of any script, digits, - or _, starting with a letter, "
                f"{MAX_NAME} characters at most."
            )
        if self.kind not in KINDS:
            raise MixOfShowError(f"Concept kind {self.kind!r} is unknown; use one of {', '.join(KINDS)}.")
        if len(self.words) != len(self.embeddings):
            raise MixOfShowError(
                f"Concept {self.name!r} has {len(self.words)} words but {len(self.embeddings)} embeddings."
            )

    @property
    def expansion(self) -> str:
        """What the plain name stands for in a prompt."""
        words = " ".join(word.text for word in self.words) or self.trigger or self.name
        return f"{words} {self.class_word}".strip() if self.with_class else words


@dataclass(frozen=True)
class BaseInfo:
    """The base model a concept was trained on; ``fingerprint`` None means unknown."""

    family: str
    fingerprint: str | None = None
    layers: int = 0


@dataclass(frozen=True)
class Concept:
    """One concept file: entries (several after a fusion), deltas by layer name, base, training facts."""

    entries: tuple[ConceptEntry, ...]
    deltas: Mapping[str, Delta]
    base: BaseInfo
    training: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.deltas:
            if not LAYER_PATTERN.fullmatch(name):
                raise MixOfShowError(f"Layer {name!r} is not diffusion_model.<path> or text_encoders.<encoder>.<path>.")
        check_unique_names(self.entries, "one file")

    @property
    def name(self) -> str:
        return self.entries[0].name if self.entries else ""

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over entries, base family and every tensor's bytes; training facts do not count."""
        about = json.dumps([self.base.family, *map(describe_entry, self.entries)], sort_keys=True)
        return hash_of_tensors(concept_tensors(self), about)

    @cached_property
    def changes_hash(self) -> str:
        """SHA-256 over the changes of layers alone, whatever the concept is called; empty where it has none."""
        return hash_of_tensors(concept_tensors(Concept((), self.deltas, self.base))) if self.deltas else ""


@dataclass(frozen=True)
class ConceptUse:
    """One element of the MIXOFSHOW_CONCEPTS wire: a concept, how strongly and in which role it is used."""

    concept: Concept
    strength: float = 1.0
    role: str = "auto"
    trigger: str = ""
    path: str = ""
    text_strength: float | None = None
    statistics: str = ""  # a file of statistics that came with it; no part of what the concept is

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise MixOfShowError(f"Role {self.role!r} is unknown; use one of {', '.join(ROLES)}.")
        for strength in (self.strength, self.strength_of_text):
            if not -MAX_STRENGTH <= strength <= MAX_STRENGTH:
                raise MixOfShowError(f"Strength {strength} of concept {self.concept.name!r} is outside -10..10.")

    @property
    def strength_of_text(self) -> float:
        """For the text encoder's layers; `strength` alone holds for all where no other is given."""
        return self.strength if self.text_strength is None else self.text_strength

    def strength_at(self, layer: str) -> float:
        return self.strength_of_text if layer.startswith(TEXT_PREFIX) else self.strength

    def changes(self) -> dict[str, Delta]:
        """The changes at these strengths; factors stay the file's own tensors, so many concepts cost no memory."""
        return {name: delta.at(self.strength_at(name)) for name, delta in self.concept.deltas.items()}

    @property
    def resolved_role(self) -> str:
        if self.role != "auto":
            return self.role
        if self.is_uncalled:
            return "add-on"
        roles = [meaning("Concept kind", entry.kind, ROLE_OF_KIND) for entry in self.concept.entries]
        return "style" if "style" in roles else "concept"

    @property
    def is_community(self) -> bool:
        """Another program trained it."""
        return self.concept.training.get("source") == COMMUNITY

    @property
    def is_uncalled(self) -> bool:
        """Nothing says which text calls it up: it has no word and no trigger, and its name is only its file's."""
        if self.trigger or any(entry.words or entry.trigger for entry in self.concept.entries):
            return False
        return not self.concept.entries or self.concept.training.get("named_by") == "file"

    @property
    def label(self) -> str:
        return self.concept.name or self.path or "unnamed LoRA"


def check_unique_names(entries: Iterable[ConceptEntry], where: str) -> None:
    """Raise MixOfShowError when two entries share a plain name or a concept word."""
    seen: dict[str, str] = {}
    for entry in entries:
        for token in (fold(entry.name), *(fold(word.text) for word in entry.words)):
            if token in seen:
                raise MixOfShowError(f"{where}: concepts {seen[token]!r} and {entry.name!r} both use {token!r}.")
            seen[token] = entry.name


def describe_entry(entry: ConceptEntry) -> dict:
    """The JSON form of an entry without its tensors."""
    described: dict[str, object] = {
        "id": entry.id,
        "name": entry.name,
        "class": entry.class_word,
        "kind": entry.kind,
        "words": [
            {"text": word.text, "init": word.init, "index": list(embedding.index)}
            for word, embedding in zip(entry.words, entry.embeddings, strict=True)
        ],
    }
    if entry.with_class:  # absent otherwise: files and hashes from before the field stay what they were
        described["with_class"] = True
    if entry.trigger:
        described["trigger"] = entry.trigger
    return described


def hash_of_tensors(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """SHA-256 over some text and every tensor's key, type, shape and bytes."""
    digest = hashlib.sha256(about.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def layer_tensors(prefix: str, layer: str, delta: Delta) -> dict[str, Tensor]:
    """The tensors of one change under the keys that the host's LoRA loader knows; `prefix` is how the layer is called.

    A bias stands beside its layer's weight, as ``<layer>.diff_b``.
    """
    if layer.endswith(BIAS):
        return {f"{prefix}.diff_b": tensor for tensor in delta.tensors().values()}
    return {f"{prefix}.{key}": tensor for key, tensor in delta.tensors().items()}


def concept_tensors(concept: Concept) -> dict[str, Tensor]:
    """Every tensor of a concept under its key in the native file; embeddings are numbered in entry, word order."""
    tensors: dict[str, Tensor] = {}
    for name, delta in concept.deltas.items():
        tensors |= layer_tensors(module_of(name), name, delta)
    embeddings = [embedding for entry in concept.entries for embedding in entry.embeddings]
    for number, embedding in enumerate(embeddings):
        for encoder, rows in embedding.rows.items():
            tensors[f"mixofshow.embedding.{number}.{encoder}"] = rows
    return tensors
