"""Pictures of the bare class, so that learning one dog does not change all dogs (prior preservation, DreamBooth)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.formats.native import load_safetensors, save_safetensors
from ....mixofshow_core.training.adapters import ConceptPlan
from ....mixofshow_core.training.captions import class_prompt
from ....mixofshow_core.training.folder import read_class_folder
from ....mixofshow_core.training.loop import Sample
from ..host.files import work_folder
from ..host.fingerprints import tokens_key
from ..host.frames import as_pictures
from ..host.progress import Progress
from .data import picture_folder
from .encode import encode_picture
from .request import TrainRequest
from .samples import sample_latents

log = logging.getLogger("mixofshow")

BATCH = 4
CACHE_VERSION = 2  # raised when the same request would draw other pictures


def encode_priors(request: TrainRequest, say: Callable[[str], None] = log.warning) -> list[Sample]:
    """Samples of every class in the run, given or generated; none without prior preservation.

    say: told what of a given folder is not used, for people.
    """
    settings = request.settings
    if not settings.prior_weight:
        return []
    plain = replace(settings, variants=1, size_captions=False, loss_mask="valid")
    samples, seen = [], set()
    classes = list(dict.fromkeys(plan.class_word for plan in request.plans))
    for plan in request.plans:
        prompt = class_prompt(plan.class_word, plan.kind, plan.style)
        if settings.prior_folder.strip():
            if samples:
                break
            pictures, notes = read_class_folder(picture_folder(settings.prior_folder), prompt)
            for note in notes:
                say(f"class pictures: {note}")
            if (count := settings.prior_pictures or len(pictures)) < len(pictures):
                say(f"class pictures: the first {count} of {len(pictures)} are used, as prior_pictures says")
            if others := ", ".join(classes[1:]):
                say(f"class pictures: those of the folder stand for {classes[0]} alone, not for {others}")
            pictures = pictures[:count]
            samples = [encode_picture(request, plan, picture, plain, 0) for picture in pictures]
        elif prompt not in seen:
            seen.add(prompt)
            samples += generated(request, plan, prompt)
    return samples


def generated(request: TrainRequest, plan: ConceptPlan, prompt: str) -> list[Sample]:
    """Pictures of the class by the base itself; kept on disk by everything they depend on, and continued there."""
    count, model = request.settings.prior_pictures, request.model
    path = work_folder("class-pictures") / f"{cache_key(request, prompt)}.safetensors"
    found = read_cached(path)
    if found is None or len(found) < count:
        log.info("Drawing %d pictures for %r, kept in %s for later runs.", count, prompt, path.parent)
        progress = Progress(count)
        while found is None or len(found) < count:
            done = 0 if found is None else len(found)
            progress.step(done, words=f"drawing pictures of the class, kept for later runs: {done} of {count}")
            drawn = sample_latents(model, request.clip, prompt, done, min(BATCH, count - done)).float().cpu()
            found = drawn if found is None else torch.cat([found, drawn])
            write_cached(path, found)
    latents = as_pictures(model.model.process_latent_in(found[:count]).float())
    mask = torch.ones(1, 1, *latents.shape[-2:])
    return [Sample(plan, prompt, latent[None], mask) for latent in latents]


def cache_key(request: TrainRequest, prompt: str) -> str:
    facts = [CACHE_VERSION, request.models, tokens_key(request.clip, [prompt]), prompt]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def read_cached(path: Path) -> Tensor | None:
    """[N, C, h, w], or None when there is nothing that can be read."""
    if not path.is_file():
        return None
    try:
        return load_safetensors(path)[0].get("latents")
    except (MixOfShowError, SafetensorError):
        return None


def write_cached(path: Path, latents: Tensor) -> None:
    """A cache that cannot be written costs time later, and nothing else."""
    try:
        save_safetensors(path, {"latents": latents}, {})
    except MixOfShowError as error:
        log.warning("The class pictures are not kept: %s", error)
