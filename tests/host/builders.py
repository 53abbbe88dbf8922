"""Random concepts for tiny bases, and a calibration plan that runs in seconds."""

from __future__ import annotations

import torch


def make_concept(base, name, seed, rank=2, size=0.3, layered=True, spatial=True, text=True):
    """A concept with deltas on every attention layer and two words; layered: another embedding per layer."""
    from mos_pack.mixofshow_core.concept import Concept, ConceptEntry, LayeredEmbedding, Word
    from mos_pack.mixofshow_core.delta import LowRank
    from mos_pack.mixofshow_core.families.layers import ROLE_CROSS_KV, ROLE_TEXT
    from mos_pack.mixofshow_core.families.nets import layer_groups
    from mos_pack.mixofshow_core.families.text import layer_groups_text
    from mos_pack.nodes.bridge.host.model import describe_base, named_linears, net_of, text_models_of

    generator = torch.Generator().manual_seed(seed)
    info = describe_base(base.model)
    groups = list(layer_groups(net_of(base.model)))
    encoders = text_models_of(base.clip)
    for encoder, module in encoders.items():
        groups += layer_groups_text(module, encoder)
    linears = named_linears(base.model, base.clip)
    deltas = {}
    for group in groups:
        if (group.role == ROLE_TEXT and not text) or (group.role not in (ROLE_TEXT, ROLE_CROSS_KV) and not spatial):
            continue
        for member in group.members:
            out, width = linears[member].weight.shape
            up = torch.randn(out, rank, generator=generator) * size / rank**0.5
            down = torch.randn(rank, width, generator=generator) / width**0.5
            deltas[member] = LowRank(up, down, float(rank))
    rows = info.layers if layered else 1
    index = tuple(range(rows)) if layered else (0,) * info.layers
    words, embeddings = [], []
    for n in (1, 2):
        words.append(Word(f"<{name}-{n}>"))
        noise = {
            key: torch.randn(rows, model.transformer.get_input_embeddings().weight.shape[1], generator=generator) * 0.1
            for key, model in encoders.items()
        }
        embeddings.append(LayeredEmbedding(noise, index))
    entry = ConceptEntry(name, name, "person", "character", tuple(words), tuple(embeddings))
    return Concept((entry,), deltas, info)


def tiny_plan(**changes):
    from mos_pack.mixofshow_core.fusion.plan import GENERIC, TEMPLATES, CalibrationPlan

    facts = {"pictures": 1, "prior_pictures": 1, "steps": 2, "width": 64, "height": 64} | changes
    return CalibrationPlan(TEMPLATES[:2], GENERIC[:3], **facts)
