"""A small T2I-Adapter for the small bases: the host's own Adapter, but its places in the UNet differ from SD1.5's.

It reads a sketch (white lines on black, as the host's Canny node draws them) and adds features at 8 and 4 cells a side.
The host's loader knows adapters by SD1.5's and SDXL's shapes only, so this one has a loader of its own.
"""

from __future__ import annotations

from pathlib import Path

import comfy.controlnet
import comfy.t2i_adapter.adapter
import torch
from safetensors.torch import load_file

from ....mixofshow_core.errors import MixOfShowError
from .rows import unpack
from .small_base import WEIGHTS

SKETCH = WEIGHTS.parent / "small_sketch_adapter.safetensors"
CHANNELS = [64, 128]  # of the small UNet's two levels
CELLS = 8 * 8  # pixels of one latent cell: the sketch has one channel


class SmallAdapter(comfy.t2i_adapter.adapter.Adapter):
    """Features for the last block of each level of the small UNet; its input blocks are 0 to 3."""

    def __init__(self) -> None:
        super().__init__(cin=CELLS, channels=CHANNELS, nums_rb=2, ksize=1, sk=True, use_conv=False, xl=False)
        # The host's class halves the size before its level 1, 2 and 3, as wanted here.

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
        """[B, 1, 8 h, 8 w] in 0..1 -> residuals; the host takes them from the end of the list."""
        coarse, fine = [part for part in super().forward(x)["input"] if part is not None]
        return {"input": [coarse, None, fine, None]}


def load_sketch_adapter(path: Path | str = SKETCH) -> comfy.controlnet.T2IAdapter:
    """CONTROL_NET for the small bases. MixOfShowError when the file is missing or is not this adapter."""
    path, adapter = Path(path), SmallAdapter()
    if not path.is_file():
        raise MixOfShowError(f"The small adapter's weights are missing: {path}. Reinstall the pack.")
    try:
        adapter.load_state_dict(unpack(load_file(str(path))))
    except Exception as error:  # an unreadable file raises several kinds
        raise MixOfShowError(f"The small adapter's file {path} is unreadable ({error}). Reinstall the pack.") from error
    adapter.eval().requires_grad_(False)
    return comfy.controlnet.T2IAdapter(adapter, adapter.input_channels, 8, "nearest-exact")
