"""One door for every file: what it is is told by its content, never by its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..concept import BaseInfo, Concept
from ..errors import MixOfShowError
from ..families.known import family_by_signs
from ..renaming import renamed
from .absolute import BaseWeights, is_absolute, read_absolute
from .checkpoint import CONCEPT_TABLE, is_fused_folder, read_fused_folder
from .dialect import ReadResult, check_concept
from .diffusers_names import PEFT_WEIGHTS, peft_parts
from .edlora import EMBEDDINGS, is_edlora, nest, read_edlora
from .native import is_native, load_safetensors, parse_concept
from .pickled import is_archive, load_pickled
from .pivotal import is_pivotal, read_pivotal
from .textual_inversion import is_textual_inversion, read_bundle, read_textual_inversion

LORA_MARKS = (
    ".lora_up.",
    ".lora_down.",
    ".lora_A.",
    ".lora_B.",
    "_lora.up.",
    "_lora.down.",
    ".lora.up.",
    ".lora.down.",
    ".lora_linear_layer.",
    ".hada_w",
    ".lokr_w",
    ".dora_scale",
    ".lora_magnitude_vector",
    ".oft_",
    ".boft_",
    ".lora_mid.",
    ".a1.weight",
    ".b1.weight",
    ".ia3_l",
    ".vera_lambda",
)
LORA_ENDS = (".diff", ".diff_b", ".set_weight", ".w_norm", ".b_norm")
CHECKPOINT_MARKS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.embedders.")


def read_any(
    path: Path | str,
    base: BaseWeights | None = None,
    name: str = "",
    step: Callable[[int, int], None] = lambda done, total: None,
) -> ReadResult:
    """Read a file (or a fused diffusers folder) of any dialect we know.

    `base` gives the weights that files with whole weights are compared with; `name` gives concepts other plain names
    (renaming.py). Kind "lora" means: a foreign LoRA, to be parsed by the host; its `concept` then holds only bundled
    embeddings, or is None. Raises MixOfShowError with the file, the key and the reason. `step(done, total)` is called
    for every key of files with whole weights.
    """
    path = Path(path)
    if path.is_dir():
        if is_fused_folder(path):
            result = read_fused_folder(path, base, step)
            return replace(result, concept=renamed(result.concept, name))
        if peft_parts(path):
            return ReadResult("lora", notes=("a PEFT adapter, read by ComfyUI's own LoRA loader",))
        raise MixOfShowError(
            f"{path.name} is a folder, neither of a fused model ({CONCEPT_TABLE}) nor of a PEFT adapter "
            f"(unet/{PEFT_WEIGHTS}); give a file, or such a folder."
        )
    if not path.is_file():
        raise MixOfShowError(f"No file {path.name}. Put it into models/loras or models/loras/mixofshow and refresh.")
    tree, metadata = load_tree(path)
    result = replace(_dispatch(tree, metadata, path.name, base, step), metadata=metadata)
    return replace(result, concept=renamed(result.concept, name)) if name and result.concept else result


def load_tree(path: Path) -> tuple[dict, dict[str, str]]:
    """The content of a safetensors file or of a torch archive, and the former's metadata."""
    if os.path.getsize(path) < 10:
        raise MixOfShowError(f"{path.name} has {os.path.getsize(path)} bytes; that is no model file.")
    with open(path, "rb") as file:
        start = file.read(10)
    if is_archive(path):
        return load_pickled(path), {}
    if start[:1] == b"\x80" and start[8:9] != b"{":
        raise MixOfShowError(
            f"{path.name} is a bare pickle (torch before 2020, or plain Python); such files can run code and are not "
            "read. Load and save it again with a current torch, best as safetensors."
        )
    return load_safetensors(path)


