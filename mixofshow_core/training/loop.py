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

from ..bounds import meaning
from ..errors import MixOfShowError
from .adapters import ConceptPlan, Trainables
from .captions import vary
from .objectives import NoiseSchedule, attention_loss, draw_noise, masked_errors
from .settings import TrainSettings, learning_rate_factor
from .snapshot import FULL_SCALE, RunState

SCALE_PATIENCE = 200  # steps before a loss scale that was lowered is tried twice as large


class TrainingDiverged(MixOfShowError):
    """Loss or gradient is no longer a finite number; the trainables hold the last state that was."""


@dataclass(frozen=True, eq=False)
class TextContexts:
    """Encoded captions: ``layers`` [rows, n, T, C], one slice per embedding row; ``pooled`` [n, P] or None.

    ``words`` [n, T, W]: 1 where a text position is the concept's W-th word, for attention regularisation; or None.
    """

    layers: Tensor
    pooled: Tensor | None = None
    words: Tensor | None = None


class Denoiser(Protocol):
    """The model side of training; gradients flow through both calls into whatever is attached."""

    schedule: NoiseSchedule
    device: torch.device

    def encode(self, captions: Sequence[str], vectors: Mapping[str, Mapping[str, Tensor]]) -> TextContexts:
        """Encode captions with concept words standing for ``vectors`` (word -> encoder -> [rows, D])."""

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextContexts, which: Tensor) -> Tensor:
        """The net's raw output [B, C, h, w]; ``which`` [B] says which caption each sample uses."""

    def attention_maps(self) -> list[Tensor]:
        """Per resolution [B, h, w, W]: what the concept words got in the last ``predict`` with ``text.words``."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture, encoded: ``latents`` [V, C, h, w] and ``masks`` [V, 1, h, w] for its placements.

    ``subjects`` [V, 1, h, w] is the object, where it is not simply the mask; ``phrases`` tell each placement's size.
    """

    concept: ConceptPlan
    caption: str
    latents: Tensor
    masks: Tensor
    subjects: Tensor | None = None
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pick:
    """One picture of a batch: which sample, which placement, which caption, its share of the loss."""

    sample: Sample
    placement: int
    caption: int
    share: float
    is_prior: bool = False

    @property
    def latent(self) -> Tensor:
        return self.sample.latents[self.placement]

    @property
    def mask(self) -> Tensor:
        return self.sample.masks[self.placement]

    @property
    def subject(self) -> Tensor:
        return self.mask if self.sample.subjects is None else self.sample.subjects[self.placement]


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
            sample.caption,
            concept.name,
            concept.kind,
            rng,
            settings.templates,
            settings.shuffle_captions,
            concept.style,
        )
        if settings.caption_dropout and rng.random() < settings.caption_dropout:
            text = ""
        for picture in pictures:
            placement = rng.randrange(samples[picture].latents.shape[0])
            phrase = samples[picture].phrases[placement] if samples[picture].phrases else ""
            told = f"{text}, {phrase}" if text and phrase else text
            if told not in captions:
                captions.append(told)
            chosen.append((picture, placement))
            which.append(captions.index(told))
    return captions, chosen, which


def pick_priors(priors: Sequence[Sample], count: int, seed: int, draw: int, captions: list[str]) -> list[Pick]:
    """``count`` pictures of the class, in epochs of their own; their captions are added to ``captions``."""
    picks = []
    for position in range(draw * count, (draw + 1) * count):
        epoch, place = divmod(position, len(priors))
        sample = priors[epoch_order(len(priors), seed + 1, epoch)[place]]
        if sample.caption not in captions:
            captions.append(sample.caption)
        picks.append(Pick(sample, position % sample.latents.shape[0], captions.index(sample.caption), 1 / count, True))
    return picks


def by_shape(picks: Sequence[Pick]) -> list[list[Pick]]:
    """The batch in groups of one latent shape: pictures of several aspect buckets cannot share one tensor."""
    groups: dict[torch.Size, list[Pick]] = {}
    for pick in picks:
        groups.setdefault(pick.latent.shape, []).append(pick)
    return list(groups.values())


