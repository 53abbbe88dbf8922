"""Writing one concept in any dialect: a table of formats, what each cannot hold, and what was written.

Formats that need a whole model (diffusers pipeline, single-file checkpoint) are written by the bridge, which has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..concept import CONTEXT, Concept, ConceptEntry, ConceptUse
from ..delta import Delta, Dense, LowRank, share_of
from ..errors import MixOfShowError
from ..families.family import UNetLayout
from ..families.known import CLIP_G, CLIP_L, ENCODERS, find_family
from ..families.names import NameTable
from ..families.nets import reads_text
from .absolute import BaseWeights, custom_diffusion_tree
from .community import community_metadata
from .compress import Compressed, compress_by_share, compress_to_size, size_steps
from .dialect import layout_of
from .edlora import edlora_tree, flatten
from .lora import diffusers_tensors, kohya_tensors, stock_tensors, write_peft
from .native import check_finite, save_safetensors, write_concept
from .pickled import save_pickled
from .textual_inversion import embedding_file

MAX_TEXT_LAYERS = 64
WHOLE_FORMATS = ("diffusers-pipeline", "checkpoint")  # written by the bridge


@dataclass(frozen=True)
class Exported:
    """Files that were written (the first is the main one, unless they form a `folder`), and what was lost."""

    paths: tuple[Path, ...]
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def main(self) -> Path:
        return self.folder or self.paths[0]

    def report(self) -> str:
        megabytes = sum(path.stat().st_size for path in self.paths) / 1e6
        lines = [f"wrote {self.main} ({len(self.paths)} files, {megabytes:.2f} MB)"]
        return "\n".join([*lines, *(f"not in this format: {text}" for text in self.lost), *self.notes])


@dataclass(frozen=True)
class ExportJob:
    """One export: the concept with its final deltas, names for its net, the target without suffix, and the base."""

    concept: Concept
    names: NameTable
    target: Path
    base: BaseWeights | None


@dataclass(frozen=True)
class Format:
    """A dialect we write. ``low_rank``: full-rank changes must be compressed first."""

    title: str
    write: Callable[[ExportJob], Exported]
    low_rank: bool = False
    needs_base: bool = False


def export(
    concept: Concept,
    kind: str,
    target: Path,
    size: str = "auto",
    strength: float = 1.0,
    base: BaseWeights | None = None,
    layout: UNetLayout | None = None,
    text_strength: float | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write `concept` as `kind` at `target` (a path without suffix; the format adds its own).

    `strength` is folded into the weights, `text_strength` into those of the text encoders where it is another one;
    `layout` (from a live model) wins over what the concept's names imply. `step(done, total)`: once per layer.
    Raises MixOfShowError for an unknown format, a missing base, and for what a format cannot hold at all.
    """
    chosen = FORMATS.get(kind)
    if chosen is None:
        raise MixOfShowError(f"Format {kind!r} is unknown; use one of {', '.join(FORMATS)}.")
    if chosen.needs_base and base is None:
        raise MixOfShowError(f"Format {kind!r} holds whole weights: connect MODEL as the base, or give --base.")
    deltas, notes, lost = concept.deltas, [], []
    if chosen.low_rank and (single := [name for name, delta in deltas.items() if len(delta.shape) == 1]):
        lost.append(f"changes of {len(single)} norms and biases, {share_of(deltas, single):.1%} of the concept's norm")
        deltas = {name: delta for name, delta in deltas.items() if name not in set(single)}
    use = ConceptUse(concept, strength, text_strength=text_strength)
    deltas = {
        name: delta if use.strength_at(name) == 1.0 else delta.scaled(use.strength_at(name))
        for name, delta in deltas.items()
    }
    if kind == "custom-diffusion-compressed":
        kept = {name: d for name, d in deltas.items() if reads_text(name)}
        small = (
            compress_by_share(kept) if size == "auto" else compress_to_size(kept, size, low_rank_only=True, step=step)
        )
        small = replace(small, deltas={**deltas, **small.deltas})
        notes += _steps(kept)
    else:
        small = compress_to_size(deltas, size, low_rank_only=chosen.low_rank, step=step)
    final = replace(concept, deltas=small.deltas)
    check_finite(stock_tensors(final), concept.name or "this LoRA")
    names = NameTable(layout or layout_of(concept), _text_layers(concept))
    done = chosen.write(ExportJob(final, names, Path(target), base))
    return replace(done, lost=(*lost, *done.lost), notes=(*done.notes, *_notes(small, use), *notes))


