"""The same prompts and the same noise through a base and its concepts in every way they can be used."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ....mixofshow_core.concept import ConceptUse
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.fitting import check_base, check_once
from ....mixofshow_core.fusion.apart import OWN
from ....mixofshow_core.fusion.plan import CLASS_OF_KIND, preset
from ....mixofshow_core.fusion.settings import FusionSettings
from ....mixofshow_core.metrics.comparison import (
    BASE,
    BY_WORDS,
    CONNECTED,
    EACH,
    ROUTED,
    Cell,
    Column,
    Row,
    why_empty,
    with_class_words,
)
from ....mixofshow_core.names import fold
from ....mixofshow_core.regional.raster import RegionMap
from ..fusing.fusion import fuse_uses
from ..host.applied import check_unapplied
from ..host.files import work_folder
from ..host.fitting import check_fit
from ..host.model import apply_deltas, describe_base
from ..host.progress import Progress
from ..host.show import WARNING
from ..host.text import concept_names, register_concepts
from ..placing.place import place

log = logging.getLogger("mixofshow")

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


@dataclass(frozen=True)
class KSamplerSettings:
    """What the KSampler node asks for; ``latent`` gives size and number of pictures."""

    negative: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a comparison paints with. other: (MODEL, CLIP) that somebody else prepared."""

    model: object
    clip: object
    vae: object
    uses: tuple[ConceptUse, ...]
    regions: RegionMap | None = None
    other: tuple[object, object] | None = None
    settings: FusionSettings | None = None
    calibration: str = "standard"

    def __post_init__(self) -> None:
        if not self.uses:
            raise MixOfShowError("`concepts` of Compare is empty: connect Load Concept, Cast or Train.")
        check_fit(self.model, self.clip, self.uses)
        check_once(self.uses, "Compare")
        known = {fold(name) for name in concept_names(self.clip)}
        taken = [entry.name for use in self.uses for entry in use.concept.entries if fold(entry.name) in known]
        if taken:
            raise MixOfShowError(
                f"Compare: CLIP already knows {', '.join(taken)}. Connect MODEL and CLIP of the base itself; a fused "
                "pair belongs on `other_model` and `other_clip`."
            )
        check_unapplied(self.model, self.clip, self.uses, "Compare")

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(use.label for use in self.uses)

    @property
    def classes(self) -> dict[str, str]:
        return {
            entry.name: entry.class_word or CLASS_OF_KIND[entry.kind]
            for use in self.uses
            for entry in use.concept.entries
        }

    def names_of(self, column: Column) -> tuple[str, ...]:
        """Names that mean something in this column."""
        if column.method == BASE:
            return ()
        if column.concept is None:
            return tuple(self.classes)
        return tuple(entry.name for entry in self.uses[column.concept].concept.entries)

    def text_for(self, row: Row, column: Column) -> str:
        """The row's prompt, with class words for names that the column's model has never met."""
        own = self.names_of(column)
        return with_class_words(row.prompt, {n: word for n, word in self.classes.items() if n not in own})

    def prepare(self, column: Column):
        """(MODEL, CLIP, unfused concepts or None) of one column."""
        if column.method == BASE:
            return self.model, self.clip, None
        if column.method in (ROUTED, BY_WORDS):
            return self.model, self.clip, self.uses
        if column.method == CONNECTED:
            return *self.other, None
        if column.method == EACH:
            use = self.uses[column.concept]
            model, clip = apply_deltas(self.model, self.clip, use.concept.deltas, use.strength, use.strength_of_text)
            return model, register_concepts(clip, (use,)), None
        settings = self.settings or FusionSettings()
        fused = fuse_uses(
            self.model,
            self.clip,
            self.uses,
            column.method,
            preset(self.calibration),
            replace(settings, words=OWN) if column.words else settings,
            work_folder("cache"),
        )
        model, clip = apply_deltas(self.model, self.clip, fused.concept.deltas)
        return model, register_concepts(clip, (ConceptUse(fused.concept),)), fused.words or None


def sample_like_ksampler(model, positive, negative, latent: dict, how: KSamplerSettings, tick: Callable) -> Tensor:
    """The latents that the host's KSampler node gives for the same inputs. tick(step, x0): after every step."""
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, how.seed, latent.get("batch_index"))
    return comfy.sample.sample(
        model,
        noise,
        how.steps,
        how.cfg,
        how.sampler,
        how.scheduler,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=lambda step, x0, x, total: tick(step, x0),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=how.seed,
    )


