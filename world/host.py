"""Makes ComfyUI's classes and this pack's bridge importable from a plain script: set COMFYUI_PATH first."""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"A": "small_base", "B": "small_base_xl", "C": "small_base_dit"}  # modules of nodes/bridge/demo, and files


def find_host() -> Path:
    """COMFYUI_PATH, or the copy that `python dev.py` keeps in the cache."""
    candidates = [os.environ.get("COMFYUI_PATH", ""), *map(str, sorted((ROOT / ".cache" / "host").glob("**/comfy")))]
    for candidate in candidates:
        path = Path(candidate)
        path = path.parent if path.name == "comfy" else path
        if candidate and (path / "comfy" / "sd.py").is_file():
            return path
    raise SystemExit("ComfyUI was not found: set COMFYUI_PATH to its folder, or run `python dev.py test` once.")


def weights_of(base: str) -> Path:
    """The file that ships of base "A" (SD1.5's kind), "B" (SDXL's) or "C" (Cosmos')."""
    return ROOT / "assets" / "demo" / f"{MODULES[base]}.safetensors"


def small_base() -> types.ModuleType:
    """The module nodes/bridge/demo/small_base.py, loaded into a real host on the CPU."""
    if "mos_pack" not in sys.modules:
        host = find_host()
        sys.path.insert(0, str(host))
        arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
        import torch

        # torchvision has no plain CPU build on the index; its compiled operators are never called here.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401  reads sys.argv now

        sys.argv = arguments
        pack = types.ModuleType("mos_pack")
        pack.__path__ = [str(ROOT)]
        pack.torch_library = library
        sys.modules["mos_pack"] = pack
    return importlib.import_module("mos_pack.nodes.bridge.demo.small_base")


def small_base_xl() -> types.ModuleType:
    """The module nodes/bridge/demo/small_base_xl.py, likewise."""
    small_base()
    return importlib.import_module("mos_pack.nodes.bridge.demo.small_base_xl")


def small_base_dit() -> types.ModuleType:
    """The module nodes/bridge/demo/small_base_dit.py, likewise."""
    small_base()
    return importlib.import_module("mos_pack.nodes.bridge.demo.small_base_dit")
