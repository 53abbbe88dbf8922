"""The host's MODEL and CLIP as something that can be trained through, and put back as it was."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from ....mixofshow_core.bounds import meaning
from ....mixofshow_core.concept import LayeredEmbedding, Word
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.family import CELL
from ....mixofshow_core.families.layers import CrossAttention, LayerGroup
from ....mixofshow_core.families.nets import cross_attention_layers, kind_of
from ....mixofshow_core.families.text import layer_groups_text, text_blocks
from ....mixofshow_core.training.adapters import ConceptPlan, Trainables
from ....mixofshow_core.training.loop import TextContexts
from ....mixofshow_core.training.settings import TrainSettings
from ..host import model as bridge_model
from ..host.context_words import find_words
from ..host.frames import as_frames, as_pictures
from ..host.layered import KEY as LAYERED
from ..host.layered import read_by_hooks
from ..host.text import register_entries
from .attention import RECORDING, Recording, attention_recorded
from .gradients import checkpointed, differentiable_net, differentiable_text, pytorch_attention, trainable_weights
from .loading import load_for_training
from .rule import schedule_of

log = logging.getLogger("mixofshow")

# Everyday words that any CLIP, also one with a reduced vocabulary, has seen: their norm is what a trained row weighs.
COMMON_WORDS = "a photo of the person with red blue green background and black hair cat dog house tree"
COPIES = 60  # of the longest text of a step, at most: texts of one to seven sections of 77 tokens share one
TEXTS_KEPT = 64  # encoded captions, of 2 MB each where a text has 512 rows of 1024
TEXT_SECTIONS = 64  # sections of text that go through an encoder at once while checkpointing


def plain_patcher(patcher):
    """A clone whose weights stay where they are put. Raises MixOfShowError when the host cannot give one."""
    if not getattr(patcher, "is_dynamic", lambda: False)():
        return patcher.clone()
    try:
        return patcher.clone(disable_dynamic=True)
    except (RuntimeError, TypeError) as error:
        raise MixOfShowError(
            f"This MODEL or CLIP cannot be loaded without dynamic VRAM ({error}), and training needs that. "
            f"Start ComfyUI with --disable-dynamic-vram, or load a plain checkpoint file."
        ) from error


def class_vector(clip, encoder: str, text: str) -> Tensor:
    """[D] fp32 CPU: the input embedding of a word, the mean over its tokens if the tokenizer splits it."""
    module = bridge_model.text_models_of(clip)[encoder]
    chunks = clip.tokenize(text, disable_weights=True)[encoder.removeprefix("clip_")]
    special = set(module.special_tokens.values())
    ids = [token for token, _ in chunks[0] if isinstance(token, int) and token not in special]
    if not ids:
        raise MixOfShowError(f"The class word {text!r} has no token; give a plain noun such as person, dog or castle.")
    weight = module.transformer.get_input_embeddings().weight
    return weight[torch.tensor(ids, device=weight.device)].detach().float().cpu().mean(0).clone()


@torch.no_grad()
def context_vector(clip, encoder: str, text: str) -> Tensor:
    """[D] fp32 CPU: what the encoder writes at a word that stands alone, the mean over its tokens."""
    (module,) = bridge_model.text_models_of(clip).values()
    tokens = clip.tokenize(text, disable_weights=True)
    special = set(module.special_tokens.values())
    flat = [token for chunks in tokens.values() for chunk in chunks for token, *_ in chunk]
    places = [n for n, token in enumerate(flat) if token not in special]
    if not places:
        raise MixOfShowError(f"The class word {text!r} has no token; give a plain noun such as person, dog or castle.")
    return clip.encode_from_tokens(tokens)[0, places].float().cpu().mean(0).clone()


def vocabulary_norm(clip, encoder: str, vector: Callable[..., Tensor] = class_vector) -> float:
    """Mean L2 norm of everyday words' input embeddings, or of what else `vector` gives for a word."""
    return float(torch.stack([vector(clip, encoder, word).norm() for word in COMMON_WORDS.split()]).mean())


