"""One training run inside the host: facts, encoded pictures, loop with progress and cancel, files, samples."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import latent_preview
import torch
from safetensors import SafetensorError, safe_open

from ....mixofshow_core.concept import CONTEXT, Concept, ConceptUse
from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.formats.native import METADATA_KEY, read_concept, write_concept
from ....mixofshow_core.training.adapters import Trainables, learned_concept
from ....mixofshow_core.training.auto import ModelFacts, resolve
from ....mixofshow_core.training.dataset import TrainingSet
from ....mixofshow_core.training.loop import StepReport, train
from ....mixofshow_core.training.optimizers import make_optimizer
from ....mixofshow_core.training.sampling import sample_ddim
from ....mixofshow_core.training.settings import TrainSettings
from ....mixofshow_core.training.snapshot import RunState, Snapshots
from ..host import model as bridge_model
from ..host.files import concept_folder, concept_save_path, step_path, work_folder
from ..host.fitting import check_pair, check_trainable
from ..host.frames import as_frames
from ..host.progress import Progress
from ..host.show import leave_words
from .denoiser import (
    HostDenoiser,
    class_vector,
    context_vector,
    host_for_training,
    vocabulary_norm,
)
from .encode import encode_pictures, ordinary
from .memory import estimate, gigabytes, memory_advice
from .optimizers import library_optimizer
from .parts import count_trained, make_trainables, trained_modules
from .prior import encode_priors
from .request import TrainRequest
from .rule import check_rule
from .validation import save_validation
from .words import check_captions

log = logging.getLogger("mixofshow")

PREVIEW_STEPS = 8


@dataclass(frozen=True, eq=False)
class TrainResult:
    """The finished concept and its file; notes: what happened on the way that a person should know."""

    concept: Concept
    path: Path
    losses: tuple[float, ...]
    notes: tuple[str, ...] = ()


def prepare(
    model, clip, vae, data: TrainingSet, settings: TrainSettings, quality: str, steps: int, seed: int, save_as: str
) -> tuple[TrainRequest, tuple[str, ...]]:
    """Check everything that can be checked before long work, and choose what was left on auto."""
    check_pair(model, clip)
    check_trainable(model, vae, settings)
    check_rule(model)
    base = bridge_model.describe_base(model)
    size = bridge_model.native_size(model)
    kind = kind_of(bridge_model.net_of(model))
    if kind.trains_text or not settings.trains_embeddings:
        norms = [vocabulary_norm(clip, encoder) for encoder in bridge_model.text_models_of(clip)]
    else:
        norms = [vocabulary_norm(clip, CONTEXT, context_vector)]
    facts = ModelFacts(
        base.family,
        size,
        sum(norms) / len(norms),
        str(model.load_device.type),
        comfy.model_management.should_use_bf16(model.load_device),
        kind.trains_text,
    )
    chosen, notes = resolve(settings, facts, data.pictures, quality, steps)
    for concept in data.concepts:
        for encoder in bridge_model.text_models_of(clip):
            class_vector(clip, encoder, concept.class_word)
        small = [p.source for p in concept.pictures if min(p.pixels.shape[:2]) < size]
        if small:
            notes += (f"{len(small)} pictures of {concept.name} are smaller than {size} px and are enlarged",)
    request = TrainRequest(model, clip, vae, data, chosen, seed, save_as, base)
    check_captions(request)
    if others := bridge_model.foreign_patches(model):
        notes += (f"what other nodes put on MODEL acts in sampling, not in training: {', '.join(others)}",)
    size = f"file about {gigabytes(4 * count_trained(request))}"
    if chosen.full_weights:
        size += ", for whole matrices are saved; every snapshot takes three times that"
    return request, (*notes, f"memory {estimate(request).text()}", size)


def read_training(path: Path) -> dict:
    """The training facts in a file's header; empty when there are none to read."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return json.loads((file.metadata() or {}).get(METADATA_KEY, "{}")).get("training", {})
    except (SafetensorError, OSError, ValueError):
        return {}


def find_finished(request: TrainRequest, fingerprint: str) -> Path | None:
    """A file that an earlier run with identical inputs left under this name."""
    for path in sorted(concept_folder().glob("*.safetensors")):
        if not path.stem.startswith(request.stem):
            continue
        training = read_training(path)
        if training.get("request") == fingerprint and training.get("steps_done") == request.settings.steps:
            return path
    return None


