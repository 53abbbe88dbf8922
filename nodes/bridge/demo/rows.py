"""How the small bases' files store a matrix: rows of 8 bits with a scale each. Only torch is imported: judges load this
file by its path, without a host."""

from __future__ import annotations

import torch

SCALE = ".scale"


def unpack(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """fp32 of fp16, and of 8-bit rows times their scales; other integers stay."""
    scales = {name.removesuffix(SCALE): tensors[name].float() for name in tensors if name.endswith(SCALE)}
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    floats = {name: tensor.float() for name, tensor in plain.items() if tensor.is_floating_point()}
    return plain | floats | {name: plain[name].float() * scale for name, scale in scales.items()}


def pack(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 of the same shape, fp16 scale per row) of a weight [out, ...]; `unpack` undoes it to within half a step."""
    scale = tensor.abs().flatten(1).amax(1).clamp_min(1e-4).div(127).half().reshape(-1, *[1] * (tensor.dim() - 1))
    return tensor.div(scale.float()).round().clamp(-127, 127).to(torch.int8), scale


def packed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices and kernels as 8-bit rows (half the size; about 1 % of noise on a weight), the rest fp16."""
    tensors = {}
    for name, weight in weights.items():
        if weight.dim() > 1:
            tensors[name], tensors[name + SCALE] = pack(weight)
        else:
            tensors[name] = weight.half()
    return tensors