def reachable_text_groups(module: nn.Module, encoder: str, pooled: bool) -> tuple[LayerGroup, ...]:
    """Text layers whose output is used: clip skip leaves the last ones out, unless the pooled vector needs them."""
    groups = layer_groups_text(module, encoder)
    if pooled or module.layer != "hidden":
        return groups
    blocks = len(list(text_blocks(module)))
    used = module.layer_idx % blocks + 1
    return groups[: used * len(groups) // blocks]


def embedding_index(net: nn.Module, rows: str) -> tuple[int, ...]:
    """Cross-attention layer -> embedding row: one row, one per width of the layer (its resolution), or one each."""
    layers = cross_attention_layers(net)
    widths = [net.get_submodule(layer.query).in_features for layer in layers]
    distinct = sorted(set(widths))
    one = (0,) * len(layers)
    kinds = {
        "layers": tuple(range(len(layers))),
        "resolutions": tuple(distinct.index(width) for width in widths),
        "one": one,
        "none": one,
    }
    return meaning("Training setting embedding_rows", rows, kinds)


def _encode(kind, clip, caption: str) -> dict[str, object]:
    """What the host's encoder says of a caption, checked by the net's kind."""
    told = clip.encode_from_tokens(clip.tokenize(caption, disable_weights=True), return_dict=True)
    kind.check_text(told, f"caption {caption!r:.80}")
    return told


class HostDenoiser:
    """The host's net and text encoders behind the trainer's protocol (training/loop.py, ``Denoiser``).

    beside: bytes that the run needs for everything but weights. elsewhere: bytes of weights that are not on the device.
    """

    def __init__(self, model, clip, settings: TrainSettings, index: tuple[int, ...], beside=0.0, elsewhere=0.0):
        self.model = model.model
        self.clip = clip
        self.device = model.load_device
        self.settings = settings
        self.index = index
        self.beside, self.elsewhere = beside, elsewhere
        self.rows = max(index) + 1
        self.sampling = model.get_model_object("model_sampling")
        self.sigmas = self.sampling.sigmas.detach().clone().float().to(self.device)
        self.schedule = schedule_of(self.sampling)
        self.kind = kind_of(self.model.diffusion_model)
        layers = cross_attention_layers(self.model.diffusion_model)
        self.layer_of = {layer.address: layer.index for layer in layers if layer.address}
        self.layers = layers
        self.patchers = [model, clip.patcher]
        self.encoders = bridge_model.text_models_of(clip)
        self.has_label = self.model.adm_channels > 0
        self._tokens: dict[str, dict[str, list]] = {}
        # Encoders that are not trained say the same again. No method: a ring through `self` would hold MODEL's clone.
        self._told = lru_cache(TEXTS_KEPT)(partial(_encode, self.kind))

    def learn_words(self, trainables: Trainables, plans: Sequence[ConceptPlan]) -> None:
        """Make the tokenizer know the concepts' names and words; their tokens become places to fill in."""
        entries = []
        self.slots: dict[int, tuple[str, str]] = {}
        self.word_number: dict[str, int] = {}
        all_learned = dict(trainables.embeddings.items())
        for plan in plans:
            embeddings, learned = [], all_learned.get(plan.name)
            for number, word in enumerate(learned.words if learned else ()):
                rows = {encoder: table.detach()[number].clone() for encoder, table in learned.tables.items()}
                self.slots.update({id(tensor): (word, encoder) for encoder, tensor in rows.items()})
                self.word_number[word] = number
                embeddings.append(LayeredEmbedding(rows, self.index))
            words = tuple(map(Word, learned.words)) if learned else ()
            entries.append(plan.entry(words, tuple(embeddings)))
        self._entries = entries  # keeps the tensors alive whose ids are the slots' keys
        self.clip = register_entries(self.clip, entries)
        self._tokens.clear()

    def tokens(self, caption: str) -> dict[str, list]:
        """Per encoder the chunks of a caption; a token is an id, or (word, encoder) for a concept word."""
        if caption not in self._tokens:
            found = self.clip.tokenize(caption, disable_weights=True)
            self._tokens[caption] = {
                f"clip_{key}": [
                    [self.slots[id(token[0]["rows"])] if isinstance(token[0], dict) else token[0] for token in chunk]
                    for chunk in chunks
                ]
                for key, chunks in found.items()
            }
        return self._tokens[caption]

    def encode(self, captions: Sequence[str], vectors: Mapping[str, Mapping[str, Tensor]]) -> TextContexts:
        """[rows, n, T, C]: one batch per encoder holds every section of every caption."""
        if not self.kind.trains_text:
            with torch.enable_grad():  # a part of the net may write the text anew, and learn; so may words
                texts = [self._with_words(self._as_sampled(caption), caption, vectors) for caption in captions]
                rows = max(map(len, texts))
                return TextContexts(_one_length([text.expand(rows, -1, -1) for text in texts]))
        parts, pooled = [], None
        for encoder, module in self.encoders.items():
            with_pooled = self.has_label and encoder == list(self.encoders)[-1]
            sections: list[list] = []
            spans, pooled_at = [], []
            for caption in captions:
                chunks = self.tokens(caption)[encoder]
                layered = any(isinstance(token, tuple) for chunk in chunks for token in chunk)
                kinds: list[int | None] = list(range(self.rows)) if layered else [0]
                spans.append((len(sections), len(kinds), len(chunks)))
                pooled_at.append(len(sections) + (len(kinds) * len(chunks) if layered else 0))
                if layered and with_pooled:
                    kinds.append(None)  # the pooled vector comes from the mean embedding, as it does in sampling
                for row in kinds:
                    sections += [[self._fill(token, vectors, row) for token in chunk] for chunk in chunks]
            hidden, final = self._run_encoder(module, sections)
            parts.append(
                [
                    hidden[start : start + rows * chunks].reshape(rows, -1, hidden.shape[-1]).expand(self.rows, -1, -1)
                    for start, rows, chunks in spans
                ]
            )
            if with_pooled:
                pooled = final[pooled_at]
        layers = _one_length([torch.cat(slices, dim=-1) for slices in zip(*parts, strict=True)]).to(self.device)
        words = self._words(captions, layers.shape[2]) if self.settings.attention_weight else None
        return TextContexts(layers, None if pooled is None else pooled.to(self.device), words)

    def _as_sampled(self, caption: str) -> Tensor:
        """[1, T, C]: what the net reads of a caption in sampling."""
        told = self._told(self.clip, caption)
        text = told["cond"].to(self.device, bridge_model.text_dtype(self.model))
        return self.kind.read_text(self.model.diffusion_model, text, told)

    def _with_words(self, text: Tensor, caption: str, vectors: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """[rows, T, C] of a text [1, T, C] with the words' own rows where they stand; itself without any."""
        placed = find_words(self.clip.tokenize(caption, disable_weights=True))
        if not placed:
            return text
        text = text.expand(self.rows, -1, -1).clone()
        for one in placed:
            word, encoder = self.slots[id(one.token.rows)]
            text[:, one.position] = vectors[word][encoder].to(text)
        return text

    def _words(self, captions: Sequence[str], length: int) -> Tensor:
        """[n, T, W]: 1 at the positions of each concept word, in every copy of a caption that was repeated."""
        encoder = next(iter(self.encoders))
        found = torch.zeros(len(captions), length, self.settings.words)
        for row, caption in enumerate(captions):
            tokens = [token for chunk in self.tokens(caption)[encoder] for token in chunk]
            for position, token in enumerate(tokens):
                if isinstance(token, tuple):
                    found[row, position :: len(tokens), self.word_number[token[0]]] = 1.0
        return found.to(self.device)

    def _fill(self, token, vectors: Mapping[str, Mapping[str, Tensor]], row: int | None):
        if not isinstance(token, tuple):
            return token
        table = vectors[token[0]][token[1]]
        return table[list(self.index)].mean(0) if row is None else table[row]

    def _run_encoder(self, module: nn.Module, sections: list[list]) -> tuple[Tensor, Tensor]:
        if not self.settings.recomputes or not torch.is_grad_enabled():
            return module.encode(sections)[:2]
        groups = [sections[n : n + TEXT_SECTIONS] for n in range(0, len(sections), TEXT_SECTIONS)]
        done = [torch.utils.checkpoint.checkpoint(module.encode, group, use_reentrant=False)[:2] for group in groups]
        return torch.cat([hidden for hidden, _ in done]), torch.cat([final for _, final in done])

    def own_text(self, layer: CrossAttention, context: Tensor, options: dict) -> Tensor:
        """The text of a layer that no patch of the host reaches. It travels in the options, of which every checkpointed
        block keeps its own copy."""
        contexts = options.get(LAYERED)
        return context if contexts is None else contexts[self.index[layer.index]].to(context.dtype)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextContexts, which: Tensor) -> Tensor:
        # All rows at once: taken one by one, each has a gradient as large as all of them.
        contexts = text.layers[:, which].unbind(0)

        def attn2_patch(n, context, value, extra_options):
            layer = self.layer_of[(*extra_options["block"], extra_options["block_index"])]
            own = contexts[self.index[layer]].to(n.dtype)
            return n, own, own

        options: dict = {"optimized_attention_override": pytorch_attention}
        if len(contexts) > 1 and len(self.layer_of) == len(self.layers):  # each has its address
            options["patches"] = {"attn2_patch": [attn2_patch]}
        elif len(contexts) > 1:  # else all layers read the one that the net is given
            options[LAYERED] = contexts
        extra = {}
        if self.has_label:
            # A canvas of another shape (aspect buckets) tells its own size.
            width, height = noisy.shape[-1] * CELL, noisy.shape[-2] * CELL
            extra["y"] = self.model.encode_adm(
                pooled_output=text.pooled[which], width=width, height=height, device=self.device
            ).to(self.device)
        kinds = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.bfloat16}  # of fp32 nothing is cast
        half = meaning("Training setting precision", self.settings.precision, kinds)
        self._shape = noisy.shape[-2:]
        noisy = as_frames(self.model, noisy)
        if text.words is not None:
            options[RECORDING] = self._recording = Recording(text.words[which])
        with torch.autocast(self.device.type, half, enabled=self.settings.is_half):
            output = self.model.diffusion_model(
                noisy,
                self.sampling.timestep(self.sigmas[timesteps]).float(),
                context=contexts[0],
                transformer_options=options,
                **extra,
            )
        return as_pictures(output).float()

    def stay_loaded(self) -> None:
        """Bring net and text encoders back to their device after another model was used."""
        if self.device.type != "cpu":
            load_for_training(self.patchers, self.beside, self.settings.recomputes)

    def attention_maps(self) -> list[Tensor]:
        return self._recording.maps(*self._shape)


