"""What the host's parser makes of a LoRA file, as changes of ours: low rank as it is, else as the host computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import comfy.weight_adapter
import torch
from torch import Tensor

from ....mixofshow_core.delta import Delta, Dense, LowRank
from ....mixofshow_core.errors import MixOfShowError

TURNS_THE_WEIGHT = {
    comfy.weight_adapter.OFTAdapter: "OFT",
    comfy.weight_adapter.BOFTAdapter: "BOFT",
    comfy.weight_adapter.GLoRAAdapter: "GLoRA",
}


@dataclass(frozen=True)
class Target:
    """The layer that a patch changes; `where` names the file and the key in it.

    part: (dimension, start, length) of the weight's rows or columns that it changes; None: all of it.
    """

    layer: str
    known_shape: torch.Size | None
    base: Mapping[str, Tensor] | None
    where: str
    part: tuple[int, int, int] | None = None

    def weight(self, what: str) -> Tensor:
        """The base's weight; `what` needs it."""
        if self.base is None or self.layer not in self.base:
            raise MixOfShowError(
                f"{self.where} is a {what}: its change depends on the base's weight, which is not here. Connect the "
                "base's MODEL and CLIP to Load Concept (command line: --base CHECKPOINT)."
            )
        return self._part(self.base[self.layer].float())

    def whole_shape(self) -> torch.Size:
        """Of the whole weight, which the changes of its parts are laid into."""
        if self.base is not None and self.layer in self.base:
            return self.base[self.layer].shape
        if self.known_shape is None:
            raise MixOfShowError(f"{self.where} changes a part of a layer whose shape is not known: connect MODEL.")
        return self.known_shape

    def _part(self, weight: Tensor) -> Tensor:
        return weight if self.part is None else weight.narrow(*self.part)

    def shapes(self, adapter) -> Iterator[torch.Size]:
        """What the layer's shape may be: the base's, or else SD1.5's and SDXL's own and then what the factors give."""
        if self.part is not None:
            yield self._part(torch.empty(self.whole_shape(), device="meta")).shape
        elif self.base is not None and self.layer in self.base:
            yield self.base[self.layer].shape
        else:
            yield from (shape for shape in (self.known_shape, _flat_shape(adapter)) if shape)


def part_of(key: str | tuple) -> tuple[str, tuple[int, int, int] | None]:
    """(weight key, part of it or None) of a target in the host's tables."""
    return (key, None) if isinstance(key, str) else (key[0], key[1] and tuple(key[1]))


def is_turned(key: str | tuple) -> bool:
    """Whether the host turns the change before it lays it on (swapped halves): such a one is no change of ours."""
    return not isinstance(key, str) and len(key) > 2


def to_delta(patch, target: Target) -> Delta:
    """The patch as a change of the whole layer; MixOfShowError that names the key for what cannot be one."""
    delta = _to_delta(patch, target)
    return delta if target.part is None else laid_into(delta, tuple(target.whole_shape()), target.part)


def laid_into(delta: Delta, shape: tuple[int, ...], part: tuple[int, int, int]) -> Delta:
    """The change of a part of a weight as one of the whole: zeros elsewhere."""
    dimension, start, length = part
    if isinstance(delta, Dense):
        whole = delta.diff.new_zeros(shape)
        whole.narrow(dimension, start, length).copy_(delta.diff)
        return Dense(whole)
    sides = [delta.up, delta.down]
    side = sides[dimension]
    whole = side.new_zeros(shape[0], side.shape[1]) if dimension == 0 else side.new_zeros(side.shape[0], shape[1])
    whole.narrow(dimension, start, length).copy_(side)
    sides[dimension] = whole
    return LowRank(*sides, delta.alpha)


def joined(one: Delta, other: Delta) -> Delta:
    """Both changes of one layer, as parts of a weight give them: ranks side by side."""
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        one, other = one.scaled(1.0), other.scaled(1.0)
        return LowRank(torch.cat([one.up, other.up], 1), torch.cat([one.down, other.down]))
    return Dense(one.dense() + other.dense())


