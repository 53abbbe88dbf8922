"""What a MODEL and a CLIP are made of, and how deltas are laid onto them.

Only patches are ever added; a module's own weights are never written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping

import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.weight_adapter
import torch
from torch import Tensor, nn

from ....mixofshow_core.concept import BaseInfo
from ....mixofshow_core.delta import Delta, Dense
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.family import CELL
from ....mixofshow_core.families.known import SDXL, V_PREDICTION, family_of_kind, find_family
from ....mixofshow_core.families.layers import BIAS, TEXT_PREFIX, UNET_PREFIX
from ....mixofshow_core.families.nets import kind_of
from .ggml import plain

FINGERPRINT_VALUES = 256
MARKS = "mixofshow"  # beside the host's own options of a difference


def net_of(model) -> nn.Module:
    """The diffusion net of a MODEL, of whatever kind."""
    return model.model.diffusion_model


def options_in(args: tuple, kwargs: Mapping) -> dict:
    """The host's ``transformer_options`` among a net's arguments: each kind of net takes them at another place."""
    named = kwargs.get("transformer_options")
    return named if named is not None else next((one for one in reversed(args) if isinstance(one, dict)), {})


def with_options(args: tuple, kwargs: dict, options: dict) -> tuple[tuple, dict]:
    """The arguments with other ``transformer_options``."""
    if "transformer_options" in kwargs:
        return args, {**kwargs, "transformer_options": options}
    found = options_in(args, kwargs)
    return tuple(options if one is found else one for one in args), kwargs


def text_dtype(base) -> torch.dtype:
    """What the host casts texts to before the net works on them; `base` is the host's BaseModel."""
    return getattr(base, "get_dtype_inference", base.get_dtype)()


def context_width(model) -> int | None:
    """Width of the text that MODEL's cross-attention reads, as its loader says; None where it does not."""
    config = model.model.model_config.unet_config
    return config.get("context_dim") or config.get("crossattn_emb_channels")


def text_models_of(clip) -> dict[str, nn.Module]:
    """The text encoders by the host's names: ``clip_l`` and (SDXL) ``clip_g``, ``t5xxl``, ``qwen3_06b`` ..."""
    children = clip.cond_stage_model.named_children()
    found = {name: module for name, module in children if hasattr(module, "transformer")}
    if not found:
        raise MixOfShowError(f"CLIP holds {type(clip.cond_stage_model).__name__}, in which no text encoder is known.")
    return found


def prediction_class(model) -> type:
    """The host's class that says what MODEL's output means when it is sampled (EPS, V_PREDICTION, X0 ...)."""
    sampling = type(model.get_model_object("model_sampling"))
    return next((kind for kind in sampling.__mro__ if "calculate_denoised" in vars(kind)), sampling)


def family(model) -> str:
    """``sd15``, ``sdxl``, ``sd-<context width>``, ``cosmos2``, or what the host calls another net's kind.

    ``-v`` is appended for v-prediction.
    """
    width = context_width(model)
    known = (
        SDXL if isinstance(model.model, comfy.model_base.SDXL) else family_of_kind(kind_of(net_of(model)).name, width)
    )
    other = model.model.model_config.unet_config.get("image_model") or f"sd-{width}"
    prediction = V_PREDICTION if prediction_class(model) is comfy.model_sampling.V_PREDICTION else ""
    return (known.name if known else other) + prediction


def native_size(model) -> int:
    """Pixels of the side that the base was trained at: its own statement, else its family's."""
    row = find_family(family(model))
    return getattr(model.model, "native_size", row.native_size if row else kind_of(net_of(model)).native_size)


def native_cells(model) -> int:
    """The same in latent cells."""
    return native_size(model) // cell_of(model)


def cell_of(model) -> int:
    """Pixels of a picture's side that one latent cell stands for."""
    return getattr(model.model.latent_format, "spacial_downscale_ratio", CELL)


def base_weight(patcher, key: str) -> Tensor:
    """A weight as the checkpoint had it, even while patches are baked into the module."""
    backup = patcher.backup.get(key)
    return comfy.utils.get_attr(patcher.model, key) if backup is None else backup.weight


