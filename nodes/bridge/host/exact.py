"""Changes of layers whose weights have 8 bits, added to what these layers give and not to their weights.

The host adds a patch to such a weight and rounds the sum to 8 bits again, with noise as large as small changes are, in
a pass over all weights whenever another concept is patched in. Where MODEL only has to run, this keeps every digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ....mixofshow_core.delta import Delta, LowRank
from ....mixofshow_core.families.layers import BIAS, UNET_PREFIX, module_of
from .model import apply_deltas, is_linear

KEY = "mixofshow_exact"


def is_rounded(weight: Tensor) -> bool:
    """Whether a weight is stored in 8 bits: plain fp8, or one of the host's quantised tensors."""
    return weight.element_size() == 1 or type(weight) not in (Tensor, nn.Parameter)


def rounded_layers(model) -> frozenset[str]:
    """Names of MODEL's linears and convolutions with such weights."""
    return frozenset(
        UNET_PREFIX + path
        for path, module in model.model.diffusion_model.named_modules()
        if (is_linear(module) or isinstance(module, nn.Conv2d)) and is_rounded(module.weight)
    )


def apply_exactly(model, clip, deltas: Mapping[str, Delta]):
    """As `apply_deltas`, but changes of rounded layers of MODEL act beside their weights while it samples."""
    rounded = rounded_layers(model)
    beside = {name: delta for name, delta in deltas.items() if module_of(name) in rounded}
    model, clip = apply_deltas(model, clip, {name: delta for name, delta in deltas.items() if name not in beside})
    if beside:

        def outer_sample(executor, *args, **kwargs):
            # The module that really runs is known only here.
            net = executor.class_obj.model_patcher.model.diffusion_model
            handles = []
            try:
                for name, delta in beside.items():
                    layer = net.get_submodule(module_of(name).removeprefix(UNET_PREFIX))
                    handles.append(layer.register_forward_hook(_adding(layer, name, delta)))
                return executor(*args, **kwargs)
            finally:
                for handle in handles:
                    handle.remove()

        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return model, clip


def _adding(layer: nn.Module, name: str, delta: Delta) -> Callable:
    """A forward hook that adds the change's answer to the layer's; its tensors are moved to the layer's place once."""
    moved: dict[tuple, list[Tensor]] = {}

    def add(module: nn.Module, inputs: tuple, out: Tensor) -> Tensor:
        x = inputs[0]
        if (x.device, x.dtype) not in moved:
            parts = (delta.down, delta.up * delta.scale) if isinstance(delta, LowRank) else (delta.diff,)
            moved[x.device, x.dtype] = [part.to(x) for part in parts]
        parts = moved[x.device, x.dtype]
        if name.endswith(BIAS):
            return out + (parts[0][:, None, None] if out.dim() == 4 else parts[0])
        return out + _answer(layer, x, *parts)

    return add


def _answer(layer: nn.Module, x: Tensor, first: Tensor, second: Tensor | None = None) -> Tensor:
    if is_linear(layer):
        change = F.linear(x, first.flatten(1))
        return change if second is None else F.linear(change, second)
    kernel = first.view(len(first), -1, *layer.kernel_size)
    change = F.conv2d(x, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return change if second is None else F.conv2d(change, second[..., None, None])
