"""Collect a concept's statistics by running it: its text through CLIP, its pictures through the host's sampler.

All inputs come from the concept's own complete model (mode `own`, design decision 7), so statistics of different
concepts can be added, cached and exchanged. Source of the stages: Mix-of-Show, arXiv 2305.18292, section 4.2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import torch
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.layers import (
    ROLE_CROSS_KV,
    ROLE_SPATIAL,
    ROLE_TEXT,
    TEXT_PREFIX,
    UNET_PREFIX,
    LayerGroup,
)
from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.fusion.capture import Capture, text_weights
from ....mixofshow_core.fusion.plan import CalibrationPlan
from ....mixofshow_core.fusion.statistics import Gram, GramAccumulator
from ..host.layered import with_layers
from ..host.model import cell_of, foreign_patches, named_linears, net_of, text_dtype, text_models_of
from ..host.text import CONCEPT, EOS_PAD, TEXT, LayeredText, encode_layered, token_kinds

WRAPPER_KEY = "mixofshow_calibration"
TEXTS, PICTURES = "texts", "pictures"  # sorts of work, as the node names them


def collect(
    model,
    clip,
    groups: Sequence[LayerGroup],
    prompts: Sequence[str],
    pictures: Sequence[str],
    plan: CalibrationPlan,
    tick: Callable[[str], None] = lambda sort: None,
) -> dict[str, Gram]:
    """Grams of `groups` for one complete model. `tick` is called with TEXTS per prompt, PICTURES per step.

    prompts feed the text encoder and K, V; pictures (prompts too) are sampled for the spatial layers.
    """
    grams = collect_text(model, clip, groups, prompts, tick)
    if any(group.role == ROLE_SPATIAL for group in groups) and pictures:
        grams.update(collect_spatial(model, clip, groups, pictures, plan, tick))
    return grams


def collect_text(
    model, clip, groups: Sequence[LayerGroup], prompts: Sequence[str], tick: Callable[[str], None]
) -> dict[str, Gram]:
    """Grams of text-encoder groups (hidden states, all layer variants) and of K, V groups (each layer's contexts)."""
    net = net_of(model)
    kind = kind_of(net)
    layers = kind.cross_attention(net)
    encoders = tuple(text_models_of(clip))
    captures = {encoder: Capture(_names(groups, ROLE_TEXT, f"{TEXT_PREFIX}{encoder}.")) for encoder in encoders}
    modules = _group_modules(named_linears(None, clip), groups)
    names = {f"{UNET_PREFIX}{layer.path}": layer.index for layer in layers}
    kv = {group.name: names[group.members[0].rpartition(".")[0]] for group in groups if group.role == ROLE_CROSS_KV}
    contexts = _Contexts(set(kv.values()))
    for prompt in prompts:
        weights = {
            encoder: text_weights(kinds, TEXT, CONCEPT, EOS_PAD) for encoder, kinds in token_kinds(clip, prompt).items()
        }
        for encoder, capture in captures.items():
            capture.weights = weights[encoder]
        text = _encode_watched(clip, prompt, len(layers), captures, modules)
        if kv and kind.rewrites_text:
            text = _as_read(model, text)
            contexts.add(text, text.context[0].any(-1).float())  # the net fills up with zeros
        elif kv:
            contexts.add(text, weights[encoders[0]].flatten())
        tick(TEXTS)
    grams = {name: gram for capture in captures.values() for name, gram in capture.finish().items()}
    return grams | contexts.finish(kv)


def _encode_watched(clip, prompt: str, layers: int, captures: dict[str, Capture], modules) -> LayeredText:
    with ExitStack() as stack:
        for capture in captures.values():
            stack.enter_context(capture.watching(modules))
        return encode_layered(clip, prompt, layers)


def _as_read(model, text: LayeredText) -> LayeredText:
    """The text as cross-attention reads it, written by the net's own adapter with MODEL's patches on it."""
    comfy.model_management.load_models_gpu([model])
    net, dtype = net_of(model), text_dtype(model.model)

    def read(part: Tensor | None) -> Tensor | None:
        return part if part is None else kind_of(net).read_text(net, part.to(model.load_device, dtype), text.extras)

    return replace(text, context=read(text.context), layers=read(text.layers))


class _Contexts:
    """K, V read the context itself, so no forward pass is needed; without layered words all layers share one Gram."""

    def __init__(self, layers: Iterable[int]) -> None:
        self._layers = tuple(layers)
        self._sums: dict[int | None, GramAccumulator] = {None: GramAccumulator()}  # None: all layers alike so far

    def add(self, text: LayeredText, weights: Tensor) -> None:
        """One prompt's rows; nothing of it is kept but the sums."""
        if text.layers is not None and None in self._sums:
            self._sums = {layer: copy.deepcopy(self._sums[None]) for layer in self._layers}
        for layer, accumulator in self._sums.items():
            accumulator.add(text.context[0] if text.layers is None else text.layers[layer], weights)

    def finish(self, kv: dict[str, int]) -> dict[str, Gram]:
        """Grams by the names of `kv`, whose values are layers."""
        grams = {layer: accumulator.finish() for layer, accumulator in self._sums.items()}
        return {name: grams[layer if layer in grams else None] for name, layer in kv.items()}


def collect_spatial(
    model,
    clip,
    groups: Sequence[LayerGroup],
    pictures: Sequence[str],
    plan: CalibrationPlan,
    tick: Callable[[str], None],
) -> dict[str, Gram]:
    """Sample `pictures` with the host's sampler and watch what the spatial layers read at conditional rows.

    Picture k starts from noise seeded with plan.seed + k, drawn on the CPU. plan.width and height are in pixels. On a
    GPU the memory of the sums is taken before the host loads MODEL there, so that it leaves room for them.
    """
    net = net_of(model)
    layers = kind_of(net).cross_attention(net)
    capture = Capture(_names(groups, ROLE_SPATIAL, UNET_PREFIX))
    if model.load_device.type != "cpu":
        modules = _group_modules(named_linears(model, None), groups)
        capture.reserve({name: modules[name].weight.shape[1] for name in capture.accumulators}, model.load_device)
    negative = encode_layered(clip, "", len(layers))
    cell = cell_of(model)
    empty = torch.zeros(1, 4, plan.height // cell, plan.width // cell)
    texts = [encode_layered(clip, prompt, len(layers)) for prompt in pictures]  # before CLIP has to make room
    for number, text in enumerate(texts):
        watched = _watched_clone(model, capture, groups, text.layers, layers)
        latent = comfy.sample.fix_empty_latent_channels(watched, empty)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(plan.seed + number))
        with blaming(model):
            comfy.sample.sample(
                watched,
                noise,
                plan.steps,
                plan.cfg,
                plan.sampler,
                plan.scheduler,
                [[text.context, dict(text.extras)]],
                [[negative.context, dict(negative.extras)]],
                latent,
                callback=lambda *_: tick(PICTURES),
                disable_pbar=True,
                seed=plan.seed + number,
            )
    return capture.finish()


@contextmanager
def blaming(model) -> Iterator[None]:
    """An error in sampling names the patches that other nodes put on MODEL, if there are any."""
    try:
        yield
    except comfy.model_management.OOM_EXCEPTION:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        if not (others := foreign_patches(model)):
            raise
        raise MixOfShowError(
            f"Calibration cannot sample with what other nodes put on MODEL: {', '.join(others)} ({str(error)[:200]}). "
            "Put those nodes behind Fuse."
        ) from error


def _watched_clone(model, capture: Capture, groups: Sequence[LayerGroup], contexts: Tensor | None, layers):
    """A clone of MODEL whose sampling feeds `capture`, with the concept's own context in every cross-attention."""
    clone = model.clone()
    extension = comfy.patcher_extension.WrappersMP

    def check_rows(n, context, value, options):
        # Last of all attn2 patches but ours: what another node repeated would be weighed as something else.
        if capture.weights is not None and n.shape[0] != len(capture.weights):
            raise MixOfShowError(
                f"Another node turns the {len(capture.weights)} rows of MODEL's cross-attention into {n.shape[0]} "
                f"(attention couple?): {', '.join(foreign_patches(model))}. Put that node behind Fuse."
            )
        return n, context, value

    def outer_sample(executor, *args, **kwargs):
        # The module that really runs is known only here (the host may swap the patcher's delegate before sampling).
        modules = _group_modules(named_linears(executor.class_obj.model_patcher, None), groups)
        with capture.watching(modules):
            return executor(*args, **kwargs)

    def apply_model(executor, x, timesteps, concat, context, control, options, **kwargs):
        halves = options["cond_or_uncond"]
        flags = torch.tensor([1.0 if half == 0 else 0.0 for half in halves])
        capture.weights = flags.repeat_interleave(x.shape[0] // len(halves))
        try:
            return executor(x, timesteps, concat, context, control, options, **kwargs)
        finally:
            capture.weights = None

    clone.add_wrapper_with_key(extension.OUTER_SAMPLE, WRAPPER_KEY, outer_sample)
    clone.add_wrapper_with_key(extension.APPLY_MODEL, WRAPPER_KEY, apply_model)
    if all(layer.address for layer in layers):
        clone.set_model_attn2_patch(check_rows)
    if contexts is not None and not all(layer.address for layer in layers):
        return with_layers(clone, contexts)
    if contexts is not None:
        index = {layer.address: layer.index for layer in layers}

        def layer_context(n, context, value, options):
            return n, *[
                _with_layer(part, contexts[index[(*options["block"], options["block_index"])]], options)
                for part in (context, value)
            ]

        clone.set_model_attn2_patch(layer_context)
    return clone


def _with_layer(context: Tensor | None, layer: Tensor, options: dict) -> Tensor | None:
    """context [B, T, C] with the conditional rows replaced by `layer` [t, C], repeated to T as the host pads."""
    if context is None:
        return None
    halves = options["cond_or_uncond"]
    size = context.shape[0] // len(halves)
    layer = layer.to(context).repeat(context.shape[1] // layer.shape[0], 1)
    parts = [
        layer.expand(size, -1, -1) if half == 0 else part
        for half, part in zip(halves, context.split(size), strict=True)
    ]
    return torch.cat(parts)


def _names(groups: Iterable[LayerGroup], role: str, prefix: str) -> list[str]:
    return [group.name for group in groups if group.role == role and group.members[0].startswith(prefix)]


def _group_modules(linears: dict, groups: Iterable[LayerGroup]) -> dict:
    return {group.name: linears[group.members[0]] for group in groups if group.members[0] in linears}
