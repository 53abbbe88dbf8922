"""Statistics on disk: one safetensors file per calibration, symmetric matrices packed, read lazily, limited in size.

A file is named by the hash of everything that went into it (plan, prompts, concept, strength, base), so it is found
again when the same calibration is asked for, and is safe to delete at any time.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from ..errors import MixOfShowError
from ..linalg import pack_symmetric, unpack_symmetric
from .statistics import Gram, Statistics

log = logging.getLogger("mixofshow")

SUFFIX = ".stats.safetensors"
DEFAULT_LIMIT = 10 * 1000**3
FORMAT = "3"
ROWS = "rows|"  # tensors of this name hold rows [n, d] instead of a packed matrix


class StoredGrams(Mapping):
    """Grams of one file, unpacked one at a time when asked for: memory does not grow with the number of concepts."""

    def __init__(self, path: Path, facts: Mapping[str, tuple[float, int, str]]) -> None:
        self.path = path
        self._facts = dict(facts)

    def __getitem__(self, name: str) -> Gram:
        weight, rows, key = self._facts[name]
        try:
            with safe_open(self.path, framework="pt", device="cpu") as file:
                return _as_gram(key, file.get_tensor(key), weight, rows)
        except (SafetensorError, OSError) as error:
            raise MixOfShowError(f"statistics {self.path} cannot be read ({error}): delete the file") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


def _as_gram(key: str, tensor: Tensor, weight: float, rows: int) -> Gram:
    if key.startswith(ROWS):
        return Gram(tensor.double(), weight, rows, factored=True)
    return Gram(unpack_symmetric(tensor.float()), weight, rows, rounded=True)


class StatisticsStore:
    """A folder of statistics. `limit` is in bytes; the files that were not used for longest go first."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = Path(folder)
        self.limit = limit

    def path_of(self, identity: str) -> Path:
        return self.folder / f"{identity[:32]}{SUFFIX}"

    def load(self, identity: str, needed: frozenset[str]) -> Statistics | None:
        """The statistics of that identity if they are there, whole, and cover all `needed` groups."""
        path = self.path_of(identity)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                header = json.loads((file.metadata() or {})["mixofshow.statistics"])
                keys = set(file.keys())
            facts = {name: (float(w), int(rows), str(key)) for name, (w, rows, key) in header["groups"].items()}
            complete = {key for _, _, key in facts.values()} <= keys
            whole = header["format"] == FORMAT and header["identity"] == identity and complete
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("Statistics file %s is damaged (%s); collecting again.", path.name, error)
            return None
        if not whole or not needed <= set(header["asked"]):
            return None
        os.utime(path)  # used now
        return Statistics(StoredGrams(path, facts), header["manifest"])

    def save(self, identity: str, statistics: Statistics, asked: frozenset[str]) -> Statistics:
        """Write and return the statistics as they will be read from now on (float32 on disk).

        `asked`: every group that was watched, also those that saw no row. Without room on the disk the rounded
        statistics stay in memory, so a fusion gives the same bytes either way.
        """
        path = self.path_of(identity)
        # Layers that saw the same rows (K and V of a concept without layered words) share one matrix, here and on disk.
        first: dict[int, str] = {}
        facts = {
            name: (gram.weight, gram.rows, first.setdefault(id(gram), name)) for name, gram in statistics.grams.items()
        }
        tensors = {}
        for name in first.values():
            gram = statistics.grams[name]
            key = f"{ROWS}{name}" if gram.factored else name
            tensors[key] = (gram.stored if gram.factored else pack_symmetric(gram.stored)).float().contiguous()
        keys = {key.removeprefix(ROWS): key for key in tensors}
        facts = {name: (weight, rows, keys[key]) for name, (weight, rows, key) in facts.items()}
        header = {
            "format": FORMAT,
            "identity": identity,
            "asked": sorted(asked),
            "groups": facts,
            "manifest": statistics.manifest,
        }
        try:
            self.make_room(sum(tensor.numel() * 4 for tensor in tensors.values()))
            with replacing(path) as part:
                save_file(tensors, part, metadata={"mixofshow.statistics": json.dumps(header, sort_keys=True)})
        except (OSError, SafetensorError) as error:
            log.warning("Statistics could not be kept in %s (%s); they stay in memory.", self.folder, error)
            grams = {name: _as_gram(key, tensors[key], weight, rows) for name, (weight, rows, key) in facts.items()}
            return Statistics(grams, statistics.manifest)
        return Statistics(StoredGrams(path, facts), statistics.manifest)

    def size(self) -> int:
        """Bytes in use."""
        return sum(path.stat().st_size for path in self.folder.glob(f"*{SUFFIX}"))

    def make_room(self, wanted: int) -> None:
        """Delete what was not used for longest until `wanted` bytes fit under the limit.

        Files used in the last ten minutes stay: they may belong to the fusion that is running.
        """
        files = sorted(self.folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        used = sum(path.stat().st_size for path in files)
        for path in files:
            if used + wanted <= self.limit or time.time() - path.stat().st_mtime < 600:
                return
            used -= path.stat().st_size
            path.unlink(missing_ok=True)
            log.info("Removed old statistics %s.", path.name)
