"""The training loop: what one step does, in order, for any denoiser that a caller can describe.

Every step seeds its own generators from (seed, step): the order of data, timesteps and noise never depend on what
ran before, which makes resuming exact.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import MixOfShowError
from .adapters import ConceptPlan, Trainables
from .captions import vary
from .objectives import NoiseSchedule, draw_noise, masked_loss
from .settings import TrainSettings, learning_rate_factor
from .snapshot import RunState


class TrainingDiverged(MixOfShowError):
    """Loss or gradient is no longer a finite number; the trainables hold the last state that was."""


@dataclass(frozen=True, eq=False)
class TextContexts:
    """Encoded captions: ``layers`` [rows, n, T, C], one slice per embedding row; ``pooled`` [n, P] or None."""

    layers: Tensor
    pooled: Tensor | None = None


class Denoiser(Protocol):
    """The model side of training; gradients flow through both calls into whatever is attached."""

    schedule: NoiseSchedule
    device: torch.device

    def encode(self, captions: Sequence[str], vectors: Mapping[str, Mapping[str, Tensor]]) -> TextContexts:
        """Encode captions with concept words standing for ``vectors`` (word -> encoder -> [rows, D])."""

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextContexts, which: Tensor) -> Tensor:
        """The net's raw output [B, C, h, w]; ``which`` [B] says which caption each sample uses."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture, encoded: ``latents`` [V, C, h, w] and ``masks`` [V, 1, h, w] for its placements."""

    concept: ConceptPlan
    caption: str
    latents: Tensor
    masks: Tensor


@dataclass(frozen=True)
class StepReport:
    """What a caller may show after a step: ``step`` steps of ``total`` are done."""

    step: int
    total: int
    loss: float
    rate: float
    notes: tuple[str, ...] = ()


def step_random(seed: int, step: int) -> random.Random:
    return random.Random(f"mixofshow|{seed}|{step}")


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(f"mixofshow-order|{seed}|{epoch}").shuffle(order)
    return order


def pick_batch(
    samples: Sequence[Sample], settings: TrainSettings, seed: int, draw: int, rng: random.Random
) -> tuple[list[str], list[tuple[int, int]], list[int]]:
    """Captions of the step; (picture, placement) of each sample; and which caption each sample uses.

    A step visits ``slots`` pictures of the running epoch. Each slot has one caption text and fills its share of the
    batch with pictures that have the same caption, or with other placements of its own picture.
    """
    captions: list[str] = []
    chosen: list[tuple[int, int]] = []
    which: list[int] = []
    share = settings.batch // settings.slots
    for slot in range(settings.slots):
        position = draw * settings.slots + slot
        epoch, place = divmod(position, len(samples))
        first = epoch_order(len(samples), seed, epoch)[place]
        sample = samples[first]
        alike = [n for n, other in enumerate(samples) if other.caption == sample.caption and n != first]
        pictures = [first] + [rng.choice(alike) if alike else first for _ in range(share - 1)]
        concept = sample.concept
        text = vary(
            sample.caption, concept.name, concept.kind, rng, settings.templates, settings.shuffle_captions
        )
        if settings.caption_dropout and rng.random() < settings.caption_dropout:
            text = ""
        if text not in captions:
            captions.append(text)
        for picture in pictures:
            chosen.append((picture, rng.randrange(samples[picture].latents.shape[0])))
            which.append(captions.index(text))
    return captions, chosen, which


def batch_loss(
    model: Denoiser, samples: Sequence[Sample], trainables: Trainables, settings: TrainSettings, seed: int, draw: int
) -> Tensor:
    """The loss of one batch; ``draw`` counts batches from 0."""
    rng = step_random(seed, draw)
    captions, chosen, which = pick_batch(samples, settings, seed, draw, rng)
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    x0 = torch.stack([samples[picture].latents[placement] for picture, placement in chosen])
    mask = torch.stack([samples[picture].masks[placement] for picture, placement in chosen])
    timesteps = torch.randint(0, len(model.schedule), (len(chosen),), generator=generator)
    noise = draw_noise(tuple(x0.shape), settings.noise_offset, generator)
    x0, mask, timesteps, noise = (tensor.to(model.device) for tensor in (x0, mask, timesteps, noise))
    with torch.random.fork_rng(enabled=settings.dropout > 0):
        if settings.dropout > 0:
            torch.manual_seed(rng.getrandbits(62))
        with torch.set_grad_enabled(trainables.trains_text()):
            text = model.encode(captions, trainables.vectors())
        noisy = model.schedule.noisy(x0, noise, timesteps)
        output = model.predict(noisy, timesteps, text, torch.tensor(which, device=model.device))
    target = model.schedule.target(x0, noise, timesteps)
    return masked_loss(output, target, mask, model.schedule.weight(timesteps, settings.min_snr))


