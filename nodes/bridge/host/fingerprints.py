"""One key for every cache of the pack: what MODEL, CLIP and VAE are, with all that other nodes did to them.

Training, class pictures, statistics and fusions are found again by it, so it holds what their result rests on: every
patch whole, hooked functions with what they captured, swapped objects by their values, native size, a concept's words.
Names, addresses and places on a disk are not in it.
"""

from __future__ import annotations

import collections
import enum
import functools
import hashlib
import types
import uuid
import weakref
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .model import native_size
from .text import vocabulary_of

SAMPLED = 256  # values of every base weight that are taken by themselves, beside the sum of all its bits
SCALARS = (types.NoneType, bool, int, float, complex, str, bytes, torch.dtype, torch.device)
OPAQUE = (types.ModuleType, torch.Generator, uuid.UUID, weakref.ref)  # what they are is all that is said of them
# Of a patcher: all that makes two clones act differently. Its base weights are added by `weights_digest`.
PATCHER_PARTS = (
    "patches",
    "model_options",
    "object_patches",
    "weight_wrapper_patches",
    "attachments",
    "additional_models",
    "callbacks",
    "wrappers",
    "injections",
    "hook_patches",
    "forced_hooks",
    "force_cast_weights",
)
NO_SETTINGS = ("training", "weight_function", "bias_function")  # of a module: how the host has it loaded
VAE_PARTS = ("process_input", "process_output", "downscale_ratio", "upscale_ratio", "vae_dtype", "crop_input")


def models_key(model, clip, vae=None) -> str:
    """SHA-256 over MODEL, CLIP and (where a result depends on it) VAE, as they act: the key of every cache."""
    seen = Digests()
    sampling, latents = (model.get_model_object(name) for name in ("model_sampling", "latent_format"))
    facts = [
        type(model.model),
        model.model.model_config.unet_config,
        native_size(model),
        sampling,
        latents,
        weights_digest(model, "diffusion_model."),
        seen.patcher(model),
        type(clip.cond_stage_model),
        clip.layer_idx,
        clip.tokenizer_options,
        clip.use_clip_schedule,
        clip.apply_hooks_to_conds,
        vocabulary_of(clip).entries,
        clip.patcher,
    ]
    if vae is not None:
        patcher = getattr(vae, "patcher", None)
        facts += [type(vae), [getattr(vae, part, None) for part in VAE_PARTS]]
        facts.append(getattr(vae, "first_stage_model", None) if patcher is None else patcher)
    return seen.of(facts).hex()


def tokens_key(clip, texts: Iterable[str]) -> str:
    """What stock embeddings (``embedding:file``) in these texts stand for; empty where there are none."""
    found = [clip.tokenize(text) for text in texts if "embedding:" in text.lower()]
    return Digests().of(found).hex() if found else ""


def weights_digest(patcher, prefix: str = "") -> str:
    """The checkpoint's own weights, also while patches are baked into the module: a sample and a sum of each."""
    digest = hashlib.sha256()
    kept = {**patcher.hook_backup, **patcher.backup}
    stored = dict(patcher.model.named_parameters(remove_duplicate=False))
    for name, tensor in sorted(patcher.model.state_dict().items()):
        if not name.startswith(prefix) or not isinstance(tensor, Tensor):
            continue
        tensor = kept[name][0] if name in kept else tensor
        if tensor.is_meta:  # layers of GGUF files tell what they weigh here; their bytes are the parameter's
            tensor = stored[name].as_subclass(Tensor) if name in stored else tensor.new_empty(0, device="cpu")
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}{_sum_of_bits(tensor)}".encode())
        digest.update(_bytes(_sample(tensor)))
    return digest.hexdigest()


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // SAMPLED)][: 2 * SAMPLED]


def _sum_of_bits(tensor: Tensor) -> int:
    """The tensor's bytes as whole numbers, added up with overflow: one pass at the speed of memory."""
    flat = tensor.detach().contiguous().flatten()
    for kind in (torch.int64, torch.int32, torch.int16, torch.uint8):
        try:
            return int(flat.view(kind).sum(dtype=torch.int64))
        except (RuntimeError, TypeError, NotImplementedError):  # an odd size or place in its file, a quantised kind
            continue
    return 0


def _bytes(tensor: Tensor) -> memoryview | bytes:
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    try:
        return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    except (RuntimeError, TypeError, NotImplementedError):  # a quantised kind that is no row of bytes
        return tensor.detach().float().cpu().contiguous().numpy().tobytes()


