"""Looking at a concept while it trains: a sheet of prompts and strengths, saved beside a loadable file of that step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ....mixofshow_core.atomic import replacing
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.training.adapters import Trainables
from ....mixofshow_core.training.sampling import sample_ddim
from ....mixofshow_core.training.sheet import labelled_grid
from ..host import model as bridge_model
from ..host.frames import as_frames, shown
from ..host.progress import Progress
from .denoiser import HostDenoiser
from .request import TrainRequest

STRENGTHS = (0.0, 0.7, 1.0)
STEPS = 20
SEED = 0


def validation_prompts(request: TrainRequest) -> tuple[str, ...]:
    """The prompts that the settings give, one per line, else two for every concept."""
    given = tuple(line.strip() for line in request.settings.validation_prompts.splitlines() if line.strip())
    return given or tuple(
        text for plan in request.plans for text in (f"a photo of {plan.name}", f"{plan.name} on a beach")
    )


@torch.no_grad()
def draw_sheet(host: HostDenoiser, request: TrainRequest, trainables: Trainables) -> Image.Image:
    """Every prompt at LoRA strength 0 (the words alone), 0.7 and 1, each row from the same noise."""
    prompts = validation_prompts(request)
    size = bridge_model.native_size(request.model)
    cells = bridge_model.native_cells(request.model)
    shape = (1, request.model.model.latent_format.latent_channels, cells, cells)
    latents = []
    trainables.eval()
    try:
        for prompt in prompts:
            for strength in STRENGTHS:
                Progress.check_cancelled()
                trainables.set_strength(strength)
                text = host.encode(["", prompt], trainables.vectors())
                latents.append(sample_ddim(host, text, shape, SEED, STEPS, 4.0 if size < 256 else 7.0))
    finally:
        trainables.set_strength(1.0)
        trainables.train()
    base = request.model.model
    drawn = [request.vae.decode(base.process_latent_out(as_frames(base, one))) for one in latents]
    pixels = shown(torch.cat(drawn)).float().cpu().numpy()
    host.stay_loaded()  # the autoencoder may have pushed the net out of the GPU's memory
    rows = [pixels[n : n + len(STRENGTHS)] for n in range(0, len(pixels), len(STRENGTHS))]
    return labelled_grid([np.clip(row, 0.0, 1.0) for row in rows], prompts, [f"strength {s:g}" for s in STRENGTHS])


def save_validation(
    host: HostDenoiser, request: TrainRequest, trainables: Trainables, path: Path, save: Callable[[Path], object]
) -> str:
    """The concept as it is now, and its sheet as a PNG of the same name; says where, or that the disk is full."""
    try:
        save(path)
        sheet = draw_sheet(host, request, trainables)
        with replacing(path.with_suffix(".png")) as part:
            sheet.save(part, format="PNG")
        return f"to look at, with a sheet of pictures beside it: {path}"
    except (MixOfShowError, OSError) as error:
        return f"the file and sheet of a step could not be saved: {error}"
