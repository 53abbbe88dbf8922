"""Settings that were left on auto, chosen from facts about the base model and the data, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..errors import MixOfShowError
from ..families.known import SD15, find_family
from ..fitting import title_of
from .settings import AUTO, QUALITIES, TrainSettings

SMALL_SIZE = 256


@dataclass(frozen=True)
class ModelFacts:
    """What the choice of defaults depends on; ``native_size`` is the short side in pixels. ``has_bf16``: the device
    computes in bfloat16 (GPUs before 2020 do not). ``trains_text``: the family's text encoders can be trained."""

    family: str
    native_size: int
    vocabulary_norm: float
    device: str = "cpu"
    has_bf16: bool = True
    trains_text: bool = True

    @property
    def is_small(self) -> bool:
        return self.native_size < SMALL_SIZE


# (embedding, text LoRA, UNet LoRA). Full-size figures: Mix-of-Show's configuration files. A base of a few million
# parameters learns in hundreds of steps and needs larger ones.
RATES = {"full": (1e-3, 1e-5, 1e-4), "small": (5e-3, 2e-4, 1.5e-3)}
# Where nothing but words is learned, a small base's words have further to go (docs/evidence/training.md).
WORDS_ALONE = {"full": 1e-3, "small": 2e-2}
# Whole matrices move faster than factors: Custom Diffusion's and DreamBooth's published rates.
FULL_WEIGHT_RATES = {
    "full": {"cross": (8e-5, 1e-5, 8e-5), "everything": (1e-3, 1e-5, 5e-6)},
    "small": {"cross": (5e-3, 2e-4, 1e-3), "everything": (5e-3, 2e-4, 1e-4)},
}
PRIOR_PICTURES = {"full": 200, "small": 24}
# Smallest scale of a placed picture. A base that has only ever seen whole figures takes a shrunk, shifted one for a
# part of the concept and forgets what a person looks like; a large base does not.
SCALE_MIN = {"full": 0.7, "small": 1.0}


def auto_steps(facts: ModelFacts, pictures: int) -> int:
    """Optimiser steps at standard quality."""
    if facts.is_small:
        return min(max(60 + 30 * pictures, 200), 600)
    return min(max(200 + 60 * pictures, 400), 1600)


def resolve(
    settings: TrainSettings, facts: ModelFacts, pictures: int, quality: str = "standard", steps: int = AUTO
) -> tuple[TrainSettings, tuple[str, ...]]:
    """Replace every auto by a number. Returns the settings and one line per choice, with its reason."""
    if quality not in QUALITIES:
        raise MixOfShowError(f"quality is {quality!r}; choose one of {', '.join(QUALITIES)}.")
    size = "small" if facts.is_small else "full"
    why = f"{facts.family} base, {facts.native_size} px"
    chosen: dict[str, object] = {}
    notes: list[str] = []

    def choose(name: str, value: object, reason: str) -> None:
        chosen[name] = value
        notes.append(f"{name} = {value:.4g} ({reason})" if isinstance(value, float) else f"{name} = {value} ({reason})")

    if settings.text_lora and not facts.trains_text:
        settings = replace(settings, text_lora=False)
        choose("text_lora", False, f"text encoders of {title_of(facts.family)} are left as they are")
    if steps:
        chosen["steps"] = steps
    elif not settings.steps:
        count = max(1, round(auto_steps(facts, pictures) * QUALITIES[quality]))
        choose("steps", count, f"{pictures} pictures, {quality} quality, {why}")
    used = {"lr_embedding": settings.trains_embeddings, "lr_text": settings.text_lora, "lr_unet": settings.unet_lora}
    rates = RATES[size]
    if settings.full_weights:
        rates = FULL_WEIGHT_RATES[size]["cross" if settings.unet_layers.startswith("cross") else "everything"]
    if not (settings.text_lora or settings.unet_lora):
        rates = (WORDS_ALONE[size], *rates[1:])
    if settings.optimizer == "prodigy":
        rates = (1.0, 1.0, 1.0)  # it finds the size of its steps itself
    for (name, on), rate in zip(used.items(), rates, strict=True):
        if not getattr(settings, name) and on:
            choose(name, rate, why)
    if not settings.batch:
        choose("batch", 8 if facts.is_small else (find_family(facts.family) or SD15).batch, why)
    batch = int(chosen.get("batch", settings.batch))
    slots = settings.slots or math.gcd(batch, 2 if facts.is_small else 4)
    if settings.slots > batch or batch % slots:
        raise MixOfShowError(f"slots is {slots}; it must divide the batch, {batch}.")
    chosen["slots"] = slots
    if not settings.scale_min:
        choose("scale_min", SCALE_MIN[size], why)
    if settings.prior_weight and not settings.prior_pictures and not settings.prior_folder:
        choose("prior_pictures", PRIOR_PICTURES[size], f"per class, generated once; {why}")
    if settings.size_captions and facts.is_small:
        choose("size_captions", False, f"a base of {facts.native_size} px never saw such small pictures")
    if not settings.variants:
        choose("variants", 16 if facts.is_small else 8, "placements encoded per picture")
    if not settings.norm_stop and settings.trains_embeddings:
        choose("norm_stop", 1.45 * facts.vocabulary_norm, "1.45 x the vocabulary's mean norm")
    if settings.checkpointing == "auto":
        chosen["checkpointing"] = "off" if facts.device == "cpu" or facts.is_small else "on"
    if settings.is_half and facts.device == "cpu":
        raise MixOfShowError(
            f"precision is {settings.precision}, which is slower than fp32 on a CPU and crashes on some. Use auto."
        )
    if settings.precision == "bf16" and not facts.has_bf16:
        raise MixOfShowError("precision is bf16, which this GPU does not compute in. Use auto (fp16) or fp32.")
    if settings.precision == "auto":
        half = ("bf16", "all GPUs since 2020 have it") if facts.has_bf16 else ("fp16", "this GPU has no bf16")
        choose("precision", *(("fp32", "CPU") if facts.device == "cpu" else half))
    if not settings.alpha:
        chosen["alpha"] = float(settings.rank)
    return replace(settings, **chosen), tuple(notes)
