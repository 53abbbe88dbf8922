"""The one way in which files are written: whole or not at all."""

from __future__ import annotations

import os
import platform
import re
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

# .<name>.<machine>-<process>-<its token>.<number>.part
PART = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-([0-9a-f]{8})\.[0-9a-f]{8}\.part")
FOREIGN_AGE = 86_400  # seconds after which a part of another machine, whose processes cannot be seen, is given up


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path beside ``path``; what is written there is synced and takes the place of ``path`` at the end.

    When the block raises, or the disk is full, ``path`` stays as it was and nothing is left behind; what a killed
    process left is swept by the next one that writes into the folder. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    part = path.with_name(f".{path.name}.{_writer()}.{uuid.uuid4().hex[:8]}.part")
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


def sweep(folder: Path) -> None:
    """Remove the unfinished files of processes that are gone."""
    for part in folder.glob(".*.part"):
        found = PART.fullmatch(part.name)
        try:
            if found is not None and not _is_written(part, *found.groups()):
                part.unlink(missing_ok=True)
        except OSError:  # another process was faster, or the file is not ours to remove
            continue


@lru_cache(maxsize=1)
def _token() -> str:
    """Tells this process from an earlier one of the same number: in a container every start has the same."""
    return uuid.uuid4().hex[:8]


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _writer() -> str:
    return f"{_machine()}-{os.getpid()}-{_token()}"


def _is_written(part: Path, machine: str, process: str, token: str) -> bool:
    """Whether somebody may still be writing it."""
    if machine != _machine():
        return time.time() - part.stat().st_mtime < FOREIGN_AGE
    if int(process) == os.getpid():
        return token == _token()
    return _is_alive(int(process))


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 ends a process; an open file cannot be removed anyway
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
