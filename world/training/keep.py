"""A snapshot of a run: whole, or the one before."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def keep(state: dict, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)
