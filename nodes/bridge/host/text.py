"""Concept words in prompts: a CLIP that knows them, and encoding with one context per cross-attention layer.

A person types one plain name per concept (``mara``, or ``<mara>``); it expands to the concept's words. Stock text
nodes see the mean embedding of each word; :func:`encode_layered` returns the layered contexts as well.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....mixofshow_core.concept import CONTEXT, ConceptEntry, ConceptUse, LayeredEmbedding, Word
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.fitting import RENAME
from ....mixofshow_core.names import find_names, fold, is_word, normal, replace_names
from .context_words import ContextToken, ContextTokens, find_words, put_words

BOS, TEXT, CONCEPT, EOS_PAD = range(4)
EMBEDDING_SCOPE = "mos/"
BRACKETED = re.compile(r"[<\uff1c]([^\s<>\uff1c\uff1e]+)[>\uff1e]")  # the full-width signs too
NAMELESS = re.compile(r"embedding:(?:\s|$)")  # the host stops at it
MAX_PROMPT_CHARACTERS = 20_000


@dataclass(frozen=True)
class LayeredText:
    """An encoded prompt: ``context`` [1, T, C] with mean embeddings, ``layers`` [L, T, C] or None, host extras."""

    context: Tensor
    layers: Tensor | None
    extras: Mapping[str, object]


@dataclass(frozen=True)
class Vocabulary:
    """Concept entries that one CLIP knows."""

    entries: tuple[ConceptEntry, ...] = ()

    def __post_init__(self) -> None:
        owners: set[str] = set()
        for entry in self.entries:
            if fold(entry.name) in owners:
                raise MixOfShowError(f"CLIP knows a concept {entry.name!r} already, and another one comes; {RENAME}.")
            owners.add(fold(entry.name))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    def embeddings(self, key: str) -> tuple[LayeredEmbedding, ...]:
        """What stands behind a scoped key: one word (``mos/mara/mara-1``) or all of a concept; empty if unknown."""
        for entry in self.entries:
            if entry.words and key == _scoped(entry, *entry.words):
                return entry.embeddings
            for word, embedding in zip(entry.words, entry.embeddings, strict=True):
                if key == _scoped(entry, word):
                    return (embedding,)
        return ()

    def owner(self, key: str) -> str:
        """The name of the concept that a scoped key belongs to."""
        start = key.rpartition("/")[0]
        return next((entry.name for entry in self.entries if _scoped(entry) == f"{start}/"), key)

    def shared_words(self) -> dict[str, tuple[str, ...]]:
        """{folded word: names of its owners} of the words that several concepts have, such as ``<new1>``."""
        owners: dict[str, list[str]] = {}
        for entry in self.entries:
            for word in entry.words:
                owners.setdefault(fold(word.text), []).append(entry.name)
        return {word: tuple(names) for word, names in owners.items() if len(names) > 1}

    def rewrite(self, text: str) -> str:
        """Replace plain names, ``<name>`` and concept words by the host's ``embedding:`` syntax.

        Names match whole and without regard to case; the longest wins, so ``mara`` never cuts ``mara-lynn``. All
        words of a name are one embedding of several rows, which the host keeps on one side of the 77-token border. A
        word that several concepts have stands for none of them, and a name goes before another concept's word.
        """
        return replace_names(text, {call: f" {target} " for call, (target, _) in self._calls().items()})

    def called(self, text: str) -> frozenset[str]:
        """The names of the concepts that the text calls. Of calls that lie in one another the longest counts alone."""
        calls = self._calls()
        return frozenset(calls[call][1] for _, _, call in find_names(text, calls))

    def _calls(self) -> dict[str, tuple[str, str]]:
        """{what calls a concept in a prompt: (what is written in its place, the concept's name)}"""
        shared, calls_of_words = self.shared_words(), {}
        for entry in self.entries:
            for word in entry.words:
                if fold(word.text) not in shared:
                    target = f"embedding:{_scoped(entry, word)}", entry.name
                    calls_of_words[fold(word.text)] = word.text, target
        targets: dict[str, tuple[str, str]] = {}
        for entry in self.entries:
            expansion = f"embedding:{_scoped(entry, *entry.words)}" if entry.words else entry.trigger or entry.name
            calls = [entry.name, f"<{entry.name}>"]
            if entry.with_class and entry.class_word:
                expansion += f" {entry.class_word}"
                calls += [f"{call} {entry.class_word}" for call in calls]  # typed out, it is not doubled
            if entry.trigger and not entry.words:
                calls.append(entry.trigger)  # typed out, it calls the concept and is not doubled
            targets.update(dict.fromkeys(calls, (expansion, entry.name)))
        called = {fold(call) for call in targets}
        targets.update(pair for word, pair in calls_of_words.items() if word not in called)
        return targets


def _scoped(entry: ConceptEntry, *words: Word) -> str:
    """A file name for the host's embedding syntax in plain ASCII: capitals are ours, folded words have none.

    Words belong to their concept: many files have learned ``<new1>``.
    """
    name, *plain = (
        "".join(char if char.isascii() else f"U{ord(char):X}U" for char in fold(text))
        for text in (entry.name, *(word.text.strip("<>") for word in words))
    )
    return f"{EMBEDDING_SCOPE}{name}/{'J'.join(plain)}"


class _EmbeddingRows:
    """What the host's tokenizer expects of an embedding: a 2-d shape and rows to take, each row a token."""

    def __init__(self, embeddings: Sequence[LayeredEmbedding], encoder: str, concept: str):
        self.tokens = [
            {
                "type": "embedding",
                "data": e.mean(encoder),
                "rows": e.rows[encoder],
                "index": e.index,
                "concept": concept,
            }
            for e in embeddings
        ]
        self.shape = (len(self.tokens), self.tokens[0]["data"].shape[0])

    def __getitem__(self, row: int) -> dict:
        return self.tokens[row]


class _ConceptTokenizer:
    """Mixin for a copy of the host's SDTokenizer: rewrites names, then finds their rows in the vocabulary."""

    vocabulary: Vocabulary
    encoder: str

    def tokenize_with_weights(self, text, *args, **kwargs):
        return super().tokenize_with_weights(self.vocabulary.rewrite(text), *args, **kwargs)

    def _try_get_embedding(self, embedding_name):
        # The host's answer is asked for first, because the number of its fields differs between versions.
        answer = super()._try_get_embedding(embedding_name)
        embeddings = self.vocabulary.embeddings(embedding_name.split()[0])
        if not embeddings:
            return answer
        name = self.vocabulary.owner(embedding_name.split()[0])
        if all(CONTEXT in embedding.rows for embedding in embeddings):
            return (ContextTokens(embeddings, self._noun(name), name), *answer[1:])
        for embedding in embeddings:
            if self.encoder not in embedding.rows:
                raise MixOfShowError(
                    f"Concept {name!r} has learned words for {' and '.join(embedding.rows)} only, and CLIP reads texts "
                    f"with {self.encoder} as well: it was made for another family. Connect the MODEL and CLIP of that "
                    "family, or take a concept that was made for this one."
                )
        return (_EmbeddingRows(embeddings, self.encoder, name), *answer[1:])

    def _noun(self, name: str) -> int:
        """The token that the encoder reads where a concept's words are rows of the encoded text: its class's last."""
        noun = next((entry.class_word for entry in self.vocabulary.entries if entry.name == name), "") or "thing"
        ids = super().tokenize_with_weights(noun, disable_weights=True)[0]
        special = {self.start_token, self.end_token, self.pad_token}
        return [token for token, *_ in ids if token not in special][-1]


def vocabulary_of(clip) -> Vocabulary:
    """The concepts that a CLIP knows (empty for a stock CLIP)."""
    for tokenizer in vars(clip.tokenizer).values():
        if isinstance(tokenizer, _ConceptTokenizer):
            return tokenizer.vocabulary
    return Vocabulary()


def concept_names(clip) -> tuple[str, ...]:
    return vocabulary_of(clip).names


def register_entries(clip, entries: Iterable[ConceptEntry]):
    """A clone of CLIP that also knows ``entries``; an entry it knows already is not added twice."""
    known = vocabulary_of(clip).entries
    ids = set(map(_identity, known))
    vocabulary = Vocabulary((*known, *(entry for entry in entries if _identity(entry) not in ids)))
    clip = clip.clone()
    clip.tokenizer = copy.copy(clip.tokenizer)
    for name, tokenizer in list(vars(clip.tokenizer).items()):
        if hasattr(tokenizer, "_try_get_embedding"):
            setattr(clip.tokenizer, name, _with_vocabulary(tokenizer, vocabulary, encoder=name))
    return clip


def _identity(entry: ConceptEntry) -> tuple[str, str, str]:
    """A renamed copy is another concept, and so is one that another text calls up."""
    return entry.id, fold(entry.name), entry.trigger


def register_concepts(clip, uses: Iterable[ConceptUse]):
    """A clone of CLIP whose tokenizer knows the words and the plain names of all concepts in ``uses``."""
    return register_entries(clip, (entry for use in uses for entry in use.concept.entries))


def _with_vocabulary(tokenizer, vocabulary: Vocabulary, encoder: str):
    host_class = type(tokenizer)
    if isinstance(tokenizer, _ConceptTokenizer):
        host_class = host_class.__mro__[2]
    known = type(f"Concept{host_class.__name__}", (_ConceptTokenizer, host_class), {})
    clone = object.__new__(known)
    clone.__dict__.update(tokenizer.__dict__, vocabulary=vocabulary, encoder=encoder)
    # The host parts groups of so many tokens at the border. One that fits into no section it must part.
    longest = max((len(entry.words) for entry in vocabulary.entries), default=0)
    clone.max_word_length = max(clone.max_word_length, min(longest + 1, clone.max_length - 1))
    if clone.embedding_directory is None:
        clone.embedding_directory = []  # None would switch the embedding syntax off
    return clone


def check_prompt(clip, prompt: str, where: str = "prompt") -> None:
    """Raise MixOfShowError for a ``<name>`` that this CLIP does not know, and for what the host cannot read."""
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise MixOfShowError(f"The {where} has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} are accepted.")
    if odd := next((char for char in prompt if "\ud800" <= char <= "\udfff"), None):
        raise MixOfShowError(f"The {where} holds half a character ({odd!r}), as cut emoji leave it; delete it.")
    if NAMELESS.search(prompt):
        raise MixOfShowError(
            f"The {where} has `embedding:` without a file's name right behind it; write embedding:name, or delete it."
        )
    vocabulary = vocabulary_of(clip)
    called, shared = {fold(entry.name) for entry in vocabulary.entries}, vocabulary.shared_words()
    known = called | {fold(word.text.strip("<>")) for entry in vocabulary.entries for word in entry.words}
    for name in BRACKETED.findall(prompt):
        if is_word(normal(f"<{name}>")) and fold(name) not in known:
            names = ", ".join(vocabulary.names)
            advice = f"Known: {names}. Write one of these, or connect" if names else "Known: none. Connect"
            raise MixOfShowError(
                f"The {where} names concept <{name}>, which is not known here. {advice} its file (Load Concept, Cast), "
                "or the CLIP of a Fuse that has it."
            )
        if fold(name) not in called and (owners := shared.get(f"<{fold(name)}>")):
            raise MixOfShowError(
                f"The {where} has the word <{name}>, which {' and '.join(owners)} have learned; write the concept's "
                "name instead."
            )


def encode_layered(clip, prompt: str, layers: int, where: str = "prompt") -> LayeredText:
    """Encode ``prompt`` once per distinct layer in a single call of the host's encoder.

    ``layers`` is the number of cross-attention layers of the model. Prompts without concept words cost one
    encoding and give ``layers=None``. Prompt weights, clip skip, long prompts and LoRA on CLIP work as usual,
    because the host's own encoder does all of it. Source: P+ / extended textual inversion, arXiv 2303.09522.
    """
    check_prompt(clip, prompt, where)
    tokens = clip.tokenize(prompt)
    placed = find_words(tokens)
    selections = _layer_selections(tokens, layers)
    distinct = sorted(set(selections))
    sections = {
        key: chunks + [_select(chunk, selection) for selection in distinct for chunk in chunks]
        for key, chunks in tokens.items()
    }
    encoded = dict(clip.encode_from_tokens(sections if distinct else tokens, return_dict=True))
    cond = encoded.pop("cond")
    if not isinstance(cond, Tensor) or cond.dim() != 3 or len(cond) != 1 or cond.shape[1] % (1 + len(distinct)):
        shape = tuple(cond.shape) if isinstance(cond, Tensor) else type(cond).__name__
        raise MixOfShowError(
            f"CLIP encodes the {where} as {shape}; [1, tokens, width] with {1 + len(distinct)} equal parts is needed. "
            "A node between the loader and this one changes how texts are encoded: connect the CLIP from before it."
        )
    if placed:
        weighted = any(one.weight != 1.0 for one in placed)
        empty = clip.encode_from_tokens(clip.tokenize("")) if weighted else None
        return LayeredText(*put_words(cond, None, placed, layers, empty), encoded)
    if not distinct:
        return LayeredText(cond, None, encoded)
    length = cond.shape[1] // (1 + len(distinct))
    stacked = cond[0].reshape(1 + len(distinct), length, cond.shape[-1])
    order = torch.tensor([1 + distinct.index(selection) for selection in selections])
    return LayeredText(stacked[:1], stacked[order.to(stacked.device)], encoded)


def rows_of(token) -> Tensor | None:
    """The rows [R, D] of a concept word among tokens; None for any other token."""
    if isinstance(token, ContextToken):
        return token.rows
    return token.get("rows") if isinstance(token, dict) else None


def _concept_tokens(tokens: Mapping[str, list]) -> list[dict]:
    return [
        token[0]
        for chunks in tokens.values()
        for chunk in chunks
        for token in chunk
        if isinstance(token[0], dict) and "rows" in token[0]
    ]


def _layer_selections(tokens: Mapping[str, list], layers: int) -> list[tuple[tuple[int, ...], int]]:
    """Per layer a value that two layers share exactly when all concept words give them the same rows."""
    found = _concept_tokens(tokens)
    if not found:
        return []
    lengths = {len(token["index"]) for token in found} - {1}
    if lengths - {layers}:
        raise MixOfShowError(
            f"A concept in this prompt has embeddings for {max(lengths)} cross-attention layers; MODEL has {layers}. "
            "Take MODEL and CLIP from the same node, or a concept that was trained on this base."
        )
    patterns = [token["index"] * layers if len(token["index"]) == 1 else token["index"] for token in found]
    first: dict[tuple[int, ...], int] = {}
    rows_by_layer = [tuple(pattern[layer] for pattern in patterns) for layer in range(layers)]
    return [(rows, first.setdefault(rows, layer)) for layer, rows in enumerate(rows_by_layer)]


def _select(chunk: list, selection: tuple[tuple[int, ...], int]) -> list:
    """A copy of one chunk of tokens in which every concept word shows the row of the selected layer."""
    layer = selection[1]
    chosen = []
    for token in chunk:
        value = token[0]
        if isinstance(value, dict) and "rows" in value:
            row = value["index"][0 if len(value["index"]) == 1 else layer]
            value = {"type": "embedding", "data": value["rows"][row]}
        chosen.append((value, *token[1:]))
    return chosen


def token_kinds(clip, prompt: str) -> dict[str, Tensor]:
    """Kind of every token position by encoder: BOS, TEXT, CONCEPT or EOS_PAD, as int64 [chunks, positions]."""
    kinds = {}
    for key, chunks in clip.tokenize(prompt).items():
        encoder = key if hasattr(clip.cond_stage_model, key) else f"clip_{key}"
        tokenizer = getattr(clip.tokenizer, f"clip_{key}", None) or getattr(clip.tokenizer, key)
        end, starts = tokenizer.end_token, getattr(tokenizer, "start_token", None) is not None
        rows: list[list[int]] = []
        for chunk in chunks:
            row: list[int] = []
            ended = False
            for position, token in enumerate(chunk):
                ended = ended or (position > 0 and isinstance(token[0], int) and token[0] == end)
                concept = isinstance(token[0], dict | ContextToken)
                row.append(BOS if starts and position == 0 else EOS_PAD if ended else CONCEPT if concept else TEXT)
            rows.append(row)
        kinds[encoder] = torch.tensor(rows)
    return kinds