@dataclass(frozen=True, eq=False)
class Opened:
    """A file's content, which every row of `READERS` is shown in turn.

    ``tree`` lies as in the file; ``nested`` has the dotted keys of ED-LoRA's layout taken apart (same tensors).
    """

    file_name: str
    tree: dict
    nested: dict
    metadata: Mapping[str, str]
    base: BaseWeights | None
    step: Callable[[int, int], None]

    @classmethod
    def of(cls, tree: dict, metadata: Mapping[str, str], file_name: str, base, step) -> Opened:
        if is_native(metadata):
            return cls(file_name, tree, tree, metadata, base, step)
        tree = tree["params"] if isinstance(tree.get("params"), dict) else tree
        if not tree:
            raise MixOfShowError(f"{file_name} holds no tensors.")
        flat = any(key.startswith(tuple(f"{part}." for part in ("params", *EMBEDDINGS))) for key in tree)
        return cls(file_name, tree, nest(tree) if flat else tree, metadata, base, step)


def _read_native(file: Opened) -> ReadResult:
    concept = parse_concept(file.tree, file.metadata, file.file_name)
    check_concept(concept, file.file_name)
    return ReadResult("Mix-of-Show concept", concept, tuple(sorted(file.tree)))


def _read_absolute(file: Opened) -> ReadResult:
    if file.nested is not file.tree:
        file.tree.clear()  # its tensors are used up, one by one
    return read_absolute(file.nested, file.file_name, file.base, file.step)


def _is_lora(file: Opened) -> bool:
    return any(key.endswith(LORA_ENDS) or any(mark in key for mark in LORA_MARKS) for key in file.tree)


def _read_lora(file: Opened) -> ReadResult:
    entries, keys = read_bundle(file.tree, file.file_name)
    concept = Concept(entries, {}, BaseInfo("unknown")) if entries else None
    return ReadResult("lora", concept, keys, notes=("its weights are read by ComfyUI's own LoRA loader",))


def _refuse_checkpoint(file: Opened) -> ReadResult:
    raise MixOfShowError(f"{file.file_name} is a whole checkpoint; load it with the stock checkpoint loader.")


@dataclass(frozen=True)
class Reader:
    """A dialect we read: is the file its own (by content, never by name), and what is in it."""

    title: str
    is_mine: Callable[[Opened], bool]
    read: Callable[[Opened], ReadResult]


READERS = (  # the first whose file it is reads it, so those with the plainest marks come first
    Reader("Mix-of-Show concept", lambda file: is_native(file.metadata), _read_native),
    Reader("ED-LoRA", lambda file: is_edlora(file.nested), lambda file: read_edlora(file.nested, file.file_name)),
    Reader("whole weights", lambda file: is_absolute(file.nested) and not _is_checkpoint(file.nested), _read_absolute),
    Reader("pivotal tuning", lambda file: is_pivotal(file.tree), lambda file: read_pivotal(file.tree, file.file_name)),
    Reader(
        "textual inversion",
        lambda file: is_textual_inversion(file.tree),
        lambda file: read_textual_inversion(file.tree, file.file_name),
    ),
    Reader("LoRA", _is_lora, _read_lora),
    Reader("checkpoint", lambda file: _is_checkpoint(file.tree), _refuse_checkpoint),
)


def _dispatch(
    tree: dict, metadata: Mapping[str, str], file_name: str, base: BaseWeights | None, step: Callable[[int, int], None]
) -> ReadResult:
    file = Opened.of(tree, metadata, file_name, base, step)
    del tree
    for reader in READERS:
        if reader.is_mine(file):
            return reader.read(file)
    sample = ", ".join(repr(str(key)[:60]) for key in list(file.tree)[:3])
    other = family_by_signs([str(key) for key in file.tree])
    hint = f" (it looks like a file for {other})" if other else ""
    raise MixOfShowError(
        f"{file_name} is of no kind we know; its first keys are {sample}{hint}. Known: "
        "concepts of ours, ED-LoRA, Custom Diffusion, pivotal tuning, textual inversion, every LoRA that ComfyUI reads."
    )


def _is_checkpoint(tree: Mapping) -> bool:
    """A whole model has an autoencoder, or far more than cross-attention in its UNet, and no words."""
    state = tree.get("state_dict") if isinstance(tree.get("state_dict"), dict) else tree
    if any(key.startswith("first_stage_model.") for key in state):
        return True
    marked = [key for key in state if isinstance(state[key], Tensor) and key.startswith(CHECKPOINT_MARKS)]
    return any(".in_layers." in key or "time_embed" in key for key in marked)
