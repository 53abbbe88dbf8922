"""The bases' autoencoder without a host: nodes/bridge/demo/small_autoencoder.py by its path, and a snapshot of one."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "assets" / "demo" / "small_base.safetensors"
SNAPSHOT = ROOT / ".cache" / "world" / "autoencoder.pt"


@cache
def demo_module(name: str) -> ModuleType:
    """A module of nodes/bridge/demo by its path; the package around it needs the host."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "nodes" / "bridge" / "demo" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nets() -> ModuleType:
    return demo_module("small_autoencoder")


def load(path: Path = SNAPSHOT) -> torch.nn.Module:
    """The averaged weights of a snapshot, on the CPU; without one, those of the shipped base."""
    if path == SNAPSHOT and not path.exists():
        return of_base(SHIPPED)
    return nets().from_weights(torch.load(path, map_location="cpu")["average"])


def of_base(path: Path) -> torch.nn.Module:
    """The autoencoder in a base's file."""
    with safe_open(path, framework="pt") as file:
        stored = {name[4:]: file.get_tensor(name) for name in file.keys() if name.startswith("vae.")}  # noqa: SIM118
    return nets().from_weights(demo_module("rows").unpack(stored))


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> [N, 3, H, W] in -1..1."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
