"""Starts a ComfyUI folder's main.py: `python launcher.py <ComfyUI folder> <arguments of main.py ...>`."""

import os
import runpy
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]  # nothing of ours may shadow the host's modules
    host = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(host))
    declare_torchvision_ops()
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    sys.argv = [str(host / "main.py"), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def end_with_parent(parent: int) -> None:
    """A killed test run or terminal must not leave a server behind (where the system tells: not on Windows)."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def declare_torchvision_ops() -> None:
    """torchvision has no CPU build for every torch: its import stops when its compiled operators are unknown.

    Declaring their signatures is enough, because nothing here calls them. Operators that exist are left alone.
    """
    import torch

    arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", arguments)


if __name__ == "__main__":
    main()
