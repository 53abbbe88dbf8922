"""What a MODEL and a CLIP are made of, and how deltas are laid onto them.

Only patches are ever added; a module's own weights are never written.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping

import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.weight_adapter
import torch
from torch import Tensor, nn

from ....mixofshow_core.concept import BaseInfo, ConceptUse
from ....mixofshow_core.delta import Delta, Dense
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.family import Family
from ....mixofshow_core.families.known import (
    ENCODERS,
    SD15,
    SDXL,
    UNKNOWN,
    V_PREDICTION,
    family_of_width,
    find_family,
)
from ....mixofshow_core.topology import BIAS, TEXT_PREFIX, UNET_PREFIX, cross_attention_layers

log = logging.getLogger("mixofshow")

UNKNOWN_FAMILY = UNKNOWN  # until its readers ask the families
FINGERPRINT_VALUES = 256


def unet_of(model) -> nn.Module:
    """The UNet module of a MODEL; MixOfShowError for models that are not SD1.5 or SDXL style UNets."""
    unet = model.model.diffusion_model
    if not all(hasattr(unet, name) for name in ("input_blocks", "middle_block", "output_blocks")):
        raise MixOfShowError(
            f"MODEL is a {type(unet).__name__}, not a UNet of the SD1.5 or SDXL family; load such a checkpoint."
        )
    return unet


def text_models_of(clip) -> dict[str, nn.Module]:
    """The CLIP text encoders by name, ``clip_l`` and (SDXL) ``clip_g``."""
    found = {name: getattr(clip.cond_stage_model, name) for name in ENCODERS if hasattr(clip.cond_stage_model, name)}
    if not found:
        raise MixOfShowError(f"CLIP holds {type(clip.cond_stage_model).__name__}; clip_l or clip_g is needed.")
    return found


def prediction_class(model) -> type:
    """The host's class that says what MODEL's output means when it is sampled (EPS, V_PREDICTION, X0 ...)."""
    sampling = type(model.get_model_object("model_sampling"))
    return next((kind for kind in sampling.__mro__ if "calculate_denoised" in vars(kind)), sampling)


def family(model) -> str:
    """``sd15``, ``sdxl`` or ``sd-<context width>``, with ``-v`` appended for v-prediction."""
    unet_of(model)
    context_width = model.model.model_config.unet_config.get("context_dim")
    known = SDXL if isinstance(model.model, comfy.model_base.SDXL) else family_of_width(context_width)
    prediction = V_PREDICTION if prediction_class(model) is comfy.model_sampling.V_PREDICTION else ""
    return (known.name if known else f"sd-{context_width}") + prediction


def native_size(model) -> int:
    """Pixels of the side that the base was trained at: its own statement, else its family's."""
    return getattr(model.model, "native_size", _row_of(model).native_size)


def native_cells(model) -> int:
    """The same in latent cells."""
    return native_size(model) // _row_of(model).cell


def _row_of(model) -> Family:
    """What is known of this kind of net; of an unknown one, SD1.5's facts."""
    return find_family(family(model)) or SD15


def base_weight(patcher, key: str) -> Tensor:
    """A weight as the checkpoint had it, even while patches are baked into the module."""
    backup = patcher.backup.get(key)
    return comfy.utils.get_attr(patcher.model, key) if backup is None else backup.weight


