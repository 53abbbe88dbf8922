"""Net and text encoders where they are trained: whole if they fit the device, else as much as the host keeps there.

What is not there is cast by the host's own layers as they run, forward and when a block is recomputed, so that a base
larger than the device trains with checkpointing, slower. Without it every cast weight would be held for the backward
pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management

from ....mixofshow_core.errors import MixOfShowError

SHARE = 0.95  # of the device's memory that a run may take


def load_for_training(patchers: Sequence, beside: float, recomputes: bool) -> float:
    """Bring models to their devices. beside: bytes that the run needs on a GPU for everything but weights.

    Returns the bytes of weights that stay elsewhere; raises as `check_loaded` does.
    """
    management = comfy.model_management
    on_gpu = [patcher for patcher in patchers if patcher.load_device.type != "cpu"]
    whole = True
    if on_gpu and recomputes:
        weights = sum(patcher.model_size() for patcher in on_gpu)
        whole = weights + beside <= SHARE * management.get_total_memory(on_gpu[0].load_device)
    management.load_models_gpu(list(patchers), memory_required=0 if whole else beside, force_full_load=whole)
    return check_loaded(patchers)


def check_loaded(patchers: Sequence) -> float:
    """Bytes of weights that are not on their device. MixOfShowError where the host would cast them into one buffer."""
    elsewhere = sum(
        parameter.nbytes
        for patcher in patchers
        for parameter in patcher.model.parameters()
        if parameter.device.type != patcher.load_device.type
    )
    if elsewhere and _reuses_buffers():
        raise MixOfShowError(
            f"{elsewhere / 1024**3:.1f} GB of the base are not in the GPU's memory (it is too small, or ComfyUI runs "
            "with --novram), and this ComfyUI casts them into one buffer, which the next layer overwrites before "
            "gradients are calculated. Start ComfyUI with --disable-async-offload, or take a smaller base or one in 8 "
            "bits."
        )
    return elsewhere


def _reuses_buffers() -> bool:
    """Whether the host lends layers one buffer per stream for weights that it casts (hosts of 2026, on GPUs)."""
    return hasattr(comfy.model_management, "get_cast_buffer") and comfy.model_management.NUM_STREAMS > 0