def picture_size(vae, latent: dict) -> tuple[int, int]:
    """(height, width) in pixels of the pictures that the VAE makes of this latent."""
    height, width = latent["samples"].shape[-2:]
    return height * vae.spacial_compression_decode(), width * vae.spacial_compression_decode()


def paint(stage: Comparison, rows: Sequence[Row], columns: Sequence[Column], latent: dict, how: KSamplerSettings):
    """({(row, column): uint8 [n, H, W, 3] on the CPU}, {(row, column): why it is empty}, facts).

    Column by column, so that a model is loaded once. Raises the host's interrupt within one step.
    """
    blanks = {
        (r, c): reason
        for c, column in enumerate(columns)
        for r, row in enumerate(rows)
        if (reason := why_empty(row, column, stage.names_of(column)))
    }
    total = len(rows) * len(columns) - len(blanks)
    if not total:
        raise MixOfShowError("Compare has nothing to paint: no prompt fits any of the ways.")
    previewer = latent_preview.get_previewer(stage.model.load_device, stage.model.model.latent_format)
    painted: dict[tuple[int, int], Tensor] = {}
    notes: dict[str, dict[str, None]] = {}  # warning -> ways
    progress = Progress(total * how.steps)
    for c, column in enumerate(columns):
        wanted = [r for r in range(len(rows)) if (r, c) not in blanks]
        if not wanted:
            continue
        model, clip, unfused = stage.prepare(column)
        for r in wanted:
            regions = stage.regions if column.regions else None
            found: list[str] = []
            placed = place(model, clip, stage.text_for(rows[r], column), how.negative, regions, unfused, found)
            for note in found:
                if note.startswith(WARNING):
                    notes.setdefault(note, {})[column.label] = None
            done = len(painted) * how.steps
            words = f"{column.label}: {rows[r].prompt!r}, picture {len(painted) + 1} of {total}"

            def tick(step: int, x0: Tensor, done: int = done, words: str = words) -> None:
                progress.step(done + step + 1, previewer and previewer.decode_latent_to_preview(x0), words)

            progress.pace.count("", 0, timed=False)  # a fusion, which shows its own bar, may lie before it
            Progress.check_cancelled()
            samples = sample_like_ksampler(*placed, latent, how, tick)
            pixels = stage.vae.decode(samples)
            painted[r, c] = (pixels.reshape(-1, *pixels.shape[-3:]).clamp(0, 1).cpu() * 255).round().to(torch.uint8)
            log.info("Compare: %s, %r", column.label, rows[r].prompt)
    base = describe_base(stage.model)
    facts = {"sampling": asdict(how), "base": asdict(base)}
    facts["notes"] = [*check_base(base, stage.uses), *(f"{note} ({', '.join(w)})" for note, w in notes.items())]
    facts["concepts"] = [
        {"name": use.label, "hash": use.concept.content_hash, "strength": use.strength} for use in stage.uses
    ]
    return painted, blanks, facts


def list_cells(
    stage: Comparison, rows: Sequence[Row], columns: Sequence[Column], painted, seed: int
) -> tuple[Cell, ...]:
    """What each picture is, row by row; the pictures themselves lie in the same order."""
    cells: list[Cell] = []
    for r, c in sorted(painted):
        row, column = rows[r], columns[c]
        plain = with_class_words(row.prompt, stage.classes)
        cells += [
            Cell(len(cells) + n, r, column.label, column.kind, row.prompt, plain, row.names, seed, n)
            for n in range(len(painted[r, c]))
        ]
    return tuple(cells)


def in_order(painted) -> Tensor:
    """IMAGE [N, H, W, 3] in 0..1, in the order of ``list_cells``."""
    sizes = {tuple(pictures.shape[1:]) for pictures in painted.values()}
    if len(sizes) > 1 or not math.prod(next(iter(sizes))):
        raise MixOfShowError(f"Compare: the models paint pictures of different sizes {sorted(sizes)}.")
    return torch.cat([painted[key] for key in sorted(painted)]).float() / 255
