"""The community's header fields: what LoRA managers show of a file without knowing our nodes."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Mapping

from ..concept import Concept
from ..delta import LowRank, ranks_of
from ..families.known import find_family, plain_name

THUMBNAIL = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/=]{1,400000}")


def community_metadata(concept: Concept) -> dict[str, str]:
    """Header fields by which LoRA managers show title, triggers, base, rank and thumbnail."""
    title = ", ".join(entry.name for entry in concept.entries) or "LoRA"
    triggers = {entry.name: 1 for entry in concept.entries}
    family, plain = find_family(concept.base.family), plain_name(concept.base.family)
    ranks = Counter(ranks_of(concept.deltas))
    rank = ranks.most_common(1)[0][0] if ranks else 0
    alphas = Counter(d.alpha or d.rank for d in concept.deltas.values() if isinstance(d, LowRank))
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.architecture": f"{family.architecture if family else plain}/lora",
        "modelspec.implementation": "ComfyUI",
        "modelspec.trigger_phrase": ", ".join(entry.name for entry in concept.entries),
        "modelspec.description": ", ".join(
            f"{entry.name}: {entry.kind} {entry.class_word}".strip() for entry in concept.entries
        ),
        "ss_output_name": title,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alphas.most_common(1)[0][0] if alphas else 0),
        "ss_base_model_version": family.base_version if family else plain,
        "ss_tag_frequency": json.dumps({"mixofshow": triggers}, sort_keys=True),
        "ss_training_comment": f"Mix-of-Show; base fingerprint {concept.base.fingerprint or 'unknown'}",
    }
    thumbnail = thumbnail_of(concept.training)
    return metadata | ({"modelspec.thumbnail": thumbnail} if thumbnail else {})


def thumbnail_of(facts: Mapping[str, object]) -> str:
    """A picture as a data URL from training facts or file metadata, or nothing."""
    for key in ("thumbnail", "modelspec.thumbnail"):
        value = facts.get(key)
        if isinstance(value, str) and THUMBNAIL.fullmatch(value):
            return value
    return ""


def thumbnail_bytes(facts: Mapping[str, object]) -> bytes:
    """The encoded picture itself (JPEG, PNG or WebP); empty when there is none."""
    url = thumbnail_of(facts)
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except ValueError:
        return b""
