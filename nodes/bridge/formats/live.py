"""The weights of a connected MODEL and CLIP by layer name, with the LoRAs that are on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from torch import Tensor

from ..host.model import effective, key_patches, named_linears, patch_key


class LiveWeights(Mapping[str, Tensor]):
    """fp32 weights of MODEL's and CLIP's linear layers by layer name, LoRAs on them included; computed on access.

    Norms, biases and convolutions are known too, though not listed.
    """

    def __init__(self, model, clip=None):
        self.model, self.clip = model, clip
        self._layers = list(named_linears(model, clip))
        self._patches = key_patches(model) | (key_patches(clip.patcher) if clip is not None else {})

    def __getitem__(self, layer: str) -> Tensor:
        return effective(self._patches[patch_key(layer)], patch_key(layer))

    @property
    def weight_keys(self) -> Set[str]:
        """The host's keys of all weights that are there, norms, biases and kernels included."""
        return self._patches.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, str) and patch_key(layer) in self._patches


def base_weights(model, clip=None) -> LiveWeights | None:
    """What files with whole weights are compared with; None without a MODEL."""
    return None if model is None else LiveWeights(model, clip)
