"""Pictures of a trained concept at several strengths, by the host's real sampler."""

from __future__ import annotations

import comfy.sample
import torch
from PIL import Image
from torch import Tensor

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.families.nets import cross_attention_layers
from ....mixofshow_core.training.sheet import labelled_grid
from ..host import model as bridge_model
from ..host.frames import shown
from ..host.layered import with_layers
from ..host.text import encode_layered, register_concepts

STRENGTHS = (0.0, 0.7, 1.0)
STEPS = 20
SAMPLER, SCHEDULER = "dpmpp_2m", "normal"


def sample_latents(model, clip, prompt: str, seed: int, count: int, use: ConceptUse | None = None) -> Tensor:
    """``count`` latents, as the VAE decodes them, of a prompt, from the noise of ``seed``."""
    layers, size = len(cross_attention_layers(bridge_model.net_of(model))), bridge_model.native_size(model)
    text_model = clip if use is None else register_concepts(clip, (use,))
    positive, negative = encode_layered(text_model, prompt, layers), encode_layered(text_model, "", layers)
    channels, cells = model.model.latent_format.latent_channels, bridge_model.native_cells(model)
    latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(count, channels, cells, cells))
    return comfy.sample.sample(
        with_layers(model, positive.layers),
        comfy.sample.prepare_noise(latent, seed),
        STEPS,
        4.0 if size < 256 else 7.0,
        SAMPLER,
        SCHEDULER,
        [[positive.context, dict(positive.extras)]],
        [[negative.context, dict(negative.extras)]],
        latent,
        seed=seed,
        disable_pbar=True,
    )


def sample_strengths(model, clip, vae, use: ConceptUse, seed: int) -> Tensor:
    """IMAGE [3, S, S, 3]: the first concept at LoRA strength 0 (embeddings only), 0.7 and 1, from the same noise."""
    entry = use.concept.entries[0]
    prompt = f"a photo of {entry.name if entry.words else use.trigger or entry.name}"
    pictures = []
    for strength in STRENGTHS:
        patched, text_model = bridge_model.apply_deltas(model, clip, use.concept.deltas, strength)
        pictures.append(shown(vae.decode(sample_latents(patched, text_model, prompt, seed, 1, use))))
    return torch.cat(pictures).float().cpu()


def label_strengths(pictures: Tensor) -> Image.Image:
    """The pictures of `sample_strengths` as one sheet that says which is which."""
    cells = [picture.clamp(0, 1).numpy() for picture in pictures]
    return labelled_grid([cells], ["LoRA strength"], [f"{strength:g}" for strength in STRENGTHS])
