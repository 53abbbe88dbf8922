"""What a loaded file holds, in a few lines."""

from __future__ import annotations

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.formats.card import base_line, describe_layers
from ..host.vocabulary import is_common_word
from .foreign import ReadFile


def describe_use(use: ConceptUse, found: ReadFile) -> str:
    """The card: names and words, base, layers by role and rank, what was left out, what to type."""
    concept = use.concept
    lines = [
        f"{use.path or use.label}: {found.dialect}, role {use.resolved_role}, strength {use.strength:g}"
        f"{'' if use.text_strength is None else f' (text {use.text_strength:g})'}"
    ]
    for entry in concept.entries:
        encoders = sorted({encoder for embedding in entry.embeddings for encoder in embedding.rows})
        words = " ".join(word.text for word in entry.words) or "no words of its own"
        if entry.trigger and not entry.words:
            where = f", from {found.trigger_source}" if found.trigger_source else ""
            words = f"{words}; it stands for {entry.trigger!r} (trigger{where})"
        layers = f", {entry.embeddings[0].layers} layers, {' + '.join(encoders)}" if entry.embeddings else ""
        if use.is_community and is_common_word(entry.name):
            lines.append(
                f"`{entry.name}` is an everyday word as well: wherever a prompt says it, this file is called. If that "
                "is not meant, give it another name"
            )
        class_word = f" ({entry.class_word})" if entry.class_word else ""
        lines.append(f"type `{entry.name}` in prompts: {entry.kind}{class_word}, words {words}{layers}")
    if use.is_uncalled and use.role == "auto":
        lines.append(
            "no trigger is known: Place keeps it where its name is written, Fuse adds it as it is unless you "
            "type its trigger words into `trigger`"
        )
    if found.tags:
        lines.append(f"suggestions for `trigger`, from its training tags and side files: {', '.join(found.tags)}")
    lines += [base_line(concept), describe_layers(concept)]
    if use.statistics:
        lines.append("statistics lie beside it: Fuse uses them where they fit, and need not look at this concept")
    if warning := found.warning():
        lines.append(warning)
    if concept.entries and any(entry.words for entry in concept.entries):
        lines.append("The stock Load LoRA node applies the layers of this file, but does not know its words.")
    return "\n".join(lines)