def _steps(deltas: Mapping[str, Delta]) -> list[str]:
    steps = ", ".join(f"rank {rank} {size:.2f} MB {error:.1%}" for rank, size, error in size_steps(deltas))
    return [f"other sizes (fp32, with their error): {steps}"] if deltas else []


def _notes(small: Compressed, use: ConceptUse) -> list[str]:
    notes = [f"weights: {small.megabytes:.2f} MB, relative error of the weights {small.error:.2%}"]
    if use.strength == use.strength_of_text == 1.0:
        return notes
    text = "" if use.text_strength is None else f" (text encoders {use.text_strength:g})"
    return [*notes, f"strength {use.strength:g}{text} is folded into the weights"]


def _text_layers(concept: Concept) -> Mapping[str, int]:
    """Names for any depth that a text encoder may have. kohya's and diffusers' names depend on there being a second."""
    family = find_family(concept.base.family)
    two = any(f".{CLIP_G.name}." in name for name in concept.deltas) or (family and CLIP_G in family.encoders)
    return dict.fromkeys(ENCODERS if two else [CLIP_L.name], MAX_TEXT_LAYERS)


def in_context(entry: ConceptEntry) -> bool:
    """Whether the words are rows of an encoded text, which no embedding file can hold."""
    return any(CONTEXT in embedding.rows for embedding in entry.embeddings)


def _lost_words(concept: Concept) -> tuple[str, ...]:
    words = [word.text for entry in concept.entries for word in entry.words]
    return (f"the concept words {', '.join(words)} and their embeddings",) if words else ()


def _lost_layers(concept: Concept) -> tuple[str, ...]:
    layered = [
        word.text
        for entry in concept.entries
        for word, embedding in zip(entry.words, entry.embeddings, strict=True)
        if embedding.layers > 1 and CONTEXT not in embedding.rows
    ]
    if any(map(in_context, concept.entries)):
        return _lost_words(concept)  # no program but ours puts rows into an encoded text
    return (f"the layers of {', '.join(layered)}: one mean row per word is kept",) if layered else ()


def _metadata(concept: Concept) -> dict[str, str]:
    return {"format": "pt", **community_metadata(concept)}


def _write_native(job: ExportJob) -> Exported:
    path = job.target.with_name(f"{job.target.name}.safetensors")
    write_concept(path, job.concept)
    return Exported((path,))


def _write_stock(job: ExportJob) -> Exported:
    path = job.target.with_name(f"{job.target.name}.safetensors")
    save_safetensors(path, stock_tensors(job.concept), _metadata(job.concept))
    written = _write_embeddings(job)
    notes = tuple(f"put {p.name} into models/embeddings and write embedding:{p.stem}" for p in written)
    return Exported((path, *written), _lost_layers(job.concept), notes)


def _write_embeddings(job: ExportJob) -> tuple[Path, ...]:
    written = []
    single = len(job.concept.entries) == 1
    for entry in job.concept.entries:
        if entry.embeddings and not in_context(entry):
            name = job.target.name if single else f"{job.target.name}-{entry.name}"
            path = job.target.with_name(f"{name}-embedding.safetensors")
            save_safetensors(path, embedding_file(entry), {"modelspec.title": entry.name, "format": "pt"})
            written.append(path)
    return tuple(written)


