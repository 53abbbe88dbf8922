"""What all readers of other people's files share: bookkeeping, concept entries from words, checks on the whole.

A reader never drops anything in silence: every key ends up among the used or the skipped ones, with a reason.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..concept import (
    BaseInfo,
    Concept,
    ConceptEntry,
    LayeredEmbedding,
    Word,
)
from ..delta import Delta, LowRank
from ..errors import MixOfShowError
from ..families.family import UNetLayout
from ..families.known import find_family, name_of_width
from ..families.layers import UNET_PREFIX
from ..families.names import HostNames, layout_of_names
from ..families.nets import KINDS, reads_text
from ..names import MAX_NAME, fold, is_name, is_word, legal, normal

MAX_SIDE = 2**17  # rows or columns of one layer; the largest in SDXL has 10,240
TEXT_LAYER = re.compile(
    r"(?:text_model\.)?(encoder\.layers\.\d{1,3}\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12]|layer_norm[12]))"
)


@dataclass(frozen=True)
class ReadResult:
    """What a file turned out to be. ``kind`` "lora" means that the host's parser has to read its weights.

    ``used`` and ``skipped`` list keys of the file, the latter with the reason; ``skipped_share``: norm of what is left
    out as a share of the file's; ``concept`` is None when the file has nothing but weights for the host's parser.
    """

    kind: str
    concept: Concept | None = None
    used: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    skipped_share: float = 0.0

    def summary(self) -> str:
        """One line per fact, for logs and cards."""
        counts = f": {len(self.used)} keys used, {len(self.skipped)} skipped" if self.used else ""
        share = f" ({self.skipped_share:.1%} of the file's norm)" if self.skipped_share >= 5e-4 else ""
        lines = [f"read as {self.kind}{counts}{share}"]
        reasons: dict[str, list[str]] = {}
        for key, reason in self.skipped:
            reasons.setdefault(reason, []).append(key)
        lines += [
            f"skipped {len(keys)}: {reason} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for reason, keys in reasons.items()
        ]
        return "\n".join([*lines, *self.notes])


@dataclass
class Reading:
    """The collector that a reader fills while it walks a file."""

    file_name: str
    used: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    deltas: dict[str, Delta] = field(default_factory=dict)
    norms: list[float] = field(default_factory=lambda: [0.0, 0.0])  # squared, of what is used and of what is not

    def fail(self, key: str, reason: str) -> MixOfShowError:
        return MixOfShowError(f"{self.file_name}: {key!r}: {reason}")

    def skip(self, key: str, reason: str, value: object = None) -> None:
        """Note that a key is left out, and why; `value`, if it is a tensor, counts as unused."""
        self.skipped.append((key, reason))
        if isinstance(value, Tensor):
            self.norms[1] += float(value.float().norm()) ** 2

    def tensor(self, key: str, value: object, dimensions: Iterable[int] = (2,)) -> Tensor:
        """The value if it is a finite floating point tensor of a sane shape, else an error that names the key."""
        if not isinstance(value, Tensor):
            raise self.fail(key, f"holds a {type(value).__name__}, not a tensor")
        if not value.is_floating_point() or value.dim() not in dimensions or 0 in value.shape:
            raise self.fail(key, f"has dtype {value.dtype} and shape {tuple(value.shape)}, which does not fit here")
        if max(value.shape) > MAX_SIDE:
            raise self.fail(key, f"has shape {tuple(value.shape)}; no layer is that large")
        if not bool(torch.isfinite(value.float()).all()):
            raise self.fail(key, "holds NaN or infinity; the file is damaged or its training diverged")
        self.norms[0] += float(value.float().norm()) ** 2
        return value

    def matrix(self, key: str, value: object) -> Tensor:
        """Like `tensor`, with the trailing 1x1 of a pointwise convolution taken away."""
        value = self.tensor(key, value, (2, 4))
        if value.dim() == 4 and value.shape[2:] != (1, 1):
            raise self.fail(key, f"has shape {tuple(value.shape)}; only 1x1 convolutions are low-rank matrices here")
        return value.flatten(1)

    def low_rank(self, layer: str, key: str, up: object, down: object) -> None:
        """Add up @ down as the change of `layer`."""
        try:
            self.deltas[layer] = LowRank(self.matrix(key, up), self.matrix(key, down))
        except MixOfShowError as error:
            raise error if str(error).startswith(self.file_name) else self.fail(key, str(error)) from error

    def result(self, kind: str, entries: tuple[ConceptEntry, ...], base: BaseInfo, training: dict | None = None):
        """The finished ReadResult; an error when nothing in the file could be used."""
        if not self.deltas and not entries:
            reasons = "; ".join(f"{key}: {reason}" for key, reason in self.skipped[:3]) or "it is empty"
            raise MixOfShowError(f"{self.file_name}: nothing in it can be used ({reasons}).")
        concept = Concept(entries, dict(sorted(self.deltas.items())), base, training or {})
        check_concept(concept, self.file_name)
        share = (self.norms[1] / (sum(self.norms) or 1.0)) ** 0.5
        return ReadResult(kind, concept, tuple(self.used), tuple(self.skipped), tuple(self.notes), skipped_share=share)


def context_width(deltas: Mapping[str, object]) -> int | None:
    """Width of the text context that the cross-attention layers of these deltas read; None if there are none."""
    return next((d.shape[1] for name, d in deltas.items() if reads_text(name)), None)


def embedding_width(entries: Iterable[ConceptEntry]) -> int | None:
    """Sum of the widths of all encoders that the words have rows for: the context's width."""
    for entry in entries:
        for embedding in entry.embeddings:
            return sum(rows.shape[1] for rows in embedding.rows.values())
    return None


