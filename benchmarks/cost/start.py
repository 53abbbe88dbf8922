"""What every benchmark begins with: the pack's names as the tests have them, and a ComfyUI in this process."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def name_packages() -> None:
    """Make the pack importable as `mos_pack`, without a host."""
    spec = importlib.util.spec_from_file_location("mos_conftest", ROOT / "tests" / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def start(arguments: Sequence[str] = ("--cpu",)) -> None:
    """The same, with the host in this process, given these options; ends the program where there is none."""
    name_packages()
    from mos_tests.host.runtime import find_host, start_host_in_process

    if (host := find_host()) is None:
        sys.exit("No ComfyUI found: run `python dev.py test` once, or set COMFYUI_PATH to a ComfyUI folder.")
    start_host_in_process(host, arguments)


def host_options() -> str:
    """The text in which the host lists its options; empty where there is no host."""
    name_packages()
    from mos_tests.host.runtime import find_host

    host = find_host()
    return "" if host is None else (host / "comfy" / "cli_args.py").read_text(encoding="utf-8")
