"""A second device on any machine: tensors that call themselves "meta", keep their numbers, and never meet the CPU's.

No GPU is at hand, and torch has no other device that calculates. What this shows: nothing that belongs on the device is
made, read or mixed on the CPU, and how many bytes it takes there at most. What it does not show: a GPU's own rounding.
"""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")


class There(torch.Tensor):
    """A tensor of the second device; `inner` holds its numbers."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of Elsewhere")


class Elsewhere(TorchDispatchMode):
    """While it is on, DEVICE calculates. peak: the most bytes that its tensors held at once."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.calls = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = tree_flatten((args, kwargs))[0]
        there = [one for one in given if isinstance(one, There)]
        wanted = kwargs.get("device")
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu") if wanted == DEVICE else wanted
        lands = wanted == DEVICE or (bool(there) and wanted is None)
        if there and func is not torch.ops.aten._to_copy.default:
            strangers = [o for o in given if isinstance(o, torch.Tensor) and not isinstance(o, There) and o.dim()]
            assert not strangers, f"{func} mixes devices: {[tuple(one.shape) for one in strangers]}"
        owners = {id(one.inner): one for one in there}
        args, kwargs = tree_map(lambda one: one.inner if isinstance(one, There) else one, (args, kwargs))
        found = func(*args, **kwargs)
        self.calls += lands

        def give(one):
            if not isinstance(one, torch.Tensor) or not lands:
                return one
            self._count(one)
            return owners[id(one)] if id(one) in owners else There(one)

        return tree_map(give, found)

    def _count(self, tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.live:
            self.live[key] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))
