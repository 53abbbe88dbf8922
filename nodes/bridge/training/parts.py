"""What a run trains, built for one base: which layers, how large, and where the words start."""

from __future__ import annotations

import math

from torch import nn

from ....mixofshow_core.concept import CONTEXT
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import ROLE_CROSS_KV, TEXT_PREFIX, UNET_PREFIX
from ....mixofshow_core.families.nets import cross_attention_layers, has_places, kind_of, layer_groups, role_of
from ....mixofshow_core.families.text import text_blocks
from ....mixofshow_core.training.adapters import Trainables, WordEmbeddings, seeded, start_vectors
from ....mixofshow_core.training.settings import TrainSettings
from ..host import model as bridge_model
from .denoiser import class_vector, context_vector, reachable_text_groups, vocabulary_norm
from .request import TrainRequest

# Words that CLIP's vocabulary holds and its training pictures hardly had; Custom Diffusion's choice.
RARE_WORDS = ("ktn", "pll", "ucd")


def unet_layer_names(unet: nn.Module, coverage: str) -> list[str]:
    """Names of the UNet layers that ``unet_layers`` stands for, in execution order where there is one.

    Norms and biases never change: a concept file holds weights of linears and convolutions.
    """
    attention = [name for group in layer_groups(unet) for name in group.members]
    if coverage == "cross_kv":
        return [name for name in attention if role_of(name) == ROLE_CROSS_KV]
    if coverage == "cross_attention":
        crossing = tuple(f"{UNET_PREFIX}{layer.path}." for layer in cross_attention_layers(unet))
        return [name for name in attention if name.startswith(crossing)]
    if coverage == "attention":
        return attention
    modules = (
        (UNET_PREFIX + path, module)
        for path, module in unet.named_modules()
        if bridge_model.is_linear(module) or isinstance(module, nn.Conv2d)
    )
    if coverage == "everything":
        return [name for name, _ in modules]
    if coverage != "transformer":
        raise MixOfShowError(f"Training setting unet_layers is {coverage!r}, which no layers are known for.")
    return [name for name, _ in modules if has_places(name)]


def trained_modules(model, clip) -> dict[str, nn.Module]:
    """Every module that an adapter can be hooked onto, by layer name."""
    convolutions = {
        UNET_PREFIX + path: module
        for path, module in bridge_model.net_of(model).named_modules()
        if isinstance(module, nn.Conv2d)
    }
    return convolutions | bridge_model.named_linears(model, clip)


def text_layer_names(request: TrainRequest) -> list[str]:
    """Attention linears of the text encoders whose output is used; their feed-forward layers too where asked for."""
    names = []
    encoders = bridge_model.text_models_of(request.clip)
    for encoder, module in encoders.items():
        pooled = request.model.model.adm_channels > 0 and encoder == list(encoders)[-1]
        chosen = [name for group in reachable_text_groups(module, encoder, pooled) for name in group.members]
        names += chosen
        if request.settings.unet_layers in ("transformer", "everything"):
            for path, _ in text_blocks(module):
                block = f"{TEXT_PREFIX}{encoder}.{path}."
                if any(name.startswith(block) for name in chosen):
                    names += [f"{block}mlp.fc1", f"{block}mlp.fc2"]
    return names


def changed_layers(request: TrainRequest) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, int]]]:
    """Layers that change as whole weights, with their shapes, and those that get LoRA, as (out, in)."""
    settings = request.settings
    unet = bridge_model.net_of(request.model)
    modules = trained_modules(request.model, request.clip)
    names = unet_layer_names(unet, settings.unet_layers) if settings.unet_lora else []
    full = {name: tuple(modules[name].weight.shape) for name in names} if settings.full_weights else {}
    names = ([] if full else names) + (text_layer_names(request) if settings.text_lora else [])
    return full, {name: tuple(modules[name].weight.shape[:2]) for name in names}


def in_context(request: TrainRequest) -> bool:
    """Whether the words are rows of the encoded text, not of what an encoder reads."""
    return not kind_of(bridge_model.net_of(request.model)).trains_text


def word_widths(request: TrainRequest) -> dict[str, int]:
    """Values of one row of a learned word, by text encoder or CONTEXT."""
    if in_context(request):
        return {CONTEXT: bridge_model.context_width(request.model)}
    return {
        encoder: module.transformer.get_input_embeddings().weight.shape[1]
        for encoder, module in bridge_model.text_models_of(request.clip).items()
    }


def count_trained(request: TrainRequest) -> int:
    """How many numbers a run trains, without making them."""
    full, low = changed_layers(request)
    settings, count = request.settings, 0
    if settings.trains_embeddings:
        count = len(request.plans) * settings.words * (max(request.index) + 1) * sum(word_widths(request).values())
    count += sum(math.prod(shape) for shape in full.values())
    return count + sum(min(settings.rank, *shape) * sum(shape) for shape in low.values())


def make_trainables(request: TrainRequest) -> Trainables:
    """Fresh adapters and words, on the CPU; the same for the same seed, whatever the device."""
    settings, trainables = request.settings, Trainables()
    full, low = changed_layers(request)
    trainables.add_full_weights(full)
    trainables.add_adapters(low, settings.rank, settings.scale, settings.dropout, request.seed)
    for adapter in trainables.cross_kv():
        adapter.detach_bos = settings.detach_bos
    if settings.trains_embeddings:
        add_words(request, trainables, settings)
    return trainables


def add_words(request: TrainRequest, trainables: Trainables, settings: TrainSettings) -> None:
    """The learned words of every concept, started as ``word_start`` says."""
    vector = context_vector if in_context(request) else class_vector
    for number, plan in enumerate(request.plans):
        starts = {}
        for encoder in word_widths(request):
            noun = vector(request.clip, encoder, plan.class_word)
            norm = vocabulary_norm(request.clip, encoder, vector)
            generator = seeded(request.seed, f"{plan.name}.{encoder}.words")
            chosen = RARE_WORDS[number * settings.words : (number + 1) * settings.words]
            rare = [vector(request.clip, encoder, word) for word in chosen if settings.word_start == "rare"]
            starts[encoder] = start_vectors(noun, settings.words, norm, generator, settings.word_start, rare)
        trainables.add_words(WordEmbeddings(plan.name, starts, max(request.index) + 1, request.seed))