def _to_delta(patch, target: Target) -> Delta:
    if isinstance(patch, tuple):
        kind, (value, *_) = patch
        if kind == "diff":
            return Dense(value)
        if kind == "set":
            return Dense(value.float() - target.weight("whole weight (set_weight)"))
        raise MixOfShowError(f"{target.where} is a change of the kind {kind!r}, which is not known here.")
    patch = _without_core(patch)
    weights, what = patch.weights, TURNS_THE_WEIGHT.get(type(patch), "DoRA")
    is_lora = isinstance(patch, comfy.weight_adapter.LoRAAdapter)
    if is_lora and weights[5] is not None:
        raise MixOfShowError(f"{target.where} changes the layer's shape; such a LoRA is for another kind of model.")
    if type(patch) in TURNS_THE_WEIGHT or weights[4 if is_lora else -1] is not None:
        return _by_host_on_base(patch, what, target)
    if is_lora and weights[3] is None:
        return LowRank(weights[0].flatten(1), weights[1].flatten(1), weights[2])
    return _by_host(patch, target)


def _without_core(adapter):
    """LoKr with a Tucker core, with its second factor multiplied out: the host's reshape stops at it and adds nothing.

    w2[p, r, k, l] = sum_ij t2[i, j, k, l] w2_a[i, p] w2_b[j, r], times alpha / rank (LyCORIS' formula).
    """
    if not isinstance(adapter, comfy.weight_adapter.LoKrAdapter) or adapter.weights[7] is None:
        return adapter
    w1, w2, alpha, w1_a, w1_b, first, second, core, dora = adapter.weights
    if w2 is None and first is not None and second is not None:
        w2 = torch.einsum("ijkl,ip,jr->prkl", core.float(), first.float(), second.float())
        w2 = w2.contiguous() * (1.0 if alpha is None else alpha / second.shape[0])
        w1 = w1_a.float() @ w1_b.float() if w1 is None else w1
    return comfy.weight_adapter.LoKrAdapter(set(), (w1, w2, None, None, None, None, None, None, dora))


def _by_host(adapter, target: Target) -> Dense:
    """The change the host would add (LoHa, LoKr, Tucker), computed by the host on a zero weight."""
    # Where the factors do not fit, the host logs an error and adds nothing: zeros are believed of zero factors only.
    nothing = any(isinstance(part, Tensor) and not bool(part.float().any()) for part in adapter.weights)
    for shape in target.shapes(adapter):
        diff = _calculate(adapter, torch.zeros(shape), target.where)
        if diff is not None and (bool(diff.any()) or nothing):
            return Dense(diff)
    raise MixOfShowError(f"{target.where}: its change does not fit the layer.")


def _by_host_on_base(adapter, what: str, target: Target) -> Dense:
    """W' - W for changes that depend on W, with W' computed by the host at strength 1."""
    weight = target.weight(what)
    changed = _calculate(adapter, weight.clone(), target.where)
    if changed is None or torch.equal(changed, weight):
        raise MixOfShowError(f"{target.where}: ComfyUI cannot apply this {what} to a {tuple(weight.shape)} weight.")
    return Dense(changed - weight)


def _calculate(adapter, weight: Tensor, where: str) -> Tensor | None:
    try:
        return adapter.calculate_weight(weight, where, 1.0, 1.0, None, lambda value: value, torch.float32, None)
    except (RuntimeError, IndexError, TypeError):
        return None


def _flat_shape(adapter) -> torch.Size | None:
    """The shape that the factors themselves give, for nets that are not as wide as the real ones."""
    weights = adapter.weights
    if isinstance(adapter, comfy.weight_adapter.LoRAAdapter):
        return torch.Size((weights[0].shape[0], weights[1].shape[1], *weights[3].shape[2:]))
    if isinstance(adapter, comfy.weight_adapter.LoHaAdapter):
        first, second, core = weights[0], weights[1], weights[5]
        return torch.Size(_product(first, second, core))
    if isinstance(adapter, comfy.weight_adapter.LoKrAdapter):
        w1, w2, _, w1_a, w1_b, w2_a, w2_b, core, _ = weights
        outer = w1.shape if w1 is not None else (w1_a.shape[0], w1_b.shape[1])
        inner = w2.shape if w2 is not None else _product(w2_a, w2_b, core)
        return torch.Size((outer[0] * inner[0], outer[1] * inner[1], *inner[2:]))
    return None


def _product(first: Tensor, second: Tensor, core: Tensor | None) -> tuple[int, ...]:
    """Shape of first @ second, or of Tucker's form with a core [r, r, ...], where `first` is transposed."""
    if core is None:
        return first.shape[0], second.shape[1]
    return first.shape[1], second.shape[1], *core.shape[2:]
