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
from ..linalg import pack_symmetric
from .compressed import LOW, expand, parts_of
from .statistics import Gram, Statistics

log = logging.getLogger("mixofshow")

SUFFIX = ".stats.safetensors"
DEFAULT_LIMIT = 10 * 1000**3
FORMAT = "3"
ROWS = "rows|"  # tensors of this name hold rows [n, d] instead of a packed matrix
BESIDE = ".statistics"  # suffix of statistics that lie beside a concept's file: no list of LoRAs shows them
HEADER = "mixofshow.statistics"
# What a header that somebody else wrote may do to its reader.
DAMAGE = (
    SafetensorError,
    OSError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
    OverflowError,
)


class StoredGrams(Mapping):
    """Grams of one file, read one at a time when asked for: memory does not grow with the number of concepts."""

    def __init__(self, path: Path, facts: Mapping[str, tuple[float, int, str]]) -> None:
        self.path = path
        self.facts = dict(facts)  # group -> weight, rows, key of its tensor, which several groups may share

    def __getitem__(self, name: str) -> Gram:
        weight, rows, key = self.facts[name]
        try:
            with safe_open(self.path, framework="pt", device="cpu") as file:
                tensors = {one: file.get_tensor(one) for one in keys_of(key)}
                return as_gram(key, tensors, weight, rows)
        except (SafetensorError, OSError) as error:
            raise MixOfShowError(f"statistics {self.path} cannot be read ({error}): delete the file") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.facts)

    def __len__(self) -> int:
        return len(self.facts)


def keys_of(key: str) -> tuple[str, ...]:
    """All tensors of one matrix: a compressed one has three."""
    return parts_of(key) if key.startswith(LOW) else (key,)


def as_gram(key: str, tensors: Mapping[str, Tensor], weight: float, rows: int) -> Gram:
    if key.startswith(LOW):
        return Gram(expand(*(tensors[one] for one in parts_of(key))), weight, rows, rounded=True)
    if key.startswith(ROWS):
        return Gram(tensors[key].double(), weight, rows, factored=True)
    return Gram(tensors[key].float(), weight, rows, rounded=True, packed=True)


def read_statistics(path: Path) -> tuple[Statistics, dict]:
    """A file of statistics and its header (identity, asked, manifest ...); its matrices are read when asked for."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            keys = set(file.keys())
        facts = {name: (float(w), int(rows), str(key)) for name, (w, rows, key) in header["groups"].items()}
        wanted = {one for _, _, key in facts.values() for one in keys_of(key)}
        manifest, asked = dict(header["manifest"]), list(map(str, header["asked"]))
    except DAMAGE as error:
        raise MixOfShowError(f"Statistics file {path.name} is damaged ({error}).") from error
    if header.get("format") != FORMAT:
        raise MixOfShowError(
            f"Statistics file {path.name} has format {header.get('format')!r}; this pack reads {FORMAT}."
        )
    if wanted - keys:
        raise MixOfShowError(f"Statistics file {path.name} is damaged ({len(wanted - keys)} matrices are missing).")
    return Statistics(StoredGrams(path, facts), manifest), {**header, "asked": asked}


def write_statistics(path: Path, header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Whole or not at all. header: identity, asked, groups (facts by group), manifest."""
    with replacing(path) as part:
        save_file(dict(tensors), part, metadata={HEADER: json.dumps({"format": FORMAT, **header}, sort_keys=True)})


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
            found, header = read_statistics(path)
        except MixOfShowError as error:
            log.warning("%s Collecting again.", error)
            return None
        if header.get("identity") != identity or not needed <= set(header["asked"]):
            return None
        os.utime(path)  # used now
        return found

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
            tensors[key] = (gram.stored if gram.factored else pack_symmetric(gram.matrix)).float().contiguous()
        keys = {key.removeprefix(ROWS): key for key in tensors}
        facts = {name: (weight, rows, keys[key]) for name, (weight, rows, key) in facts.items()}
        header = {
            "identity": identity,
            "asked": sorted(asked),
            "groups": facts,
            "manifest": statistics.manifest,
        }
        try:
            self.make_room(sum(tensor.numel() * 4 for tensor in tensors.values()))
            write_statistics(path, header, tensors)
        except (OSError, SafetensorError) as error:
            log.warning("Statistics could not be kept in %s (%s); they stay in memory.", self.folder, error)
            grams = {name: as_gram(key, tensors, weight, rows) for name, (weight, rows, key) in facts.items()}
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
