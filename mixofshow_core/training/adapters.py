"""What is trained: low-rank adapters on linears (by forward hooks) and layered embeddings of concept words."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..concept import BaseInfo, Concept, ConceptEntry, LayeredEmbedding, LowRank, Word
from ..errors import MixOfShowError
from ..topology import TEXT_PREFIX
from .captions import concept_words


def seeded(seed: int, name: str) -> torch.Generator:
    """A CPU generator for one named tensor, so that adding a tensor never changes another's start."""
    digest = hashlib.sha256(f"{seed}|{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class LowRankAdapter(nn.Module):
    """y + scale * up(down(x)) for one linear (LoRA, Hu et al. 2021); starts as the identity: ``up`` is zero."""

    def __init__(self, fan_in: int, fan_out: int, rank: int, scale: float, dropout: float, generator: torch.Generator):
        super().__init__()
        bound = 1.0 / math.sqrt(fan_in)
        self.down = nn.Parameter((torch.rand(rank, fan_in, generator=generator) * 2.0 - 1.0) * bound)
        self.up = nn.Parameter(torch.zeros(fan_out, rank))
        self.scale = scale
        self.dropout = dropout
        self.strength = 1.0

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0].to(self.down.dtype)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        # The text encoder may run on another device than the net (CPU offloading).
        change = F.linear(F.linear(x, self.down.to(x.device)), self.up.to(x.device))
        return output + (change * (self.scale * self.strength)).to(output.dtype)


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


def start_vectors(class_vector: Tensor, words: int, norm: float, generator: torch.Generator) -> Tensor:
    """[words, D]: random words of the vocabulary's mean norm, the last one from the class word.

    One word alone starts from the class word; of several, the first ones are free to learn the identity while the
    last keeps the noun (Mix-of-Show's ``<rand>+class`` initialisation).
    """
    width = class_vector.shape[0]
    start = torch.randn(words, width, generator=generator) * (norm / math.sqrt(width))
    start[-1] = class_vector.float().cpu()
    return start


@dataclass(frozen=True)
class ConceptPlan:
    """What the trainer needs to know of one concept besides its pictures."""

    name: str
    class_word: str
    kind: str


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
            adapter = LowRankAdapter(
                fan_in, fan_out, min(rank, fan_in, fan_out), scale, dropout, seeded(seed, name)
            )
            self.adapters[self._key(name)] = adapter
            self.layer_names.append(name)

    def add_words(self, words: WordEmbeddings) -> None:
        self.embeddings[words.name] = words

    def adapter(self, layer_name: str) -> LowRankAdapter:
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


def export_concept(
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
            last = len(learned.words) - 1
            words = tuple(
                Word(text, plan.class_word if n == last else "<rand>") for n, text in enumerate(learned.words)
            )
            for number in range(len(learned.words)):
                rows = {e: t.detach()[number].float().cpu().clone() for e, t in learned.tables.items()}
                embeddings.append(LayeredEmbedding(rows, index))
        entries.append(ConceptEntry(plan.name, plan.name, plan.class_word, plan.kind, words, tuple(embeddings)))
    deltas = {}
    for name in trainables.layer_names:
        adapter = trainables.adapter(name)
        up, down = adapter.up.detach().float().cpu().clone(), adapter.down.detach().float().cpu().clone()
        deltas[name] = LowRank(up, down, adapter.scale * down.shape[0])
    return Concept(tuple(entries), deltas, base, dict(training))