def describe_base(model) -> BaseInfo:
    """Family, layer count and a fingerprint of a few weights (kilobytes read, not gigabytes)."""
    layers = cross_attention_layers(unet_of(model))
    digest = hashlib.sha256()
    for path in (layers[0].path, layers[len(layers) // 2].path, layers[-1].path):
        weight = base_weight(model, f"{UNET_PREFIX}{path}.to_q.weight")
        sample = weight.detach().flatten()[:FINGERPRINT_VALUES].to("cpu", torch.float16)
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return BaseInfo(family(model), digest.hexdigest()[:16], len(layers))


def check_family(model, uses: Iterable[ConceptUse]) -> None:
    """Refuse concepts of another family; note in the log when only the checkpoint differs."""
    base = describe_base(model)
    for use in uses:
        theirs = use.concept.base
        if theirs.family not in (UNKNOWN, base.family):
            raise MixOfShowError(
                f"Concept {use.label!r} was made for the {theirs.family} family, but MODEL is {base.family}. "
                f"Load a {theirs.family} checkpoint, or train the concept on this one."
            )
        if theirs.layers and theirs.layers != base.layers:
            raise MixOfShowError(
                f"Concept {use.label!r} holds embeddings for {theirs.layers} cross-attention layers; "
                f"MODEL has {base.layers}."
            )
        if theirs.fingerprint and theirs.fingerprint != base.fingerprint:
            log.info("Concept %s was trained on base %s; MODEL is %s (same family, that is fine).",
                     use.label, theirs.fingerprint, base.fingerprint)


def named_linears(model, clip) -> dict[str, nn.Module]:
    """Every linear layer and 1x1 convolution by layer name; ``model`` or ``clip`` may be None."""
    roots: dict[str, nn.Module] = {}
    if model is not None:
        roots[UNET_PREFIX] = unet_of(model)
    if clip is not None:
        roots.update({f"{TEXT_PREFIX}{name}.": module for name, module in text_models_of(clip).items()})
    return {
        prefix + path: module
        for prefix, root in roots.items()
        for path, module in root.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    }


def patch_key(layer_name: str) -> str:
    """The host's key of a layer's weight or bias: what ``add_patches`` and ``get_key_patches`` call it."""
    name = layer_name.removeprefix(TEXT_PREFIX)
    return name if name.endswith(BIAS) else f"{name}.weight"


def layer_name_of(key: str) -> str:
    """The layer name behind a key of the host: the inverse of ``patch_key``."""
    return (key if key.startswith(UNET_PREFIX) else TEXT_PREFIX + key).removesuffix(".weight")


def _as_patch(delta: Delta):
    if isinstance(delta, Dense):
        return ("diff", (delta.diff,))
    return comfy.weight_adapter.LoRAAdapter(set(), (delta.up, delta.down, delta.alpha, None, None, None))


def apply_deltas(model, clip, deltas: Mapping[str, Delta], strength: float = 1.0, text_strength: float | None = None):
    """Clones of MODEL and CLIP with ``deltas`` patched in at ``strength``; either may be None and stays None.

    text_strength: for the text encoders, where it is another one.

    Raises MixOfShowError when a layer does not exist or has another shape: the host would drop it in silence.
    """
    patched = (model.clone() if model is not None else None, clip.clone() if clip is not None else None)
    for target, is_text in zip(patched, (False, True), strict=True):
        if target is None:
            continue
        chosen = {patch_key(name): d for name, d in deltas.items() if name.startswith(TEXT_PREFIX) == is_text}
        patcher = target.patcher if is_text else target
        _check_shapes(patcher, chosen)
        own = text_strength if is_text and text_strength is not None else strength
        applied = set(target.add_patches({key: _as_patch(delta) for key, delta in chosen.items()}, own))
        missing = sorted(set(chosen) - applied)
        if missing:
            raise MixOfShowError(f"{len(missing)} layers are not in this model, the first: {', '.join(missing[:3])}.")
    return patched


def _check_shapes(patcher, deltas: Mapping[str, Delta]) -> None:
    for key, delta in deltas.items():
        try:
            weight = comfy.utils.get_attr(patcher.model, key)
        except AttributeError:
            weight = None
        if weight is None:
            continue  # reported as missing by the caller, together with all others
        rows = tuple(weight.shape) if isinstance(delta, Dense) else (weight.shape[0], weight[0].numel())
        if delta.shape != rows:
            raise MixOfShowError(f"Layer {key} is {tuple(weight.shape)}, but the concept's change is {delta.shape}.")


def effective_weights(patcher, layer_names: Iterable[str]) -> dict[str, Tensor]:
    """fp32 CPU weights with the patcher's own patches applied, by layer name; the model is left as it is."""
    patches = patcher.get_key_patches()
    weights = {}
    for name in layer_names:
        (weight, convert), *rest = patches[patch_key(name)]
        weight = comfy.model_management.cast_to_device(weight, torch.device("cpu"), torch.float32, copy=True)
        weights[name] = comfy.lora.calculate_weight(rest, convert(weight, inplace=True), patch_key(name))
    return weights
