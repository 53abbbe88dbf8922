"""Reading and writing ``.pth``, ``.pt`` and ``.bin`` files: the only place that unpickles, and tensors only.

Everything is bounded before torch sees it: the archive's table, the pickle's size, and the names it may call.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ..atomic import replacing
from ..errors import MixOfShowError
from .header import MAX_TENSORS, check_key

MAX_PICKLE = 4 * 2**20  # bytes of names and shapes; a full SD1.5 checkpoint needs about 300 kB
MAX_DEPTH = 8
MAX_NODES = 4 * MAX_TENSORS
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped")
ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch.storage UntypedStorage",
    *(f"torch {name}Storage" for name in STORAGES),
}
# What torch.load raises on damage that the checks before it cannot see.
LOAD_ERRORS = (
    RuntimeError,
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OSError,
    AssertionError,
    ImportError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    zipfile.BadZipFile,
)


def is_archive(path: Path) -> bool:
    """True for files that ``torch.save`` has written since 2020 (zip archives)."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def load_pickled(path: Path) -> dict:
    """The file's nested dict of plain values and contiguous tensors.

    Raises MixOfShowError for code in the pickle, compressed or oversized records, names that point elsewhere, aliased
    tensors that would unfold to more than the file's size, and for anything that is not a tree of tensors.
    """
    path = Path(path)
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = _load(path)
    except LOAD_ERRORS as error:
        raise MixOfShowError(f"{path.name} cannot be read ({str(error)[:200]}). Copy or download it again.") from error
    if not isinstance(tree, dict):
        raise MixOfShowError(f"{path.name} holds a {type(tree).__name__}, not a table of tensors.")
    return _TreeCopy(path.name, os.path.getsize(path)).copy(tree)


def _load(path: Path):
    """torch.load of an archive. Where a path ends in .safetensors it would look for another kind of file."""
    if path.suffix.lower() != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with open(path, "rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def save_pickled(path: Path, tree: Mapping) -> None:
    """Write a tree of plain tensors as torch does, atomically."""
    try:
        with replacing(Path(path)) as part:
            torch.save(_plain(tree), part)
    except (OSError, RuntimeError) as error:
        raise MixOfShowError(f"Could not write {path}: {error}. Free some space or choose another folder.") from error


def _plain(tree):
    if isinstance(tree, Tensor):
        return tree.detach().cpu().contiguous().clone()  # a view would take its whole storage along
    return {key: _plain(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree


def _check_archive(path: Path) -> None:
    size = os.path.getsize(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            _check_records(records, size, path.name)
            described = [record for record in records if PurePosixPath(record.filename).name == "data.pkl"]
            if len(described) != 1:
                raise MixOfShowError(f"{path.name} is a zip archive, but not one that torch.save has written.")
            if described[0].file_size > MAX_PICKLE:
                raise MixOfShowError(
                    f"{path.name}: its table of contents has {described[0].file_size} bytes; at most {MAX_PICKLE} "
                    "are read."
                )
            _check_pickle(archive.read(described[0]), path.name)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        raise MixOfShowError(f"{path.name} is a damaged archive ({error}). Copy or download it again.") from error


def _check_records(records: list[zipfile.ZipInfo], size: int, file_name: str) -> None:
    if len(records) > MAX_TENSORS + 16:
        raise MixOfShowError(f"{file_name} holds {len(records)} records; at most {MAX_TENSORS} tensors are read.")
    names = [record.filename for record in records]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise MixOfShowError(f"{file_name}: record {twice[:80]!r} is there twice; it is unclear which one counts.")
    for record in records:
        name = PurePosixPath(record.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in record.filename:
            raise MixOfShowError(f"{file_name}: record {record.filename[:80]!r} points outside the archive.")
        if stat.S_ISLNK(record.external_attr >> 16):
            raise MixOfShowError(f"{file_name}: record {record.filename[:80]!r} is a link; such files are not read.")
        if record.compress_type != zipfile.ZIP_STORED or record.file_size > size:
            raise MixOfShowError(
                f"{file_name}: record {record.filename[:80]!r} is compressed or larger than the file "
                f"({record.file_size} of {size} bytes); torch.save never writes that."
            )
    if sum(record.file_size for record in records) > size:
        raise MixOfShowError(f"{file_name}: its records are larger than the file; it is damaged or made to do harm.")


def _check_pickle(content: bytes, file_name: str) -> None:
    """Refuse every callable but the few that build tensors, by name, before the unpickler runs."""
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "GLOBAL" and argument not in ALLOWED:
                raise MixOfShowError(
                    f"{file_name} holds code ({argument!r}); only plain tensors are read. Ask its author for a "
                    "safetensors file."
                )
            if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
                raise MixOfShowError(f"{file_name} builds objects ({opcode.name}); only plain tensors are read.")
    except MixOfShowError:
        raise
    except Exception as error:  # pickletools raises many kinds on damaged input
        raise MixOfShowError(f"{file_name}: its table of contents is damaged ({str(error)[:120]}).") from error


class _TreeCopy:
    """Copies a loaded tree to plain dicts and owned tensors, counting what it meets."""

    def __init__(self, file_name: str, file_size: int):
        self.file_name, self.file_size = file_name, file_size
        self.nodes = self.bytes = 0

    def copy(self, value, depth: int = 0):
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise MixOfShowError(f"{self.file_name} is nested too deeply or holds too many values.")
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            return {check_key(key, self.file_name): self.copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.copy(item, depth + 1) for item in value]
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        raise MixOfShowError(f"{self.file_name} holds a {type(value).__name__}; only tables of tensors are read.")

    def _tensor(self, value: Tensor) -> Tensor:
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.device.type != "cpu":
            raise MixOfShowError(f"{self.file_name} holds a tensor of an odd kind ({value.dtype}, {value.layout}).")
        self.bytes += value.numel() * value.element_size()
        if self.bytes > self.file_size:
            raise MixOfShowError(
                f"{self.file_name}: its tensors unfold to more than its {self.file_size} bytes; that is refused."
            )
        return value.detach().clone(memory_format=torch.contiguous_format)
