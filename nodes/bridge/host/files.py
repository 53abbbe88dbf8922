"""Where concept files live, and safe ways to name, list and find them.

A concept's name in a widget is its path below the loras folder with forward slashes (`mixofshow/mara.safetensors`), or
the path below the output folder followed by ` [output]`, which is how the host marks output files, or the path below
the embeddings folder followed by ` [embeddings]`, or a LoRA that comes with this pack followed by ` [demo]`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import folder_paths

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.formats.diffusers_names import PEFT_CONFIG
from ....mixofshow_core.formats.side_files import TEXTS
from ....mixofshow_core.fusion.store import BESIDE
from ....mixofshow_core.names import normal

PACK = Path(__file__).resolve().parents[3]  # the folder of this node pack
FOLDER = "mixofshow"
SUFFIX = ".safetensors"
READABLE = (SUFFIX, ".sft", ".pth", ".pt", ".bin")  # suffixes that are listed; what a file is is told by its content
OUTPUT_MARK = " [output]"
EMBEDDING_MARK = " [embeddings]"
DEMO_MARK = " [demo]"
DEMO_LORAS = PACK / "assets" / "demo" / "loras"
STEPS = "steps"
MAX_NAME = 80  # bytes of a file name, well below every file system's limit
RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}


def concept_folder(where: str = "loras") -> Path:
    """models/loras/mixofshow or output/mixofshow; it need not exist yet."""
    if where == "loras":
        return Path(folder_paths.get_folder_paths("loras")[0]) / FOLDER
    if where == "output":
        return Path(folder_paths.get_output_directory()) / FOLDER
    raise MixOfShowError(f"unknown place {where!r} for a concept file: use 'loras' or 'output'")


def work_folder(kind: str) -> Path:
    """user/mixofshow/<kind>, created: for caches and snapshots, which are safe to delete."""
    folder = Path(folder_paths.get_user_directory()) / FOLDER / safe_name(kind)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def safe_name(name: str) -> str:
    """A file name (no suffix) that every system accepts: letters, digits, `-`, `_`, `.` and spaces inside."""
    stem = normal(name).strip()
    if stem.lower().endswith(SUFFIX):
        stem = stem[: -len(SUFFIX)]
    marks = "".join(char for char in stem if unicodedata.category(char)[0] == "M")  # vowel signs of Indic scripts
    stem = re.sub(rf"[^\w.\- {re.escape(marks)}]+", "_", stem).strip(" ._")
    stem = stem.encode()[:MAX_NAME].decode(errors="ignore").rstrip(" .")
    if not stem:
        raise MixOfShowError(f"the name {name!r} gives no usable file name: use letters or digits")
    return f"{stem}_" if stem.split(".")[0].lower() in RESERVED else stem


def concept_save_path(name: str, where: str = "loras") -> Path:
    """A path that does not exist yet, in a folder that does: name.safetensors, else name-2.safetensors and so on."""
    return _free_path(concept_folder(where), safe_name(name))


def step_folder() -> Path:
    """output/mixofshow/steps: what training runs were before their end, where no LoRA list shows it."""
    return concept_folder("output") / STEPS


def step_path(name: str, step: int, is_ours: Callable[[Path], bool]) -> Path:
    """The file of one step: over what this same run left there before (``is_ours``), else a name that is still free."""
    path = step_folder() / f"{safe_name(name)}-step{step}{SUFFIX}"
    return path if path.is_file() and is_ours(path) else _free_path(path.parent, path.stem)


def _free_path(folder: Path, stem: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, count = folder / f"{stem}{SUFFIX}", 1
    while path.exists():
        count += 1
        path = folder / f"{stem}-{count}{SUFFIX}"
    return path


def list_concept_files() -> list[str]:
    """Names for a file widget: our loras folder, then our output folder, every other LoRA file, embeddings, the demo's
    own, and last what training runs were before their end."""
    loras = sorted({name.replace(os.sep, "/") for name in folder_paths.get_filename_list("loras")}, key=str.lower)
    loras = [name for name in loras if name.lower().endswith(READABLE)]
    ours = [name for name in loras if name.startswith(f"{FOLDER}/")]
    output = concept_folder("output")
    files = [path for path in output.rglob("*") if path.suffix.lower() in READABLE and path.is_file()]
    saved = sorted(f"{path.relative_to(output.parent).as_posix()}{OUTPUT_MARK}" for path in files)
    steps = [name for name in saved if name.startswith(f"{FOLDER}/{STEPS}/")]
    words = [name.replace(os.sep, "/") for name in folder_paths.get_filename_list("embeddings")]
    words = sorted((name for name in words if name.lower().endswith(READABLE)), key=str.lower)
    return [
        *ours,
        *(name for name in saved if name not in set(steps)),
        *(name for name in loras if name not in set(ours)),
        *(f"{name}{EMBEDDING_MARK}" for name in words),
        *(f"{path.name}{DEMO_MARK}" for path in sorted(DEMO_LORAS.glob(f"*{SUFFIX}"))),
        *steps,
    ]


def resolve_concept_file(name: str) -> Path:
    """The file a name stands for. Only files in the loras, embeddings, output and demo folders are opened."""
    wanted, folders = name.strip(), [Path(folder) for folder in folder_paths.get_folder_paths("loras")]
    output = Path(folder_paths.get_output_directory())
    if wanted.endswith(OUTPUT_MARK):
        wanted, folders = wanted[: -len(OUTPUT_MARK)], [output]
    elif wanted.endswith(EMBEDDING_MARK):
        wanted = wanted[: -len(EMBEDDING_MARK)]
        folders = [Path(folder) for folder in folder_paths.get_folder_paths("embeddings")]
    elif wanted.endswith(DEMO_MARK):
        wanted, folders = wanted[: -len(DEMO_MARK)], [DEMO_LORAS]
    if not wanted:
        raise MixOfShowError(f"no concept file chosen: pick one in `file`, or put one into {concept_folder()}")
    relative = wanted.replace("\\", "/")
    if os.path.isabs(wanted):
        folders = [*folders, output]
    outside = True
    for folder in folders:
        path = Path(wanted) if os.path.isabs(wanted) else folder / relative
        if not _is_inside(path, folder):
            continue
        outside = False
        if path.is_file():
            return path
    if outside:
        raise MixOfShowError(f"the concept file {name!r} lies outside the loras and output folders: move it into them")
    raise MixOfShowError(f"concept file {name!r} not found: put it into {concept_folder()} and refresh the list")


def _is_inside(path: Path, folder: Path) -> bool:
    """True if the path as written is below the folder; links that the user made inside the folder are followed."""
    if ".." in path.parts:
        return False
    return any(_below(os.path.normpath(path), root) for root in (os.path.normpath(folder), os.path.realpath(folder)))


def _below(path: str, root: str) -> bool:
    try:
        return os.path.commonpath([path, root]) == root and path != root
    except ValueError:  # different drives
        return False


def check_concept_file(name: str) -> bool | str:
    """True, or what is wrong with a chosen file: the answer of a node's ``validate_inputs``."""
    try:
        resolve_concept_file(name)
    except MixOfShowError as error:
        return str(error)
    return True


def file_fingerprint(name: str) -> tuple:
    """Changes when the chosen file does, or one beside it that is read with it: for a node's ``fingerprint_inputs``."""
    try:
        path = resolve_concept_file(name)
    except MixOfShowError:
        return (name,)
    beside = (path.with_name(f"{path.stem}{suffix}") for suffix in (*TEXTS, BESIDE))
    return name, *(_state(file) for file in (path, *beside, path.with_name(PEFT_CONFIG)))


def _state(path: Path) -> tuple[int, int]:
    """When a file was written, and its size; (0, 0) where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_mtime_ns, facts.st_size
