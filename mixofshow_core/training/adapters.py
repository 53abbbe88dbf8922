"""What is trained: adapters (low-rank or whole matrices, by forward hooks) and layered embeddings of concept words."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bounds import meaning
from ..concept import BaseInfo, Concept, ConceptEntry, LayeredEmbedding, Word
from ..delta import Delta, Dense, LowRank
from ..errors import MixOfShowError
from ..families.layers import ROLE_CROSS_KV, TEXT_PREFIX
from ..families.nets import role_of
from .captions import concept_words


def seeded(seed: int, name: str) -> torch.Generator:
    """A CPU generator for one named tensor, so that adding a tensor never changes another's start."""
    digest = hashlib.sha256(f"{seed}|{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


SECTION = 77  # text positions between two BOS


class Adapter(nn.Module):
    """A change of one layer, added to its output by a forward hook; starts as no change."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = 1.0
        self.active = True
        self.detach_bos = False

    def change(self, module: nn.Module, x: Tensor) -> Tensor:
        """What the layer's output changes by, ``strength`` included."""
        raise NotImplementedError

    def delta(self) -> Delta:
        """A copy on the CPU."""
        raise NotImplementedError

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self.active or not self.training:
            output = output + self.change(module, args[0]).to(output.dtype)
        if self.detach_bos and self.training:
            first = torch.arange(output.shape[1], device=output.device) % SECTION == 0
            output = torch.where(first[:, None], output.detach(), output)
        return output


class FullAdapter(Adapter):
    """y + diff(x): the whole matrix or convolution kernel (Custom Diffusion, DreamBooth), kept apart from the base."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.diff = nn.Parameter(torch.zeros(shape))

    def change(self, module: nn.Module, x: Tensor) -> Tensor:
        x = x.to(self.diff.dtype)
        diff = self.diff if self.strength == 1.0 else self.diff * self.strength
        if diff.dim() == 2:
            return F.linear(x, diff)
        return F.conv2d(x, diff, None, module.stride, module.padding, module.dilation, module.groups)

    def delta(self) -> Dense:
        return Dense(self.diff.detach().float().cpu().clone())


class LowRankAdapter(Adapter):
    """y + scale * up(down(x)) for a linear or 1x1 convolution (LoRA, Hu et al. 2021); ``up`` starts at zero."""

    def __init__(self, fan_in: int, fan_out: int, rank: int, scale: float, dropout: float, generator: torch.Generator):
        super().__init__()
        bound = 1.0 / math.sqrt(fan_in)
        self.down = nn.Parameter((torch.rand(rank, fan_in, generator=generator) * 2.0 - 1.0) * bound)
        self.up = nn.Parameter(torch.zeros(fan_out, rank))
        self.scale = scale
        self.dropout = dropout

    def change(self, module: nn.Module, x: Tensor) -> Tensor:
        x = x.to(self.down.dtype)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        # The text encoder may run on another device than the net (CPU offloading).
        down, up = self.down.to(x.device), self.up.to(x.device)
        is_convolution = isinstance(module, nn.Conv2d)
        inner = F.conv2d(x, down[:, :, None, None]) if is_convolution else F.linear(x, down)
        # Between the factors, where the tensor is small: a product at full width costs as much as the adapter.
        if self.scale * self.strength != 1.0:
            inner = inner * (self.scale * self.strength)
        return F.conv2d(inner, up[:, :, None, None]) if is_convolution else F.linear(inner, up)

    def delta(self) -> LowRank:
        up, down = self.up.detach().float().cpu().clone(), self.down.detach().float().cpu().clone()
        return LowRank(up, down, self.scale * down.shape[0])


class WordEmbeddings(nn.Module):
    """The learned words of one concept: per text encoder a parameter [words, rows, D]."""

    def __init__(self, name: str, starts: Mapping[str, Tensor], rows: int, generator_seed: int, spread: float = 0.0):
        super().__init__()
        self.name = name
        self.words = concept_words(name, next(iter(starts.values())).shape[0])
        self.tables = nn.ParameterDict()
        for encoder, start in starts.items():
            table = start.float()[:, None].repeat(1, rows, 1)
            if spread:
                noise = torch.randn(table.shape, generator=seeded(generator_seed, f"{name}.{encoder}.spread"))
                table = table + spread * noise
            self.tables[encoder] = nn.Parameter(table)

    def vectors(self) -> dict[str, dict[str, Tensor]]:
        """word -> encoder -> [rows, D]."""
        return {
            word: {encoder: table[number] for encoder, table in self.tables.items()}
            for number, word in enumerate(self.words)
        }

    def mean_norm(self) -> float:
        """Mean L2 norm over all rows of all words and encoders."""
        norms = [table.detach().norm(dim=-1).flatten() for table in self.tables.values()]
        return float(torch.cat(norms).mean())


def start_vectors(
    class_vector: Tensor,
    words: int,
    norm: float,
    generator: torch.Generator,
    kind: str = "random+class",
    rare: Sequence[Tensor] = (),
) -> Tensor:
    """[words, D]: random words of the vocabulary's mean norm, the last one from the class word.

    One word alone starts from the class word; of several, the first ones are free to learn the identity while the
    last keeps the noun (Mix-of-Show's ``<rand>+class`` initialisation). ``kind`` "class" starts all from the class
    word, "random" none, "rare" as many as there are from ``rare`` (Custom Diffusion).
    """
    width = class_vector.shape[0]
    start = torch.randn(words, width, generator=generator) * (norm / math.sqrt(width))
    if kind == "class":
        start[:] = class_vector.float().cpu()
    elif kind == "random+class":
        start[-1] = class_vector.float().cpu()
    elif kind == "rare":
        for number, vector in enumerate(rare[:words]):
            start[number] = vector.float().cpu()
    elif kind != "random":
        raise MixOfShowError(f"Training setting word_start is {kind!r}, which no start is known for.")
    return start


def word_starts(words: int, class_word: str, kind: str) -> tuple[str, ...]:
    """How each word was started, as the file says it."""
    return meaning(
        "Training setting word_start",
        kind,
        {
            "random": ("<rand>",) * words,
            "rare": ("<rare>",) * words,
            "class": (class_word,) * words,
            "random+class": (*("<rand>",) * (words - 1), class_word)[:words],
        },
    )


@dataclass(frozen=True)
class ConceptPlan:
    """What the trainer needs to know of one concept besides its pictures."""

    name: str
    class_word: str
    kind: str
    with_class: bool = False
    style: str = "sentences"
    word_start: str = "random+class"

    def entry(self, words: tuple[Word, ...], embeddings: tuple[LayeredEmbedding, ...]) -> ConceptEntry:
        return ConceptEntry(self.name, self.name, self.class_word, self.kind, words, embeddings, self.with_class)


class Trainables(nn.Module):
    """Everything one run trains, by layer name, concept and encoder; knows nothing of the model it is hooked onto."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()
        self.embeddings = nn.ModuleDict()
        self.layer_names: list[str] = []

    @staticmethod
    def _key(layer_name: str) -> str:
        return layer_name.replace(".", "/")

    def add_adapters(
        self, shapes: Mapping[str, tuple[int, int]], rank: int, scale: float, dropout: float, seed: int
    ) -> None:
        """``shapes``: layer name -> (out, in)."""
        for name, (fan_out, fan_in) in shapes.items():
            adapter = LowRankAdapter(fan_in, fan_out, min(rank, fan_in, fan_out), scale, dropout, seeded(seed, name))
            self.adapters[self._key(name)] = adapter
            self.layer_names.append(name)

    def add_full_weights(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """``shapes``: layer name -> shape of the whole weight, linear or convolution."""
        for name, shape in shapes.items():
            self.adapters[self._key(name)] = FullAdapter(tuple(shape))
            self.layer_names.append(name)

    def cross_kv(self) -> list[Adapter]:
        """The adapters of cross-attention keys and values, in layer order."""
        return [self.adapter(name) for name in self.layer_names if role_of(name) == ROLE_CROSS_KV]

    def drop_cross_kv(self, chance: float, rng: random.Random) -> None:
        """Switch each cross-attention K and V off for this step with this chance (``unet_kv_drop_rate``)."""
        if chance:
            for adapter in self.cross_kv():
                adapter.active = rng.random() >= chance

    def add_words(self, words: WordEmbeddings) -> None:
        self.embeddings[words.name] = words

    def adapter(self, layer_name: str) -> Adapter:
        return self.adapters[self._key(layer_name)]

    def vectors(self) -> dict[str, dict[str, Tensor]]:
        """word -> encoder -> [rows, D] over all concepts."""
        return {word: rows for words in self.embeddings.values() for word, rows in words.vectors().items()}

    def trains_text(self) -> bool:
        """Whether any gradient has to pass through the text encoders."""
        return any(table.requires_grad for words in self.embeddings.values() for table in words.parameters()) or any(
            name.startswith(TEXT_PREFIX) for name in self.layer_names
        )

    def set_strength(self, strength: float) -> None:
        """Weight of all adapters while sampling: 0 leaves the embeddings alone at work."""
        for adapter in self.adapters.values():
            adapter.strength = strength

    def parameter_groups(self, embedding: float, text: float, unet: float, decay: float) -> list[dict]:
        """AdamW groups with their base rate under ``base_lr``."""
        rates: dict[str, tuple[list[nn.Parameter], float]] = {
            "embedding": ([p for words in self.embeddings.values() for p in words.parameters()], embedding),
            "text": ([], text),
            "unet": ([], unet),
        }
        for name in self.layer_names:
            rates["text" if name.startswith(TEXT_PREFIX) else "unet"][0].extend(self.adapter(name).parameters())
        return [
            {"params": params, "lr": rate, "base_lr": rate, "weight_decay": 0.0 if kind == "embedding" else decay}
            for kind, (params, rate) in rates.items()
            if params
        ]

    @contextmanager
    def attached(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Hook every adapter onto its module; the hooks are gone afterwards, whatever happened."""
        handles = []
        try:
            for name in self.layer_names:
                if name not in modules:
                    raise MixOfShowError(f"The model has no layer {name!r} to train.")
                handles.append(modules[name].register_forward_hook(self.adapter(name).hook))
            yield
        finally:
            for handle in handles:
                handle.remove()


def learned_concept(
    trainables: Trainables,
    plans: Sequence[ConceptPlan],
    index: tuple[int, ...],
    base: BaseInfo,
    training: Mapping[str, object],
) -> Concept:
    """Copy what was learned into a Concept on the CPU. ``index``: cross-attention layer -> embedding row.

    Several concepts trained together share the deltas of one file.
    """
    entries = []
    for plan in plans:
        words: tuple[Word, ...] = ()
        embeddings: list[LayeredEmbedding] = []
        if plan.name in trainables.embeddings:
            learned = trainables.embeddings[plan.name]
            starts = word_starts(len(learned.words), plan.class_word, plan.word_start)
            words = tuple(map(Word, learned.words, starts))
            for number in range(len(learned.words)):
                rows = {e: t.detach()[number].float().cpu().clone() for e, t in learned.tables.items()}
                embeddings.append(LayeredEmbedding(rows, index))
        entries.append(plan.entry(words, tuple(embeddings)))
    deltas = {name: trainables.adapter(name).delta() for name in trainables.layer_names}
    return Concept(tuple(entries), deltas, base, dict(training))
