"""Training pictures from the host's folders and wires."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path

import comfy.sd1_clip
import folder_paths
import torch
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.names import normal
from ....mixofshow_core.training.dataset import (
    ConceptPictures,
    TrainingSet,
    caption_style,
    folder_fingerprint,
    from_batch,
    in_style,
    read_folder,
    with_masks,
)
from ....mixofshow_core.training.sheet import contact_sheet
from ..host.files import PACK

log = logging.getLogger("mixofshow")

DEMO = "demo:"


def picture_folder(folder: str) -> Path:
    """``demo:<name>``, a full path, or a folder below the host's input folder. It need not exist."""
    wanted = folder.strip().strip('"')
    if not wanted:
        raise MixOfShowError("folder is empty; give a folder with pictures, or connect a batch of images.")
    if wanted.startswith(DEMO):
        name = wanted[len(DEMO) :].strip()
        shipped = PACK / "assets" / "demo" / "pictures"
        known = sorted(path.name for path in shipped.iterdir() if path.is_dir()) if shipped.is_dir() else []
        if name not in known:
            raise MixOfShowError(f"folder is {folder!r}, but the pack's pictures are: {', '.join(known) or 'none'}.")
        return shipped / name
    path = Path(wanted).expanduser()
    if path.is_absolute():
        return path
    root = Path(folder_paths.get_input_directory())
    if ".." in path.parts:
        raise MixOfShowError(f"folder is {folder!r}; a relative folder must lie inside the input folder, {root}.")
    return root / path


def fingerprint(folder: str) -> str:
    """Changes with the folder's files, so that the host reads them again; errors are left to the run itself."""
    try:
        return folder_fingerprint(picture_folder(folder))
    except (MixOfShowError, OSError):
        return "unknown"


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    path = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer" / "vocab.json"
    return frozenset(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else frozenset()


def is_vocabulary_word(name: str) -> bool:
    """Whether CLIP's tokenizer has a token for exactly this word."""
    return f"{name.lower()}</w>" in _vocabulary()


def build(
    name: str, class_word: str, kind: str, folder: str, captions: str, images: Tensor | None, masks: Tensor | None,
    chained: TrainingSet | None,
) -> tuple[TrainingSet, str]:
    """The dataset and a report for people. Raises MixOfShowError for anything that could not be trained."""
    name = normal(name).strip()
    if images is not None:
        pictures, notes, where = from_batch(images.detach().float().cpu().numpy(), name), (), "an image batch"
    else:
        path = picture_folder(folder)
        pictures, notes = read_folder(path, name, captions)
        where = str(path)
    if masks is not None:
        stack = masks.detach().float().cpu()
        pictures = with_masks(pictures, (stack if stack.dim() == 3 else stack[None]).numpy())
    style = caption_style(pictures, captions)
    pictures = in_style(pictures, name, style)
    data = TrainingSet((ConceptPictures(name, class_word, kind, pictures, style),))
    warnings = list(notes)
    if is_vocabulary_word(name) and not (images is None and folder.strip().startswith(DEMO)):
        warnings.append(
            f"'{name}' is a word that the model knows already; it will mean your concept in every prompt. "
            f"A made-up name such as {name}x1 avoids that"
        )
    for warning in warnings:
        log.warning("Dataset %s: %s.", name, warning)
    sizes = sorted({f"{p.pixels.shape[1]}x{p.pixels.shape[0]}" for p in pictures})
    lines = [
        f"{name} ({kind}, a {class_word}): {len(pictures)} pictures from {where}",
        f"sizes: {', '.join(sizes[:6])}{' ...' if len(sizes) > 6 else ''}",
        f"masks: {sum(p.mask is not None for p in pictures)} of {len(pictures)}",
        f"captions: {style}",
        *(f"note: {warning}" for warning in warnings),
        *(f"{p.source}: {p.caption}" for p in pictures),
    ]
    if chained is not None:
        data = chained.joined(data)
        lines.append(f"trained together with: {', '.join(concept.name for concept in chained.concepts)}")
    return data, "\n".join(lines)


def preview(data: TrainingSet) -> Tensor:
    """IMAGE [1, H, W, 3]."""
    return torch.from_numpy(contact_sheet(data).copy())[None]
