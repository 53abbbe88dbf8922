"""Everything that can be wrong between MODEL, CLIP and concepts, before any work: asked by every node that takes them.

Load Concept and Cast (with a base), Fuse, Place, Compare, Export, Train and cli.py call `check_fit` or `check_pair`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from ....mixofshow_core.concept import CONTEXT, ConceptUse
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.known import family_of_width
from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.fitting import check_base, check_list, place_of, title_of
from ....mixofshow_core.training.settings import TrainSettings
from .model import check_layers, context_width, describe_base, family, net_of

log = logging.getLogger("mixofshow")


def check_fit(model, clip, uses: Sequence[ConceptUse]) -> list[str]:
    """The list, the pair, the family and every layer's shape; CLIP may be None. Lines on what is fine but worth one."""
    check_list(uses)
    check_pair(model, clip)
    notes = check_base(describe_base(model), uses)
    for note in notes:
        log.info(note)
    for use in uses:
        check_words(model, use)
        try:
            check_layers(model, clip, use.concept.deltas)
        except MixOfShowError as error:
            raise MixOfShowError(
                f"{place_of(use)} does not fit MODEL{'' if clip is None else ' and CLIP'}: {error} Connect the base it "
                "was made for, or another of that kind."
            ) from error
    return notes


def check_words(model, use: ConceptUse) -> None:
    """Refuse words that are rows of an encoded text where the net does not read that text as it was written."""
    embeddings = [embedding for entry in use.concept.entries for embedding in entry.embeddings]
    kind = kind_of(net_of(model))
    if any(CONTEXT in embedding.rows for embedding in embeddings) and not (
        kind.words_in_context and kind.reads_words(net_of(model))
    ):
        raise MixOfShowError(
            f"{place_of(use)} has learned words as rows of an encoded text, and MODEL ({title_of(family(model))}) "
            "reads no such rows: Anima's adapter writes texts anew while sampling. Connect the Cosmos-Predict2 that "
            "it was trained on, or train it for this MODEL with the preset LoRA."
        )


def check_pair(model, clip) -> None:
    """Refuse a CLIP whose texts are not as wide as MODEL's cross-attention reads them."""
    reads = context_width(model)
    writes = None if clip is None else text_width(clip)
    if reads and writes and reads != writes:
        other = family_of_width(writes)
        whose = f" ({other.title})" if other else ""
        raise MixOfShowError(
            f"MODEL is {title_of(family(model))} and reads texts {reads} wide, but CLIP writes them {writes} wide"
            f"{whose}. Connect the CLIP that comes from the same loader as MODEL."
        )


def check_trainable(model, vae, settings: TrainSettings) -> None:
    """Refuse a net that Train does not know or that wants more than a noisy latent, and what it cannot learn."""
    kind, title = kind_of(net_of(model)), title_of(family(model))
    if not kind.predictions:
        raise MixOfShowError(
            f"MODEL is {title}; Train is for SD1.5, SDXL and their kind, Anima and Cosmos-Predict2. A LoRA that "
            "another program trained for it can be loaded (Load Concept, Cast) and fused."
        )
    if settings.trains_embeddings and not kind.reads_words(net_of(model)):
        raise MixOfShowError(
            f"Preset {settings.method} learns words, which Train cannot do for this MODEL ({title}): its text encoders "
            "are left as they are, and what they write is written anew while sampling (Anima's adapter). Choose the "
            "preset LoRA or DreamBooth; the concept's name and class are its words then."
        )
    if settings.trains_embeddings and not kind.trains_text and (settings.attention_weight or settings.detach_bos):
        what = "attention_weight" if settings.attention_weight else "detach_bos"
        raise MixOfShowError(
            f"Preset {settings.method} sets {what}, which Train does on UNets alone; MODEL is {title}. Choose the "
            f"preset ED-LoRA, or switch {what} off in Train Settings."
        )
    takes, latent = model.model.model_config.unet_config.get("in_channels"), model.model.latent_format.latent_channels
    made = getattr(vae, "latent_channels", latent)
    if made != latent:
        raise MixOfShowError(
            f"VAE makes latents of {made} channels, and MODEL ({title}) reads {latent}. Connect the VAE of that family."
        )
    if takes and takes != latent:
        raise MixOfShowError(
            f"MODEL takes {takes} input channels where its latents have {latent} (an inpainting or editing "
            "checkpoint); Train has pictures only. Train on the ordinary checkpoint of its kind: the concept fits both."
        )


def text_width(clip) -> int | None:
    """Width of a CLIP's texts, all its encoders side by side; None where they cannot be told."""
    encoders = [module for module in clip.cond_stage_model.children() if hasattr(module, "transformer")]
    tables = [_table(module.transformer) for module in encoders]
    return sum(table.weight.shape[1] for table in tables) if tables and all(tables) else None


def _table(transformer: nn.Module) -> nn.Module | None:
    table = transformer.get_input_embeddings() if hasattr(transformer, "get_input_embeddings") else None
    return table if hasattr(table, "weight") else None
