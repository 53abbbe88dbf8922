"""Starts a ComfyUI folder's main.py: `python launcher.py <ComfyUI folder> <arguments of main.py ...>`."""

import os
import runpy
import sys
import threading
import time
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]


def main() -> None:
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]  # nothing of ours may shadow the host's modules
    host = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(host))
    declare_torchvision_operators()
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    sys.argv = [str(host / "main.py"), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def end_with_parent(parent: int) -> None:
    """A killed test run or terminal must not leave a server behind (where the system tells: not on Windows)."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def declare_torchvision_operators() -> None:
    """By path, because neither the host nor the pack can be imported yet."""
    runpy.run_path(str(PACK / "mixofshow_core" / "operators.py"))["declare_missing"]()


if __name__ == "__main__":
    main()
