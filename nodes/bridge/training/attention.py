"""What the concept words' attention looks like inside the host's net, as tensors with a gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ....mixofshow_core.families.layers import CrossAttention

RECORDING = "mixofshow_recording"  # its key in transformer_options


class Recording:
    """Attention of chosen text positions in one pass through the net. ``words`` [B, T, W] says which positions count.

    It travels in ``transformer_options``, of which every checkpointed block keeps its own copy. Such a block runs
    again in the backward pass, long after the next pass may have begun; it must then make the same tensors for the
    same words, or PyTorch refuses the recomputation, but not record them twice: ``maps`` closes the recording.
    """

    def __init__(self, words: Tensor):
        self.words = words
        self.found: dict[int, list[Tensor]] = {}
        self.open = True

    def add(self, module: nn.Module, x: Tensor, context: Tensor) -> None:
        """Queries and keys once more beside the host's attention, which gives no probabilities away."""
        q, k = module.to_q(x), module.to_k(context)
        q, k = (t.unflatten(-1, (module.heads, -1)).transpose(1, 2).float() for t in (q, k))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        found = weights.mean(1) @ self.words.to(weights.dtype)  # [B, positions, W]
        if self.open:
            self.found.setdefault(found.shape[1], []).append(found)

    def maps(self, height: int, width: int) -> list[Tensor]:
        """Per resolution the mean over its layers, [B, h, w, W]; ``height``, ``width`` are the latent's."""
        self.open = False
        shapes = {height * width: (height, width)}
        while height * width > 1:
            height, width = -(-height // 2), -(-width // 2)
            shapes.setdefault(height * width, (height, width))
        return [torch.stack(found).mean(0).unflatten(1, shapes[size]) for size, found in self.found.items()]


def _hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
    recording = (kwargs.get("transformer_options") or {}).get(RECORDING)
    if recording is not None and torch.is_grad_enabled():
        recording.add(module, args[0], kwargs["context"])


@contextmanager
def attention_recorded(layers: Sequence[CrossAttention]) -> Iterator[None]:
    """Cross-attention layers fill the Recording that they find in their options."""
    handles = [layer.module.register_forward_hook(_hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