def describe_base(model) -> BaseInfo:
    """Family, layer count and a fingerprint of a few weights (kilobytes read, not gigabytes)."""
    net = net_of(model)
    layers = kind_of(net).cross_attention(net)
    paths = [layer.query for layer in layers] or [p for p, m in net.named_modules() if is_linear(m)]
    digest = hashlib.sha256()
    for path in (paths[0], paths[len(paths) // 2], paths[-1]):
        weight = base_weight(model, f"{UNET_PREFIX}{path}.weight")
        sample = weight.detach().flatten()[:FINGERPRINT_VALUES].to("cpu", torch.float16)
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return BaseInfo(family(model), digest.hexdigest()[:16], len(layers))


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: the host's quantised ones look like torch's and are none."""
    return isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "weight"))


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
        if is_linear(module) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    }


def patch_key(layer_name: str) -> str:
    """The host's key of a layer's weight or bias: what ``add_patches`` and ``key_patches`` call it."""
    name = layer_name.removeprefix(TEXT_PREFIX)
    return name if name.endswith(BIAS) else f"{name}.weight"


def layer_name_of(key: str) -> str:
    """The layer name behind a key of the host: the inverse of ``patch_key``."""
    return (key if key.startswith(UNET_PREFIX) else TEXT_PREFIX + key).removesuffix(".weight")


def _as_patch(delta: Delta, shape: tuple[int, ...], marks: frozenset[str]):
    if isinstance(delta, Dense):  # of another shape the host would drop it in silence
        # The host looks the first of its own options up in whatever stands there.
        options = [{MARKS: marks, "pad_weight": False}] if marks else []
        return ("diff", (delta.diff.reshape(shape), *options))
    return comfy.weight_adapter.LoRAAdapter(set(marks), (delta.up, delta.down, delta.alpha, None, None, None))


def marks_on(patch: object) -> Collection[str]:
    """What `apply_deltas` noted on a patch; nothing on those of other nodes."""
    if isinstance(patch, tuple):
        options = patch[1][-1] if len(patch) > 1 and isinstance(patch[1], tuple) and patch[1] else None
        return options.get(MARKS, ()) if isinstance(options, dict) else ()
    return getattr(patch, "loaded_keys", None) or ()


def apply_deltas(
    model,
    clip,
    deltas: Mapping[str, Delta],
    strength: float = 1.0,
    text_strength: float | None = None,
    marks: frozenset[str] = frozenset(),
):
    """Clones of MODEL and CLIP with ``deltas`` patched in at ``strength``; either may be None and stays None.

    text_strength: for the text encoders, where it is another one. marks: noted on every patch, where the host has room
    for what its own loader notes (the names of keys, options of a difference).

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
        target.add_patches({key: _as_patch(delta, shapes[key], marks) for key, delta in chosen.items()}, own)
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
    patches = key_patches(patcher)
    return {name: effective(patches[patch_key(name)], patch_key(name)) for name in layer_names}


def key_patches(patcher, prefix: str = "") -> dict[str, list]:
    """What the host's ``get_key_patches`` gives, which on 0.33.0 ends in an AttributeError where layers are quantised:
    their scales and formats stand in the state dict and are no attribute of anything. Here they are left out.
    """
    found, kept = {}, {**patcher.backup, **patcher.hook_backup}
    for key in patcher.model_state_dict():
        if not key.startswith(prefix):
            continue
        try:
            weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, key)
        except AttributeError:
            continue
        weight = kept[key][0] if key in kept else weight
        found[key] = [(weight, convert or _as_it_is), *patcher.patches.get(key, ())]
    return found


def _as_it_is(weight: Tensor, **_kwargs) -> Tensor:
    return weight


def effective(entry: list, key: str) -> Tensor:
    """fp32 weight on the CPU from an entry of ``key_patches``: [(weight, convert), patch, ...]."""
    (weight, convert), *rest = entry
    weight = comfy.model_management.cast_to_device(plain(weight, key), torch.device("cpu"), torch.float32, copy=True)
    return comfy.lora.calculate_weight(rest, convert(weight, inplace=True), key)
