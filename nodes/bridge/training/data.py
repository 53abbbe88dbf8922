"""Training pictures from the host's folders and wires."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import folder_paths
import torch
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.names import near_names, normal
from ....mixofshow_core.training.dataset import (
    ConceptPictures,
    TrainingSet,
    caption_style,
    dark_note,
    from_batches,
    in_style,
    inverted_note,
    with_masks,
)
from ....mixofshow_core.training.folder import folder_fingerprint, read_folder
from ....mixofshow_core.training.sheet import contact_sheet
from ..host.files import PACK
from ..host.vocabulary import is_common_word, is_vocabulary_word

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


def build(
    name: str,
    class_word: str,
    kind: str,
    folder: str,
    captions: str,
    images: Sequence[Tensor] = (),
    masks: Sequence[Tensor] = (),
    chained: Sequence[TrainingSet] = (),
) -> tuple[TrainingSet, str]:
    """The dataset and a report for people. Raises MixOfShowError for anything that could not be trained.

    images, masks: batches of any sizes, all pictures of one concept. chained: other data sets to train together.
    """
    name = normal(name).strip()
    if images:
        batches = (batch.detach().float().cpu().numpy() for batch in images)
        pictures, notes = from_batches(batches, name), ()
        where = "an image batch" if len(images) == 1 else f"a list of {len(images)} images"
    else:
        path = picture_folder(folder)
        pictures, notes = read_folder(path, name, captions)
        where = str(path)
    if masks:
        planes = (mask.detach().float().cpu() for mask in masks)
        pictures = with_masks(pictures, [one for plane in planes for one in plane.view(-1, *plane.shape[-2:]).numpy()])
    style = caption_style(pictures, captions)
    pictures = in_style(pictures, name, style)
    data = TrainingSet((ConceptPictures(name, class_word, kind, pictures, style),))
    warnings = [*notes, *inverted_note(pictures), *dark_note(pictures)]
    if is_vocabulary_word(name) and not (not images and folder.strip().startswith(DEMO)):
        warnings.append(
            f"'{name}' is a word that the model knows already; it will mean your concept in every prompt. "
            f"A made-up name such as {name}x1 avoids that"
        )
    warnings += [
        f"{picture.source}: {word!r} in the caption is not the name {near}, and is learned as a plain word"
        for picture in pictures
        for word, near in near_names(picture.caption, [name], is_common_word)
    ]
    for warning in warnings:
        log.warning("Dataset %s: %s.", name, warning)
    sizes = sorted({f"{p.pixels.shape[1]}x{p.pixels.shape[0]}" for p in pictures})
    lines = [
        f"{name} ({kind}, a {class_word}): {len(pictures)} pictures from {where}",
        *(f"WARNING: {warning}" for warning in warnings),
        f"sizes: {', '.join(sizes[:6])}{' ...' if len(sizes) > 6 else ''}",
        f"masks: {sum(p.mask is not None for p in pictures)} of {len(pictures)}",
        f"captions: {style}",
        *(f"{p.source}: {p.caption}" for p in pictures),
    ]
    for other in reversed(chained):
        data = other.joined(data)
    if chained:
        names = (concept.name for other in chained for concept in other.concepts)
        lines.append(f"trained together with: {', '.join(names)}")
    return data, "\n".join(lines)


def preview(data: TrainingSet) -> Tensor:
    """IMAGE [1, H, W, 3]."""
    return torch.from_numpy(contact_sheet(data).copy())[None]
