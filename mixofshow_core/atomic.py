"""The one way in which files are written: whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path beside ``path``; what is written there is synced and takes the place of ``path`` at the end.

    When the block raises, or the disk is full, ``path`` stays as it was and nothing is left behind. Missing folders
    are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.touch(exist_ok=False)
        mode = part.stat().st_mode  # as the umask has it; some writers make files for their owner only
        yield part
        os.chmod(part, mode)
        with open(part, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
