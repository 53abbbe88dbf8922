"""Small concepts for tests, the same for the same seed."""

import torch
from mos_pack.mixofshow_core.concept import BaseInfo, Concept, ConceptEntry, LayeredEmbedding, Word
from mos_pack.mixofshow_core.delta import LowRank

SD15_Q = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q"
TEXT_Q = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj"


def make_entry(name="mara", words=2, layers=16, widths=None, seed=0, class_word="person", kind="character"):
    generator = torch.Generator().manual_seed(seed)
    widths = widths or {"clip_l": 8}
    embeddings = tuple(
        LayeredEmbedding(
            {encoder: torch.randn(layers, width, generator=generator) for encoder, width in widths.items()},
            tuple(range(layers)),
        )
        for _ in range(words)
    )
    return ConceptEntry(
        f"{name}-id",
        name,
        class_word,
        kind,
        tuple(Word(f"<{name}-{n + 1}>", "rand-0.013") for n in range(words)),
        embeddings,
    )


def make_concept(name="mara", seed=0, deltas=None, family="sd15", **entry):
    generator = torch.Generator().manual_seed(seed + 1000)
    if deltas is None:
        deltas = {
            key: LowRank(torch.randn(6, 2, generator=generator), torch.randn(2, 8, generator=generator), 2.0)
            for key in (SD15_Q, TEXT_Q)
        }
    made = make_entry(name, seed=seed, **entry)
    layers = made.embeddings[0].layers if made.embeddings else 0
    return Concept((made,), deltas, BaseInfo(family, "f" * 16, layers), {"steps": 10})
