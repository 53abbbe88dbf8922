"""Weights of a base model by layer name, read lazily from a checkpoint or a diffusers folder; and fused folders.

Used where a file holds whole weights and the difference to a base is wanted without loading ComfyUI.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..concept import BaseInfo
from ..errors import MixOfShowError
from ..families.known import UNKNOWN, family_of_layers
from ..families.layers import BIAS, TEXT_PREFIX, UNET_PREFIX
from ..families.names import NameTable, guess_layout
from ..families.nets import reads_text
from .absolute import BaseWeights, read_absolute
from .dialect import TEXT_LAYER, ReadResult
from .header import check_header
from .native import load_safetensors
from .pickled import load_pickled

CHECKPOINT_PREFIXES = {
    "model.diffusion_model.": UNET_PREFIX,
    "cond_stage_model.transformer.": f"{TEXT_PREFIX}clip_l.transformer.",
    "cond_stage_model.clip_l.transformer.": f"{TEXT_PREFIX}clip_l.transformer.",
    "conditioner.embedders.0.transformer.": f"{TEXT_PREFIX}clip_l.transformer.",
}
FUSED_PREFIX = "conditioner.embedders.1.model.transformer.resblocks."  # SDXL's second text encoder, in OpenCLIP's names
FUSED_NAMES = {
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}
FUSED_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # rows of attn.in_proj_*, in this order
CONCEPT_TABLE = "new_concept_cfg.json"
MAX_TABLE = 2**20  # bytes of that JSON file
UNET_FILES = ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin")
TEXT_FILES = ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin")
SECOND_TEXT_FILES = ("text_encoder_2/model.safetensors", "text_encoder_2/pytorch_model.bin")
TEXT_PARTS = {"clip_l": TEXT_FILES, "clip_g": SECOND_TEXT_FILES}
TOKENS = "embeddings.token_embedding.weight"


class CheckpointWeights(Mapping[str, Tensor]):
    """Layer name -> weight of a single-file checkpoint (safetensors) or a diffusers folder; tensors load on access.

    SDXL's second text encoder is stored in single files with queries, keys and values in one matrix; it is cut here.
    """

    def __init__(self, path: Path):
        path = Path(path)
        self._where: dict[str, tuple[Path, str, int | None]] = {}  # file, key, third of its rows
        if path.is_dir():
            self._add_folder(path)
        else:
            for key in _keys(path):
                prefix = next((p for p in CHECKPOINT_PREFIXES if key.startswith(p)), None)
                if prefix and key.endswith((".weight", BIAS)):
                    layer = CHECKPOINT_PREFIXES[prefix] + key[len(prefix) :].removesuffix(".weight")
                    self._where[layer] = (path, key, None)
                elif key.startswith(FUSED_PREFIX):
                    self._add_fused(path, key)
        if not self._where:
            raise MixOfShowError(f"{path.name} is no base model: no SD1.5 or SDXL weights are in it.")

    def _add_folder(self, path: Path) -> None:
        unet = path / UNET_FILES[0]
        if not unet.is_file():
            raise MixOfShowError(f"{path.name} holds no {UNET_FILES[0]}; a base folder needs safetensors weights.")
        keys = [key for key in _keys(unet) if key.endswith((".weight", BIAS))]
        names = NameTable(guess_layout(key.rpartition(".")[0] for key in keys), {})
        for key in keys:
            module, _, kind = key.rpartition(".")
            row = names.by_diffusers.get(("unet", module))
            if row:
                self._where[row.layer + (BIAS if kind == "bias" else "")] = (unet, key, None)
        for encoder, files in TEXT_PARTS.items():
            text = path / files[0]
            for key in _keys(text) if text.is_file() else ():
                module, _, kind = key.rpartition(".")
                match = TEXT_LAYER.fullmatch(module)
                if match and kind in ("weight", "bias"):
                    layer = f"{TEXT_PREFIX}{encoder}.transformer.text_model.{match[1]}{BIAS if kind == 'bias' else ''}"
                    self._where[layer] = (text, key, None)

    def _add_fused(self, path: Path, key: str) -> None:
        number, _, name = key[len(FUSED_PREFIX) :].partition(".")
        block = f"{TEXT_PREFIX}clip_g.transformer.text_model.encoder.layers.{number}."
        end = BIAS if name.endswith("bias") else ""
        module = name.removesuffix(".weight").removesuffix(BIAS)
        if module in FUSED_NAMES:
            self._where[block + FUSED_NAMES[module] + end] = (path, key, None)
        elif name in ("attn.in_proj_weight", "attn.in_proj_bias"):
            self._where |= {block + part + end: (path, key, third) for third, part in enumerate(FUSED_QKV)}

    def info(self) -> BaseInfo:
        """What the shapes tell of the base; its fingerprint is left out, and what it predicts is not known."""
        readers = [layer for layer in self._where if reads_text(layer)]  # keys and values of each
        width = self[readers[0]].shape[1] if readers else 0
        row = family_of_layers(self._where, width)
        return BaseInfo(row.name if row else f"sd-{width}" if width else UNKNOWN, None, len(readers) // 2)

    def __getitem__(self, layer: str) -> Tensor:
        path, key, third = self._where[layer]
        with safe_open(path, framework="pt", device="cpu") as file:
            if third is None:
                return file.get_tensor(key)
            rows = file.get_slice(key)
            count = rows.get_shape()[0] // 3
            return rows[third * count : (third + 1) * count]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _keys(path: Path) -> list[str]:
    check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return list(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise MixOfShowError(f"{path.name} is not a complete safetensors file ({error}).") from error


def is_fused_folder(path: Path) -> bool:
    """True for a diffusers folder with Mix-of-Show's table of concept words."""
    return (Path(path) / CONCEPT_TABLE).is_file()


