"""What a MODEL and a CLIP are made of, and how deltas are laid onto them.

Only patches are ever added; a module's own weights are never written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.weight_adapter
import torch
from torch import Tensor, nn

from ....mixofshow_core.concept import BaseInfo
from ....mixofshow_core.delta import Delta, Dense
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.family import Family
from ....mixofshow_core.families.known import (
    ENCODERS,
    SD15,
    SDXL,
    V_PREDICTION,
    family_of_width,
    find_family,
)
from ....mixofshow_core.families.layers import BIAS, TEXT_PREFIX, UNET_PREFIX
from ....mixofshow_core.families.nets import cross_attention_layers

FINGERPRINT_VALUES = 256


def net_of(model) -> nn.Module:
    """The diffusion net of a MODEL, of whatever kind."""
    return model.model.diffusion_model


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
    layers = cross_attention_layers(net_of(model))
    digest = hashlib.sha256()
    for path in (layers[0].query, layers[len(layers) // 2].query, layers[-1].query):
        weight = base_weight(model, f"{UNET_PREFIX}{path}.weight")
        sample = weight.detach().flatten()[:FINGERPRINT_VALUES].to("cpu", torch.float16)
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return BaseInfo(family(model), digest.hexdigest()[:16], len(layers))


def named_linears(model, clip) -> dict[str, nn.Module]:
    """Every linear layer and 1x1 convolution by layer name; ``model`` or ``clip`` may be None."""
    roots: dict[str, nn.Module] = {}
    if model is not None:
        roots[UNET_PREFIX] = net_of(model)
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


def _as_patch(delta: Delta, shape: tuple[int, ...]):
    if isinstance(delta, Dense):
        return ("diff", (delta.diff.reshape(shape),))  # of another shape the host would drop it in silence
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
        shapes = _check_layers(patcher, chosen)
        own = text_strength if is_text and text_strength is not None else strength
        target.add_patches({key: _as_patch(delta, shapes[key]) for key, delta in chosen.items()}, own)
    return patched


def check_layers(model, clip, deltas: Mapping[str, Delta]) -> None:
    """MixOfShowError unless every layer is there and has the change's shape; CLIP may be None."""
    for patcher, is_text in ((model, False), (clip and clip.patcher, True)):
        if patcher is not None:
            _check_layers(patcher, {patch_key(n): d for n, d in deltas.items() if n.startswith(TEXT_PREFIX) == is_text})


def _check_layers(patcher, deltas: Mapping[str, Delta]) -> dict[str, tuple[int, ...]]:
    """The shapes of the layers by the host's key."""
    missing, shapes = [], {}
    for key, delta in deltas.items():
        try:
            weight = comfy.utils.get_attr(patcher.model, key)
        except AttributeError:
            weight = None
        if weight is None:
            missing.append(key)
            continue
        shape = shapes[key] = tuple(weight.shape)
        if delta.shape not in (shape, (shape[0], math.prod(shape[1:]))):
            raise MixOfShowError(f"Layer {key} is {shape}, but the concept's change is {delta.shape}.")
    if missing:
        raise MixOfShowError(
            f"{len(missing)} layers are not in this model, the first: {', '.join(sorted(missing)[:3])}."
        )
    return shapes


def foreign_patches(model) -> list[str]:
    """What other nodes hooked into MODEL's attention and blocks, by the host's name and the function's module."""
    options = model.model_options.get("transformer_options", {})
    found = {name: list(patches) for name, patches in options.get("patches", {}).items()}
    found |= {name: list(patches.values()) for name, patches in options.get("patches_replace", {}).items()}
    return sorted(
        {
            f"{name} ({getattr(patch, '__module__', None) or type(patch).__module__})"
            for name, patches in found.items()
            for patch in patches
        }
    )


def effective_weights(patcher, layer_names: Iterable[str]) -> dict[str, Tensor]:
    """fp32 CPU weights with the patcher's own patches applied, by layer name; the model is left as it is."""
    patches = patcher.get_key_patches()
    return {name: effective(patches[patch_key(name)], patch_key(name)) for name in layer_names}


def effective(entry: list, key: str) -> Tensor:
    """fp32 weight on the CPU from an entry of ``get_key_patches``: [(weight, convert), patch, ...]."""
    (weight, convert), *rest = entry
    weight = comfy.model_management.cast_to_device(weight, torch.device("cpu"), torch.float32, copy=True)
    return comfy.lora.calculate_weight(rest, convert(weight, inplace=True), key)