def batch_loss(
    model: Denoiser,
    samples: Sequence[Sample],
    trainables: Trainables,
    settings: TrainSettings,
    seed: int,
    draw: int,
    priors: Sequence[Sample] = (),
) -> Tensor:
    """The loss of one batch; ``draw`` counts batches from 0. With ``priors``, as many pictures of the class join it."""
    rng = step_random(seed, draw)
    captions, chosen, which = pick_batch(samples, settings, seed, draw, rng)
    picks = [
        Pick(samples[picture], placement, caption, 1 / len(chosen))
        for (picture, placement), caption in zip(chosen, which, strict=True)
    ]
    if settings.prior_weight and priors:
        picks += pick_priors(priors, len(chosen), seed, draw, captions)
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    trainables.drop_cross_kv(settings.kv_drop, rng)
    with torch.random.fork_rng(enabled=settings.dropout > 0):
        if settings.dropout > 0:
            torch.manual_seed(rng.getrandbits(62))
        with torch.set_grad_enabled(trainables.trains_text()):
            text = model.encode(captions, trainables.vectors())
        losses = [group_loss(model, group, text, settings, generator) for group in by_shape(picks)]
    return torch.stack(losses).sum()


def group_loss(
    model: Denoiser, picks: Sequence[Pick], text: TextContexts, settings: TrainSettings, generator: torch.Generator
) -> Tensor:
    """This group's part of the batch's loss."""
    x0 = torch.stack([pick.latent for pick in picks])
    mask = torch.stack([pick.mask for pick in picks])
    share = torch.tensor([pick.share * (settings.prior_weight if pick.is_prior else 1.0) for pick in picks])
    timesteps = torch.randint(0, len(model.schedule), (len(picks),), generator=generator)
    noise = draw_noise(tuple(x0.shape), settings.noise_offset, generator)
    x0, mask, share, timesteps, noise = (t.to(model.device) for t in (x0, mask, share, timesteps, noise))
    noisy = model.schedule.noisy(x0, noise, timesteps)
    output = model.predict(noisy, timesteps, text, torch.tensor([pick.caption for pick in picks], device=model.device))
    target = model.schedule.target(x0, noise, timesteps)
    errors = masked_errors(output, target, mask, model.schedule.weight(timesteps, settings.min_snr))
    loss = (errors * share).sum()
    if settings.attention_weight and text.words is not None:
        # Captions that were dropped, and pictures of the class, hold none of the concept's words.
        told = [n for n, pick in enumerate(picks) if not pick.is_prior and bool(text.words[pick.caption].any())]
        if told:
            subject = torch.stack([picks[n].subject for n in told]).to(model.device)
            maps = [found[told] for found in model.attention_maps()]
            part = sum(picks[n].share for n in told)
            loss = loss + settings.attention_weight * part * attention_loss(maps, subject, settings.attention_identity)
    return loss


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
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    seed: int,
    state: RunState,
    on_step: Callable[[StepReport], None],
    priors: Sequence[Sample] = (),
) -> None:
    """Run from ``state.step`` to ``settings.steps``; ``state`` and the trainables are current whenever this leaves.

    Anything that ``on_step`` or the model raises (an interrupt, say) leaves them at the last finished step. In fp16
    the loss is scaled up, so that small gradients do not vanish, and down again where large ones overflow.
    Raises TrainingDiverged, with the trainables put back to the last step whose loss was finite.
    """
    freeze(trainables, state.frozen)
    trainables.train()
    parameters = list(trainables.parameters())
    last_good = [parameter.detach().clone() for parameter in parameters]
    optimizer.zero_grad(set_to_none=True)
    while state.step < settings.steps:
        rate = learning_rate_factor(settings, state.step)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        scales = {"fp16": state.loss_scale, **dict.fromkeys(("auto", "fp32", "bf16"), 1.0)}
        scale = meaning("Training setting precision", settings.precision, scales)
        total = 0.0
        for part in range(settings.accumulation):
            draw = state.step * settings.accumulation + part
            loss = batch_loss(model, samples, trainables, settings, seed, draw, priors) / settings.accumulation
            total += float(loss.detach())
            if math.isfinite(total) and loss.requires_grad:
                (loss * scale).backward()
            del loss  # and with it the graph, before the next one is made
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if scale != 1.0 and gradients:
            torch._foreach_mul_(gradients, 1.0 / scale)
        norm = float(torch.stack(torch._foreach_norm(gradients)).norm()) if gradients else 0.0
        if math.isfinite(total) and not math.isfinite(norm) and scale > 1.0:
            # Too large for fp16: the same step again, in smaller numbers.
            state.loss_scale, state.scale_age = scale / 2, 0
            optimizer.zero_grad(set_to_none=True)
            continue
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
        optimizer.zero_grad(set_to_none=True)
        del gradients
        state.step += 1
        state.losses.append(total)
        state.scale_age += 1
        if scale < FULL_SCALE and state.scale_age >= SCALE_PATIENCE:
            state.loss_scale, state.scale_age = min(2 * state.loss_scale, FULL_SCALE), 0
        notes = stop_grown_embeddings(trainables, settings, state)
        on_step(StepReport(state.step, settings.steps, total, rate, notes))


@torch.no_grad()
def restore(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    torch._foreach_copy_(targets, sources)
