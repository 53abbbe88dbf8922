"""Pictures in all their placements through the VAE, once, before a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ....mixofshow_core.bounds import meaning
from ....mixofshow_core.training.adapters import ConceptPlan
from ....mixofshow_core.training.augment import Placed, bucket, placements, to_cells
from ....mixofshow_core.training.dataset import Picture
from ....mixofshow_core.training.loop import Sample
from ....mixofshow_core.training.settings import TrainSettings
from ..host import model as bridge_model
from ..host.frames import as_pictures, has_frames
from ..host.progress import Progress
from .request import TrainRequest

ENCODE_BATCH = 8


def encode_pictures(request: TrainRequest) -> list[Sample]:
    """One Sample per picture of the dataset."""
    progress = Progress(request.data.pictures)
    samples: list[Sample] = []
    for concept, plan in zip(request.data.concepts, request.plans, strict=True):
        for picture in concept.pictures:
            seed = request.seed * 1_000_003 + len(samples)
            samples.append(encode_picture(request, plan, picture, request.settings, seed))
            words = f"encoding pictures: {len(samples)} of {progress.total}"
            progress.step(len(samples), words=words)
    return samples


def encode_picture(
    request: TrainRequest, plan: ConceptPlan, picture: Picture, settings: TrainSettings, seed: int
) -> Sample:
    """The picture's placements as latents in the model's own scale, with the cells that count and the object's."""
    side = bridge_model.native_size(request.model)
    height, width = picture.pixels.shape[:2]
    canvases = {"buckets": bucket(width, height, side), "square": (side, side)}
    canvas = meaning("Training setting aspect", settings.aspect, canvases)
    placed = list(placements(picture, canvas, settings, seed))
    batches, base = [], request.model.model
    at_once = 1 if has_frames(base) else ENCODE_BATCH  # where time is known, a batch would be frames of one film
    for first in range(0, len(placed), at_once):
        pixels = np.stack([one.canvas for one in placed[first : first + at_once]])
        batches.append(request.vae.encode(torch.from_numpy(pixels)).float().cpu())
    latents = as_pictures(base.process_latent_in(torch.cat(batches)).float().cpu())
    cells = [cell_masks(one, *latents.shape[-2:], settings.loss_mask) for one in placed]
    masks, subjects = (torch.from_numpy(np.stack(kind))[:, None] for kind in zip(*cells, strict=True))
    phrases = tuple(one.phrase for one in placed) if settings.size_captions else ()
    return Sample(plan, picture.caption, latents, masks, subjects if settings.attention_weight else None, phrases)


def cell_masks(placed: Placed, rows: int, columns: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """[rows, columns] of the cells where the loss counts, and of the object."""
    valid = to_cells(placed.valid, rows, columns)
    whole = (valid >= 0.999).astype(np.float32)
    subject = whole * to_cells(placed.subject, rows, columns)
    mask = meaning("Training setting loss_mask", kind, {"object": subject, "valid": whole})
    return (mask if mask.sum() > 0.5 else (valid > 0.5).astype(np.float32)), subject


def ordinary(sample: Sample) -> Sample:
    """The sample with tensors that may take part in a gradient, whatever mode they were made in."""

    def copied(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.clone()

    return replace(sample, latents=sample.latents.clone(), masks=sample.masks.clone(), subjects=copied(sample.subjects))