def make_optimizer(trainables: Trainables, settings: TrainSettings) -> torch.optim.AdamW:
    groups = trainables.parameter_groups(
        settings.lr_embedding, settings.lr_text, settings.lr_unet, settings.weight_decay
    )
    return torch.optim.AdamW(groups, betas=(0.9, 0.999))


def freeze(trainables: Trainables, names: set[str]) -> None:
    """Stop the embeddings of these concepts for the rest of the run."""
    for name in names:
        for table in trainables.embeddings[name].parameters():
            table.requires_grad_(False)
            table.grad = None


def stop_grown_embeddings(trainables: Trainables, settings: TrainSettings, state: RunState) -> tuple[str, ...]:
    """Mix-of-Show's norm rule: a concept whose mean embedding norm reached ``norm_stop`` keeps its embeddings."""
    if settings.norm_stop <= 0:
        return ()
    grown = {
        name
        for name, words in trainables.embeddings.items()
        if name not in state.frozen and words.mean_norm() >= settings.norm_stop
    }
    freeze(trainables, grown)
    state.frozen |= grown
    return tuple(
        f"embeddings of {name} reached norm {settings.norm_stop:.3g} at step {state.step} and stay as they are"
        for name in sorted(grown)
    )


def train(
    model: Denoiser,
    samples: Sequence[Sample],
    trainables: Trainables,
    optimizer: torch.optim.AdamW,
    settings: TrainSettings,
    seed: int,
    state: RunState,
    on_step: Callable[[StepReport], None],
) -> None:
    """Run from ``state.step`` to ``settings.steps``; ``state`` and the trainables are current whenever this leaves.

    Anything that ``on_step`` or the model raises (an interrupt, say) leaves them at the last finished step.
    Raises TrainingDiverged, with the trainables put back to the last step whose loss was finite.
    """
    freeze(trainables, state.frozen)
    trainables.train()
    parameters = list(trainables.parameters())
    last_good = [parameter.detach().clone() for parameter in parameters]
    while state.step < settings.steps:
        rate = learning_rate_factor(settings, state.step)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(settings.accumulation):
            draw = state.step * settings.accumulation + part
            loss = batch_loss(model, samples, trainables, settings, seed, draw) / settings.accumulation
            total += float(loss.detach())
            if math.isfinite(total) and loss.requires_grad:
                loss.backward()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = float(torch.stack(torch._foreach_norm(gradients)).norm()) if gradients else 0.0
        if not (math.isfinite(total) and math.isfinite(norm)):
            restore(parameters, last_good)
            raise TrainingDiverged(
                f"Training diverged at step {state.step + 1}: loss {total:.4g}, gradient norm {norm:.4g}. "
                f"Try a third of the learning rates, precision fp32, or clip_gradient 1."
            )
        if 0 < settings.clip_gradient < norm:
            torch._foreach_mul_(gradients, settings.clip_gradient / norm)
        restore(last_good, parameters)
        optimizer.step()
        state.step += 1
        state.losses.append(total)
        notes = stop_grown_embeddings(trainables, settings, state)
        on_step(StepReport(state.step, settings.steps, total, rate, notes))


@torch.no_grad()
def restore(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    torch._foreach_copy_(targets, sources)


@torch.no_grad()
def sample_ddim(
    model: Denoiser, text: TextContexts, shape: tuple[int, ...], seed: int, steps: int, guidance: float
) -> Tensor:
    """Latents [1, C, h, w] by deterministic DDIM (Song et al. 2020) with classifier-free guidance.

    ``text`` holds two captions: the empty one first, then the prompt. For previews while training only.
    """
    schedule = model.schedule
    times = torch.linspace(len(schedule) - 1, 0, steps + 1).round().long()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    which = torch.tensor([0, 1], device=model.device)
    clean = x
    for number in range(steps):
        timestep = times[number].to(model.device).view(1)
        output = model.predict(x.repeat(2, 1, 1, 1), timestep.repeat(2), text, which).float()
        guided = output[:1] + guidance * (output[1:] - output[:1])
        clean = schedule.clean(x, guided, timestep)
        if number + 1 < steps:
            sigma, following = schedule.sigma(timestep), schedule.sigma(times[number + 1].to(model.device).view(1))
            noise = (x * (1.0 + sigma**2).sqrt() - clean) / sigma
            x = (clean + following * noise) / (1.0 + following**2).sqrt()
    return clean