def guess_base(deltas: Mapping[str, Delta], entries: tuple[ConceptEntry, ...]) -> BaseInfo:
    """What a file without a statement about its base was made for, as far as shapes tell; else "unknown"."""
    width = context_width(deltas) or embedding_width(entries)
    layers = max((e.layers for entry in entries for e in entry.embeddings), default=0)
    return BaseInfo(name_of_width(width), None, layers if layers > 1 else 0)


def layout_of(concept: Concept) -> UNetLayout | HostNames:
    """The layout a concept's layer names belong to."""
    known = find_family(concept.base.family)
    lean = known is not None and concept.base.layers not in (0, known.layers)  # of the same kind, with fewer layers
    if known is not None and known.layout is not None and not lean:
        return known.layout
    return layout_of_names(concept.deltas)


def check_concept(concept: Concept, where: str) -> None:
    """Refuse what cannot belong together: mixed families, embeddings for another number of layers, absurd sides."""
    widths = {d.shape[1] for name, d in concept.deltas.items() if reads_text(name)}
    words = {
        sum(rows.shape[1] for rows in embedding.rows.values())
        for entry in concept.entries
        for embedding in entry.embeddings
    }
    if len(widths | words) > 1:
        raise MixOfShowError(
            f"{where}: cross-attention layers read a text context of width {sorted(widths)}, the words have width "
            f"{sorted(words)}; parts of different model families cannot be one concept."
        )
    for name, delta in concept.deltas.items():
        if max(delta.shape) > MAX_SIDE or (isinstance(delta, LowRank) and delta.rank > min(delta.shape) * 8):
            raise MixOfShowError(f"{where}: layer {name!r} has the absurd shape {delta.shape}.")
    layers = {e.layers for entry in concept.entries for e in entry.embeddings} - {1}
    family = find_family(concept.base.family)
    known = family.layers if family is not None else 0
    if known and concept.base.fingerprint and 0 < concept.base.layers < known:
        known = concept.base.layers  # the file knows its net, a lean one of that kind
    wrong = layers - {known} if known else (layers if len(layers) > 1 else set())
    if wrong:
        raise MixOfShowError(
            f"{where}: a word has embeddings for {sorted(wrong)[0]} cross-attention layers, but the "
            f"{concept.base.family} net has {known or sorted(layers)}."
        )