class Digests:
    """SHA-256 of any value by its content; each object is looked at once, and a circle ends where it closes."""

    def __init__(self) -> None:
        self._done: dict[int, bytes] = {}
        self._alive: list[object] = []  # an id means one object only while that object lives

    def of(self, value: object) -> bytes:
        if isinstance(value, SCALARS):
            return self._hash(type(value).__name__, repr(value).encode())
        if id(value) not in self._done:
            self._alive.append(value)
            self._done[id(value)] = b"circle"
            self._done[id(value)] = self._look(value)
        return self._done[id(value)]

    def patcher(self, patcher) -> bytes:
        """What was done to a patcher; the weights it was done to are not in it."""
        return self._many("patcher", [getattr(patcher, part, None) for part in PATCHER_PARTS])

    def _look(self, value: object) -> bytes:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            return self._hash(f"tensor{tuple(value.shape)}{value.dtype}", _bytes(value))
        if isinstance(value, nn.Parameter):
            return self._hash("parameter", self.of(value.data))
        if isinstance(value, np.ndarray | np.generic):
            return self._hash(f"array{value.shape}{value.dtype}", self.of(value.tolist()))
        if isinstance(value, PurePath):
            return self._hash("path", str(value).encode())
        if isinstance(value, enum.Enum):
            return self._hash(type(value).__qualname__, value.name.encode())
        if isinstance(value, Mapping):
            return self._hash("mapping", *sorted(self.of(key) + self.of(item) for key, item in value.items()))
        if isinstance(value, bytearray | memoryview):
            return self._hash("bytes", bytes(value))
        if isinstance(value, list | tuple | collections.deque):
            return self._many("list", value)
        if isinstance(value, set | frozenset):
            return self._hash("set", *sorted(map(self.of, value)))
        if isinstance(value, ModelPatcher):
            return self._hash("model", weights_digest(value).encode(), self.patcher(value))
        if isinstance(value, type):
            return self._hash("class", *(kind.__qualname__.encode() for kind in value.__mro__))
        return self._code(value) or self._object(value)

    def _code(self, value: object) -> bytes | None:
        """Functions of every kind, with what they captured: the same name with another value is another function."""
        if isinstance(value, functools.partial):
            return self._many("partial", [value.func, value.args, value.keywords])
        if isinstance(value, types.MethodType):
            return self._many("method", [value.__func__, value.__self__])
        if isinstance(value, types.FunctionType):
            captured = [_inside(cell) for cell in value.__closure__ or ()]
            parts = [value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, captured]
            return self._many("function", parts)
        if isinstance(value, types.CodeType):
            return self._many("code", [value.co_code, value.co_names, value.co_consts])
        if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType | types.WrapperDescriptorType):
            return self._hash("builtin", value.__qualname__.encode())
        return None

    def _object(self, value: object) -> bytes:
        kind = self.of(type(value))
        if isinstance(value, OPAQUE):
            return self._hash("opaque", kind)
        if isinstance(value, nn.Module):
            inner = [(name, type(child), _of_module(child)) for name, child in value.named_modules()]
            return self._many("module", [kind, inner, dict(value.state_dict())])
        held = dict(getattr(value, "__dict__", {}))
        for slots in (vars(owner).get("__slots__", ()) for owner in type(value).__mro__):
            names: Collection[str] = (slots,) if isinstance(slots, str) else slots
            held |= {name: getattr(value, name, None) for name in names if not name.startswith("__")}
        text = "" if held or " at 0x" in repr(value) else repr(value)  # slices, ranges, dates: nothing to look into
        return self._hash("object", kind, self.of(held), text.encode())

    def _many(self, what: str, values: Iterable[object]) -> bytes:
        return self._hash(what, *map(self.of, values))

    @staticmethod
    def _hash(what: str, *parts) -> bytes:
        digest = hashlib.sha256(what.encode())
        for part in parts:
            digest.update(f"|{len(part)}|".encode())
            digest.update(part)
        return digest.digest()


def _of_module(module: nn.Module) -> dict[str, object]:
    """What one module holds beside the state dict: settings, buffers that are not saved, hooks."""
    held = {
        key: item
        for key, item in vars(module).items()
        if key not in NO_SETTINGS and not key.startswith(("_", "comfy_", "prev_comfy_"))
    }
    unsaved = {name: module._buffers.get(name) for name in sorted(module._non_persistent_buffers_set)}
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]  # their keys count up for ever
    return held | {"": (unsaved, hooks)}


def _inside(cell) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
