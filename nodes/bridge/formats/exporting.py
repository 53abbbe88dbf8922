"""Exports that need the live base: whole models with concepts merged in, and the base's weights by layer name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import comfy.model_sampling
import comfy.sd
import comfy.sd1_clip

from ....mixofshow_core.atomic import replacing
from ....mixofshow_core.bounds import meaning
from ....mixofshow_core.concept import Concept
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.family import UNET
from ....mixofshow_core.families.layers import UNET_PREFIX
from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.families.unet import unet_layout
from ....mixofshow_core.fitting import title_of
from ....mixofshow_core.formats.community import community_metadata
from ....mixofshow_core.formats.export import FORMATS, WHOLE_FORMATS, Exported, export
from ....mixofshow_core.formats.native import write_concept
from ....mixofshow_core.formats.pipeline import Whole, concept_tokens, vocabulary, write_pipeline
from ..host.applied import check_unapplied
from ..host.files import concept_folder, safe_name
from ..host.fitting import check_fit
from ..host.model import apply_deltas, effective, family, key_patches, net_of, prediction_class, text_models_of
from ..host.progress import Steps
from ..host.show import show_progress
from .live import LiveWeights

EXPORT_FORMATS = (*FORMATS, *WHOLE_FORMATS)
LORA_FORMATS = ("concept", "stock", "kohya", "diffusers")  # found by Load LoRA, so they go to its folder
TOKENIZER_FILES = ("merges.txt", "special_tokens_map.json", "vocab.json")


def export_concept(use, kind: str, size: str, save_as: str, model=None, clip=None, vae=None) -> Exported:
    """Write one ConceptUse as `kind`, at a name that is still free; MODEL, CLIP and VAE where the format needs them."""
    if model is not None:
        check_fit(model, clip, [use])
        check_unapplied(model, clip, [use], "Export")
    if model is not None and kind in WHOLE_FORMATS and kind_of(net_of(model)).name != UNET:
        raise MixOfShowError(
            f"Export writes {kind} for UNets only; MODEL is {title_of(family(model))}. Write kohya, which "
            "the stock loader reads."
        )
    target = free_target(kind, save_as or use.concept.name or "concept")
    show_progress(f"writing {target.name} as {kind}")
    if kind in WHOLE_FORMATS:
        return export_whole(kind, target, use, model, clip, vae)
    base = LiveWeights(model, clip) if model is not None else None
    is_unet = model is not None and kind_of(net_of(model)).name == UNET
    layout = unet_layout(net_of(model)) if is_unet else None
    step = Steps("layers made smaller")
    return export(use.concept, kind, target, size, use.strength, base, layout, use.text_strength, step)


def free_target(kind: str, name: str) -> Path:
    """A path without suffix in the format's folder; nothing there has that name, with any suffix."""
    folder = concept_folder("loras" if kind in LORA_FORMATS else "output")
    folder.mkdir(parents=True, exist_ok=True)
    stem, count = safe_name(name), 1
    taken = {path.name.split(".")[0] for path in folder.iterdir()}
    target = stem
    while target in taken or f"{target}-embedding" in taken:
        count += 1
        target = f"{stem}-{count}"
    return folder / target


def export_whole(kind: str, target: Path, use, model, clip, vae) -> Exported:
    """Write base plus concept as a diffusers folder or a checkpoint at `target` (a path without suffix)."""
    if model is None or clip is None:
        raise MixOfShowError(f"Format {kind!r} writes a whole model: connect the base's MODEL and CLIP (and VAE).")
    merged_model, merged_clip = apply_deltas(model, clip, use.concept.deltas, use.strength, use.strength_of_text)
    if meaning("The format of a whole model", kind, {"checkpoint": True, "diffusers-pipeline": False}):
        show_progress(f"merging {len(use.concept.deltas)} layers and writing {target.name}.safetensors")
        return _write_checkpoint(target, use.concept, merged_model, merged_clip, vae)
    show_progress(f"writing the folder {target.name}")
    whole = _whole(merged_model, merged_clip, vae, Steps("weights merged"))
    lost = write_pipeline(target, whole, use.concept.entries)
    _write_tokenizers(target, whole, use.concept)
    paths = [path for path in sorted(target.rglob("*")) if path.is_file()]
    notes = ("each concept word stands for one token per cross-attention layer: see new_concept_cfg.json",)
    return Exported(tuple(paths), tuple(lost), notes if use.concept.entries else (), target)


def _whole(model, clip, vae, step: Callable[[int, int], None]) -> Whole:
    encoders = text_models_of(clip)
    parts = {UNET_PREFIX: key_patches(model, UNET_PREFIX)}
    parts |= {f"{encoder}.": key_patches(clip.patcher, f"{encoder}.") for encoder in encoders}
    total, states = sum(len(entries) for entries in parts.values()), {}
    for prefix, entries in parts.items():
        states[prefix] = {}
        for key, entry in entries.items():
            states[prefix][key.removeprefix(prefix)] = effective(entry, key).to(entry[0][0].dtype)
            step(sum(len(state) for state in states.values()), total)
    texts = {encoder: (module, states[f"{encoder}."]) for encoder, module in encoders.items()}
    autoencoder = None if vae is None else vae.get_sd()
    if autoencoder is not None and "encoder.down.0.block.0.conv1.weight" not in autoencoder:
        autoencoder = None
    predicts = "v_prediction" if prediction_class(model) is comfy.model_sampling.V_PREDICTION else "epsilon"
    scale = getattr(model.model.latent_format, "scale_factor", 1.0)
    return Whole(net_of(model), states[UNET_PREFIX], texts, autoencoder, predicts, scale)


def _write_tokenizers(folder: Path, whole: Whole, concept: Concept) -> None:
    """The host's own CLIP vocabulary, with one added token per word and layer."""
    source = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
    table = concept_tokens(concept.entries, vocabulary(whole))
    tokens = {
        text: number
        for row in table.values()
        for text, number in zip(row["concept_token_names"], row["concept_token_ids"], strict=True)
    }
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {
        "model_max_length": 77,
        "added_tokens_decoder": {
            str(number): {
                "content": text,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
                "special": False,
            }
            for text, number in tokens.items()
        },
    }
    for encoder in whole.texts:
        target = folder / ("tokenizer_2" if encoder == "clip_g" else "tokenizer")
        target.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            shutil.copyfile(source / name, target / name)
        (target / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        (target / "added_tokens.json").write_text(json.dumps(tokens), encoding="utf-8")


def _write_checkpoint(target: Path, concept: Concept, model, clip, vae) -> Exported:
    path = target.with_name(f"{target.name}.safetensors")
    try:
        with replacing(path) as part:
            comfy.sd.save_checkpoint(str(part), model, clip, vae, metadata=community_metadata(concept))
    except OSError as error:
        raise MixOfShowError(f"Could not write {path}: {error}. Free some space and try again.") from error
    if not any(entry.words for entry in concept.entries):
        return Exported((path,))
    words = target.with_name(f"{target.name}-words.safetensors")
    write_concept(words, replace(concept, deltas={}))
    return Exported((path, words), (), (f"a checkpoint knows no concept words: load {words.name} with Load Concept",))
