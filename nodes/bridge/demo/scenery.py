"""The small base A with its scenery add-on: subjects in front of something else than a flat colour."""

from __future__ import annotations

from pathlib import Path

import comfy.model_patcher
import comfy.sd
import safetensors.torch
from safetensors import SafetensorError

from ....mixofshow_core.errors import MixOfShowError
from .small_base import WEIGHTS, load_small_base

SCENERY = WEIGHTS.parent / "small_scenery_addon.safetensors"


def load_small_base_with_scenery(
    path: Path | str = SCENERY,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE; the add-on is a LoRA file that the host's own loader reads. MixOfShowError on a bad file."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise MixOfShowError(f"The scenery add-on {path} cannot be read: {error}. Reinstall the pack.") from error
    model, clip, vae = load_small_base()
    patched, clip = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
    layers = sum(key.endswith(".lora_up.weight") for key in tensors)
    if not layers or len(patched.patches) != layers:
        raise MixOfShowError(
            f"The scenery add-on {path} does not fit the small base: {len(patched.patches)} of "
            f"{layers} layers. Reinstall the pack."
        )
    return patched, clip, vae