def facts_for_file(request: TrainRequest, fingerprint: str, state: RunState) -> dict[str, object]:
    """What the file says about its training; nothing that differs between two equal runs, so no times."""
    return {
        "request": fingerprint,
        "steps_done": state.step,
        "settings": request.settings.to_json(),
        "seed": request.seed,
        "pictures": request.data.pictures,
        "dataset": request.data.content_hash,
        "losses": [round(loss, 6) for loss in state.losses[:: max(1, len(state.losses) // 100)]],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "frozen": sorted(state.frozen),
    }


class Preview:
    """Small pictures while training, by the host's latent previewer (or its factors where previews are off)."""

    def __init__(self, host: HostDenoiser, request: TrainRequest, latent_shape: tuple[int, ...]):
        self.host, self.request, self.shape = host, request, (1, *latent_shape)
        latent_format = request.model.model.latent_format
        self.previewer = latent_preview.get_previewer(host.device, latent_format)
        factors = getattr(latent_format, "latent_rgb_factors", None)
        if self.previewer is None and factors is not None:
            bias = getattr(latent_format, "latent_rgb_factors_bias", None)
            self.previewer = latent_preview.Latent2RGBPreviewer(factors, bias)

    @torch.no_grad()
    def draw(self, trainables: Trainables):
        """A PIL image of the first concept, or None where the host knows no way to show latents."""
        if self.previewer is None:
            return None
        plan = self.request.plans[0]
        trainables.eval()
        try:
            text = self.host.encode(["", f"a photo of {plan.name}"], trainables.vectors())
            latent = sample_ddim(self.host, text, self.shape, 0, PREVIEW_STEPS, 3.0)
        finally:
            trainables.train()
        return self.previewer.decode_latent_to_preview_image("JPEG", as_frames(self.host.model, latent))[1]


def run_training(request: TrainRequest) -> TrainResult:
    """Train, or load what an identical run left. Whatever stops it, the last finished step is saved and named."""
    fingerprint = request.fingerprint
    finished = find_finished(request, fingerprint)
    if finished is not None:
        log.info("An identical run is finished: loading %s instead of training again.", finished)
        concept = read_concept(finished)
        note = "an identical run was finished before: its file was loaded, nothing was trained"
        return TrainResult(concept, finished, tuple(concept.training.get("losses", ())), (note,))
    samples = encode_pictures(request)
    notes = Notes()
    priors = encode_priors(request, notes.add)
    settings = request.settings
    snapshots = Snapshots(work_folder("training"), fingerprint, settings.snapshots_kept)
    needed = estimate(request)
    opened = host_for_training(request.model, request.clip, settings, request.index, needed.total - needed.weights)
    with told_out_of_memory(request), opened as host:
        samples, priors = [ordinary(s) for s in samples], [ordinary(s) for s in priors]
        trainables = make_trainables(request).to(host.device)
        host.learn_words(trainables, request.plans)
        optimizer = make_optimizer(trainables, settings, library_optimizer(settings.optimizer))
        named = list(trainables.named_parameters())
        stored = len(snapshots.files())
        state = snapshots.resume(named, optimizer) or RunState()
        if host.elsewhere:
            notes.add(
                f"{gigabytes(host.elsewhere)} of the base do not fit the device and are cast layer by layer: slower"
            )
        if len(snapshots.files()) < stored:
            notes.add("a damaged snapshot was passed over")
        if state.step:
            notes.add(f"continued from step {state.step} of {settings.steps}, where this run was stopped")
        progress = Progress(settings.steps, begun=state.step)
        preview = Preview(host, request, tuple(samples[0].latents.shape[1:]))

        def on_step(report: StepReport) -> None:
            for note in report.notes:
                notes.add(note)
            if report.step % settings.snapshot_every == 0 and report.step < report.total:
                notes.add(keep_snapshot(snapshots, state, named, optimizer))
            shown = settings.preview_every and report.step % settings.preview_every == 0
            words = describe_step(report, state.losses[-settings.preview_every or -25 :], progress.pace.each())
            if settings.validate_every and report.step % settings.validate_every == 0 and report.step < report.total:
                path = path_of_step(request, state.step)
                notes.add(save_validation(host, request, trainables, path, save))
            progress.step(report.step, preview.draw(trainables) if shown else None, words)
            if shown or report.step == report.total:
                log.info("Training %s.", ", ".join(filter(None, (words, progress.pace.told()))))

        def save(path: Path) -> Concept:
            facts = facts_for_file(request, fingerprint, state)
            concept = learned_concept(trainables, request.plans, request.index, request.base, facts)
            write_concept(path, concept)
            return concept

        modules = trained_modules(request.model, host.clip)
        try:
            with trainables.attached(modules):
                train(host, samples, trainables, optimizer, settings, request.seed, state, on_step, priors)
        except BaseException as stopped:
            # The host's interrupt is no Exception in newer versions.
            if state.step and state.step < settings.steps:
                lost = isinstance(stopped, MixOfShowError) or keep_snapshot(snapshots, state, named, optimizer)
                leave_words(save_stopped(request, state, save, stopped, goes_on=not lost))
            raise
        path = concept_save_path(request.stem)
        try:
            concept = save(path)
        except MixOfShowError as error:
            keep_snapshot(snapshots, state, named, optimizer)
            raise MixOfShowError(
                f"{error} Nothing is lost if {snapshots.folder} has room: queue the same settings again, and the "
                f"finished run is saved without training again."
            ) from error
    snapshots.remove()
    log.info("Training finished after %d steps; the concept is saved as %s.", state.step, path)
    return TrainResult(concept, path, tuple(state.losses), tuple(notes.lines))


@contextmanager
def told_out_of_memory(request: TrainRequest) -> Iterator[None]:
    """Inside, running out of memory, also while the base is loaded, says which settings would help."""
    try:
        yield
    except comfy.model_management.OOM_EXCEPTION as stopped:
        if comfy.model_management.OOM_EXCEPTION is Exception:  # a torch that is too old to tell
            raise
        raise MixOfShowError(memory_advice(request)) from stopped


class Notes:
    """What happens on the way, once each: for the log now, for the node at the end."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, note: str) -> None:
        if note and note not in self.lines:
            self.lines.append(note)
            log.info("Training: %s.", note)


def describe_step(report: StepReport, recent: Sequence[float], each: float) -> str:
    """step 12 of 600, loss 0.0812, 4.1 steps/s; `each`: seconds of a step, 0 before one was timed."""
    speed = f"{each:.1f} s/step" if each > 1 else f"{1 / each:.1f} steps/s" if each else ""
    parts = (f"step {report.step} of {report.total}", f"loss {sum(recent) / len(recent):.4f}", speed)
    return ", ".join(filter(None, parts))


def keep_snapshot(snapshots: Snapshots, state: RunState, named, optimizer) -> str:
    """Write a snapshot; a full disk costs the chance to resume, not the run: the answer says so, or is empty."""
    try:
        snapshots.write(state, named, optimizer)
    except MixOfShowError as error:
        return f"no new snapshot to go on from: {error}"
    return ""


def path_of_step(request: TrainRequest, step: int) -> Path:
    return step_path(request.stem, step, lambda path: read_training(path).get("request") == request.fingerprint)


def save_stopped(request: TrainRequest, state: RunState, save, reason: BaseException, goes_on: bool) -> str:
    """Save a run that did not reach its end and say so; a failure here must not hide why it stopped.

    goes_on: there is a snapshot of this step, from which the same settings continue.
    """
    path = path_of_step(request, state.step)
    lines = [f"Stopped at step {state.step} of {request.settings.steps}."]
    try:
        save(path)
        lines.append(f"Saved as it is now, for use: {path}")
    except MixOfShowError as error:
        lines.append(f"It could not be saved: {error}")
    if goes_on:
        lines.append("To go on from this step, queue the same settings again.")
    log.warning("Training: %s (%s)", " ".join(lines), type(reason).__name__)
    return "\n".join(lines)


def used_concepts(result: TrainResult) -> tuple[ConceptUse, ...]:
    """The value of the CONCEPTS wire."""
    triggers = (
        []
        if any(entry.words for entry in result.concept.entries)
        else [f"{entry.name} {entry.class_word}" for entry in result.concept.entries]
    )
    return (ConceptUse(result.concept, trigger=", ".join(triggers), path=str(result.path)),)
