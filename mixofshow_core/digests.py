"""What tells two files apart."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