def _write_inversion(job: ExportJob) -> Exported:
    written = _write_embeddings(job)
    if not written:
        why = "no concept words"
        if any(map(in_context, job.concept.entries)):
            why = "words that are rows of an encoded text, not of what an encoder reads"
        raise MixOfShowError(f"{job.concept.name or 'This LoRA'} has {why}; there is no embedding to write.")
    lost = (f"the changes of {len(job.concept.deltas)} layers",) if job.concept.deltas else ()
    return Exported(written, (*lost, *_lost_layers(job.concept)))


def _write_kohya(job: ExportJob) -> Exported:
    path = job.target.with_name(f"{job.target.name}.safetensors")
    save_safetensors(path, kohya_tensors(job.concept, job.names), _metadata(job.concept))
    dense = sum(isinstance(delta, Dense) for delta in job.concept.deltas.values())
    notes = [f"{dense} layers are plain differences (.diff), which ComfyUI reads and few others"] if dense else []
    if len({d.alpha or d.rank for d in job.concept.deltas.values() if isinstance(d, LowRank)}) > 1:
        notes.append("alpha differs between layers, which diffusers (0.42) ignores in such files: use format diffusers")
    return Exported((path,), _lost_words(job.concept), tuple(notes))


def _write_diffusers(job: ExportJob) -> Exported:
    path = job.target.with_name(f"{job.target.name}.safetensors")
    save_safetensors(path, diffusers_tensors(job.concept, job.names), _metadata(job.concept))
    return Exported((path,), _lost_words(job.concept))


def _write_peft(job: ExportJob) -> Exported:
    return Exported(tuple(write_peft(job.target, job.concept, job.names)), _lost_words(job.concept), folder=job.target)


def _edlora(job: ExportJob) -> tuple[dict, tuple[str, ...]]:
    lost = ["alpha (folded into lora_up)", "plain name, class, kind, base and training settings"]
    return edlora_tree(job.concept, job.names, where=job.concept.name or "this LoRA"), tuple(lost)


def _write_edlora(job: ExportJob) -> Exported:
    path, (tree, lost) = job.target.with_name(f"{job.target.name}.safetensors"), _edlora(job)
    save_safetensors(path, flatten(tree), _metadata(job.concept))
    return Exported((path,), lost)


def _write_edlora_pth(job: ExportJob) -> Exported:
    path, (tree, lost) = job.target.with_name(f"{job.target.name}.pth"), _edlora(job)
    save_pickled(path, {"params": tree})
    return Exported((path,), lost)


def _write_custom_diffusion(job: ExportJob) -> Exported:
    path = job.target.with_name(f"{job.target.name}.bin")
    tree, lost = custom_diffusion_tree(job.concept.deltas, job.concept, job.names, job.base)
    save_pickled(path, tree)
    return Exported((path,), tuple(lost))


def _write_compressed(job: ExportJob) -> Exported:
    return _write_custom_diffusion(replace(job, base=None))


FORMATS: dict[str, Format] = {
    "concept": Format("Mix-of-Show concept (ours, complete)", _write_native),
    "stock": Format("LoRA with ComfyUI's keys, and one embedding file per concept", _write_stock),
    "kohya": Format("LoRA with kohya's keys", _write_kohya),
    "diffusers": Format("LoRA for diffusers' load_lora_weights", _write_diffusers, low_rank=True),
    "peft": Format("PEFT adapter folders", _write_peft, low_rank=True),
    "embedding": Format("textual inversion only", _write_inversion),
    "ed-lora": Format("Mix-of-Show's ED-LoRA as safetensors", _write_edlora, low_rank=True),
    "ed-lora-pth": Format("Mix-of-Show's ED-LoRA as .pth of plain tensors", _write_edlora_pth, low_rank=True),
    "custom-diffusion": Format("Custom Diffusion (whole keys and values)", _write_custom_diffusion, needs_base=True),
    "custom-diffusion-compressed": Format("Custom Diffusion, compressed", _write_compressed),
}
