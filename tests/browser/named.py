"""Concepts made of words that the demo model knows: deterministic, made in a moment, and easy to tell apart."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[2] / "assets" / "demo" / "small_base.safetensors"
LAYERS = 7
MEANING = {"mara": "frog", "finn": "apple"}


def known_vectors(host: Path, words: list[str]) -> list:
    """The demo model's own embedding of each word, float32 [1, D]; KeyError for a word it was not trained on."""
    from safetensors import safe_open
    from transformers import CLIPTokenizer

    with safe_open(WEIGHTS, "pt") as file:
        ids, rows = (file.get_tensor(f"text.vocabulary.{part}") for part in ("ids", "rows"))
        scale = next((file.get_tensor(key).float() for key in file.keys() if key.endswith("rows.scale")), 1.0)  # noqa: SIM118
    tokenizer = CLIPTokenizer.from_pretrained(host / "comfy" / "sd1_tokenizer")
    table = dict(zip(ids.tolist(), rows.float() * scale, strict=True))
    return [table[tokenizer(word)["input_ids"][1]][None] for word in words]


def write_named_concept(host: Path, path: Path, name: str, description: str) -> None:
    """A concept file whose `name` means `description` (words of the demo model's captions) to the demo model."""
    from mos_pack.mixofshow_core.concept import BaseInfo, Concept, ConceptEntry, LayeredEmbedding, Word
    from mos_pack.mixofshow_core.formats.native import write_concept

    texts = description.split()
    words = tuple(Word(f"<{name}{n}>", text) for n, text in enumerate(texts, 1))
    embeddings = tuple(LayeredEmbedding({"clip_l": vector}, (0,) * LAYERS) for vector in known_vectors(host, texts))
    entry = ConceptEntry(name, name, "", "object", words, embeddings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_concept(path, Concept((entry,), {}, BaseInfo("sd-128-v", None, LAYERS)))