def is_kernel(layer: str) -> bool:
    """Whether the layer is one of a net's 3x3 convolutions."""
    return layer.startswith(UNET_PREFIX) and any(kind.is_kernel(layer) for kind in KINDS)


def as_layer(layer: str, factor: Tensor, family: str, side: str) -> Tensor:
    """A factor [a, b] as its layer's own kind: convolutions get their cells, `up` 1x1 and `down` the whole kernel.

    SD1.5's projections around the transformer blocks are convolutions, SD2's and SDXL's are linears.
    """
    if is_kernel(layer) and side == "down" and factor.shape[1] % 9 == 0:
        return factor.reshape(factor.shape[0], -1, 3, 3)
    if is_kernel(layer) and side == "up":
        return factor[:, :, None, None]
    known = find_family(family)
    linear = known is not None and known.linear_projections
    conv = layer.endswith(".skip_connection") or (layer.endswith((".proj_in", ".proj_out")) and not linear)
    return factor[:, :, None, None] if conv else factor


def safe_word(text: str, taken: Iterable[str] = ()) -> str:
    """A concept word (``<mara-1>``) as close to `text` as the rule for words allows, and not among `taken`."""
    word = text if text.startswith("<") and text.endswith(">") else f"<{text}>"
    word = normal(word)
    if not is_word(word):
        core = legal(word.strip("<>"), "-", "+")[:60]
        word = f"<{core or 'word'}>"
    base, count = word, 1
    while word in taken:
        count += 1
        word = f"{base[:-1]}-{count}>"
    return word


def safe_concept_name(text: str) -> str:
    """A plain name as close to `text` as the rule for names allows."""
    name = legal(text, "-")[:MAX_NAME].rstrip("-_")
    return name if is_name(name) else f"concept-{name}"[:MAX_NAME].rstrip("-_")


def stem_of(word: str) -> str:
    """``<potter1>`` and ``<potter2>`` belong to one concept named ``potter``."""
    core = word.strip("<>")
    return re.sub(r"[-_+]*\d+$", "", core) or core


def make_entries(
    words: Mapping[str, Mapping[str, Tensor]], reading: Reading, joined: bool, name: str = ""
) -> tuple[ConceptEntry, ...]:
    """Concept entries from {word: {encoder: rows [R, D]}}; row l serves cross-attention layer l (R = 1: all).

    `joined` groups words by their stem (``<potter1> <potter2>``), else every word is a concept. `name` overrides the
    plain name of a single concept.
    """
    groups: dict[str, list[tuple[Word, LayeredEmbedding]]] = {}
    taken: set[str] = set()
    for text, rows in words.items():
        word = Word(safe_word(text, taken))
        taken.add(word.text)
        if word.text != text:
            reading.notes.append(f"the word {text!r} is called {word.text} here")
        count = {value.shape[0] for value in rows.values()}
        if len(count) != 1:
            raise reading.fail(text, f"has {sorted(count)} rows in its text encoders; they must agree")
        group = groups.setdefault(stem_of(word.text) if joined else word.text.strip("<>"), [])
        group.append((word, LayeredEmbedding(rows, tuple(range(count.pop())))))
    entries: list[ConceptEntry] = []
    names: set[str] = set()
    for stem, members in groups.items():
        plain = safe_concept_name(name if name and len(groups) == 1 else stem)
        while fold(plain) in names:
            plain = f"{plain[:60]}-b"
        names.add(fold(plain))
        found_words, embeddings = zip(*members, strict=True)
        entries.append(ConceptEntry(_identity(embeddings), plain, words=found_words, embeddings=embeddings))
    return tuple(entries)


def _identity(embeddings: Iterable[LayeredEmbedding]) -> str:
    digest = hashlib.sha256()
    for embedding in embeddings:
        for encoder, rows in sorted(embedding.rows.items()):
            digest.update(f"{encoder}{tuple(rows.shape)}".encode() + rows.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