def _one_length(contexts: Sequence[Tensor]) -> Tensor:
    """[rows, n, T, C] of n texts [rows, t, C]. Softmax over a whole number of copies equals softmax over one."""
    lengths = sorted({context.shape[1] for context in contexts})
    length = math.lcm(*lengths)
    if length > COPIES * lengths[-1]:
        raise MixOfShowError(
            f"Captions of {' and '.join(map(str, lengths))} tokens cannot share a step: no moderate length is a "
            "whole number of each. Shorten the longest to the others' length, or set batch to 1 in Train Settings."
        )
    return torch.stack([context.repeat(1, length // context.shape[1], 1) for context in contexts], dim=1)


@contextmanager
def host_for_training(
    model, clip, settings: TrainSettings, index: tuple[int, ...], beside: float = 0.0
) -> Iterator[HostDenoiser]:
    """Load MODEL and CLIP, make them differentiable, and undo all of it afterwards.

    beside: bytes that the run needs on the device for everything but weights.
    """
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as undo:
        unet, text = plain_patcher(model), plain_patcher(clip.patcher)
        if settings.precision == "fp32" and unet.model.get_dtype() != torch.float32:
            unet.set_model_compute_dtype(torch.float32)
        elsewhere = load_for_training([unet, text], beside, settings.recomputes)
        clip = clip.clone()
        clip.patcher, clip.cond_stage_model = text, text.model
        clip.cond_stage_model.reset_clip_options()
        if clip.layer_idx is not None:
            clip.cond_stage_model.set_clip_options({"layer": clip.layer_idx})
        if any(hasattr(module, "execution_device") for module in bridge_model.text_models_of(clip).values()):
            clip.cond_stage_model.set_clip_options({"execution_device": text.load_device})
        undo.callback(clip.cond_stage_model.reset_clip_options)
        undo.enter_context(trainable_weights(unet.model))
        undo.enter_context(trainable_weights(text.model))
        undo.enter_context(differentiable_net(unet.model.diffusion_model))
        reaches = kind_of(unet.model.diffusion_model).trains_text
        if reaches and (settings.text_lora or settings.trains_embeddings):
            for module in bridge_model.text_models_of(clip).values():
                undo.enter_context(differentiable_text(module))
        if settings.recomputes:
            undo.enter_context(checkpointed(unet.model.diffusion_model))
        host = HostDenoiser(unet, clip, settings, index, beside, elsewhere)
        undo.enter_context(read_by_hooks(host.layers, host.own_text))
        if settings.attention_weight:
            undo.enter_context(attention_recorded(host.layers))
        yield host