def read_fused_folder(
    path: Path, base: BaseWeights | None = None, step: Callable[[int, int], None] = lambda done, total: None
) -> ReadResult:
    """A Concept from a fused diffusers folder: weights minus `base`, word rows from the enlarged token table."""
    path = Path(path)
    if base is None:
        raise MixOfShowError(
            f"{path.name} is a whole fused model: give the base model it was made from "
            "(connect MODEL and CLIP, or --base CHECKPOINT)."
        )
    tree: dict[str, dict] = {}
    words: dict[str, dict[str, Tensor]] = {}
    for encoder, files in TEXT_PARTS.items():
        part = files[0].partition("/")[0]
        if encoder == "clip_g" and not any((path / file).is_file() for file in files):
            continue
        text = _load_part(path, files)
        table = next((value for key, value in text.items() if key.removeprefix("text_model.") == TOKENS), None)
        if not isinstance(table, Tensor) or table.dim() != 2:
            raise MixOfShowError(f"{path.name}/{part} holds no token table ({TOKENS!r}).")
        for word, ids in _concept_ids(path, table.shape[0]).items():
            words.setdefault(word, {})[encoder] = table[ids].clone()
        tree[part] = {k: v for k, v in text.items() if not k.removeprefix("text_model.").startswith("embeddings.")}
        del text, table  # what is read next may need the memory
    tree |= {"unet": _load_part(path, UNET_FILES), "new_concept_embedding": words}
    return read_absolute(tree, path.name, base, step)


def _load_part(folder: Path, choices: tuple[str, ...]) -> dict[str, Tensor]:
    found = next((folder / choice for choice in choices if (folder / choice).is_file()), None)
    if found is None:
        raise MixOfShowError(f"{folder.name} lacks {choices[0]}; it is not a complete diffusers folder.")
    root, real = folder.resolve(), found.resolve()
    if root not in real.parents:
        raise MixOfShowError(f"{folder.name}: {found.name} is a link out of the folder; that is not read.")
    if found.suffix == ".bin":
        return load_pickled(found)
    return load_safetensors(found)[0]


def _concept_ids(folder: Path, rows: int) -> dict[str, list[int]]:
    where = f"{folder.name}/{CONCEPT_TABLE}"
    if (folder / CONCEPT_TABLE).stat().st_size > MAX_TABLE:
        raise MixOfShowError(f"{where} is larger than {MAX_TABLE} bytes; that is no table of words.")
    try:
        table = json.loads((folder / CONCEPT_TABLE).read_text(encoding="utf-8"))
        words = {str(word): [int(n) for n in entry["concept_token_ids"]] for word, entry in table.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MixOfShowError(f"{where} is not readable ({error!r}).") from error
    for word, ids in words.items():
        if not 0 < len(ids) <= 1024 or min(ids) < 0 or max(ids) >= rows:
            raise MixOfShowError(f"{where}: word {word!r} points at token {max(ids, default=0)} of {rows}.")
    return words
