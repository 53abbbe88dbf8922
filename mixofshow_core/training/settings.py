"""What a training run does, as one frozen dataclass; presets are settings, not code paths.

Numbers that are 0 mean "auto" where the field says so; ``resolve`` fills them in from facts about the base model
and the data and says why.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace

from ..errors import MixOfShowError

QUALITIES = {"draft": 0.4, "standard": 1.0, "high": 2.0}
EMBEDDING_ROWS = ("none", "one", "resolutions", "layers")
SCHEDULES = ("linear", "cosine", "constant")
MASKS = ("valid", "object")
SWITCH = ("auto", "on", "off")
PRECISIONS = ("auto", "fp32", "bf16")
SMALL_SIZE = 256
AUTO = 0


@dataclass(frozen=True)
class ModelFacts:
    """What the choice of defaults depends on; ``native_size`` is the short side in pixels."""

    family: str
    native_size: int
    vocabulary_norm: float
    device: str = "cpu"

    @property
    def is_small(self) -> bool:
        return self.native_size < SMALL_SIZE


@dataclass(frozen=True)
class TrainSettings:
    """One run. Rates are AdamW learning rates, ``alpha`` 0 equals the rank (scale 1, as in Mix-of-Show).

    ``embedding_rows``: how many embeddings a concept word gets: none (plain words), one (textual inversion), one per
    UNet resolution, or one per cross-attention layer (P+, ED-LoRA). ``norm_stop``: embeddings stop moving when their
    mean norm reaches this (0 auto, -1 never). ``slots``: different captions per step; fewer is faster.
    """

    method: str = "ED-LoRA"
    words: int = 2
    embedding_rows: str = "layers"
    text_lora: bool = True
    unet_lora: bool = True
    rank: int = 4
    alpha: float = AUTO
    dropout: float = 0.0
    lr_embedding: float = AUTO
    lr_text: float = AUTO
    lr_unet: float = AUTO
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup_steps: int = 0
    steps: int = AUTO
    batch: int = AUTO
    slots: int = AUTO
    accumulation: int = 1
    noise_offset: float = 0.01
    min_snr: float = 0.0
    clip_gradient: float = 0.0
    norm_stop: float = AUTO
    loss_mask: str = "valid"
    variants: int = AUTO
    crop_chance: float = 0.5
    scale_min: float = AUTO
    flip: bool = False
    templates: bool = True
    shuffle_captions: bool = True
    caption_dropout: float = 0.0
    checkpointing: str = "auto"
    precision: str = "auto"
    snapshot_every: int = 100
    preview_every: int = 25

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise MixOfShowError(f"Training setting {field.name} is {value}; give a finite number.")
        for name, low, high in (
            ("words", 0, 8), ("rank", 1, 256), ("alpha", 0, 1024), ("dropout", 0, 0.9), ("lr_embedding", 0, 1),
            ("lr_text", 0, 1), ("lr_unet", 0, 1), ("weight_decay", 0, 1), ("warmup_steps", 0, 100_000),
            ("steps", 0, 1_000_000), ("batch", 0, 256), ("slots", 0, 256), ("accumulation", 1, 256),
            ("noise_offset", 0, 1), ("min_snr", 0, 100), ("clip_gradient", 0, 1000), ("norm_stop", -1, 100),
            ("variants", 0, 1000), ("crop_chance", 0, 1), ("scale_min", 0, 1), ("caption_dropout", 0, 1),
            ("snapshot_every", 1, 1_000_000), ("preview_every", 0, 1_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise MixOfShowError(f"Training setting {name} is {getattr(self, name)}; it must be {low} to {high}.")
        if 0 < self.scale_min < 0.2:
            raise MixOfShowError(f"Training setting scale_min is {self.scale_min}; it must be 0 (auto) or 0.2 to 1.")
        for name, choices in (
            ("embedding_rows", EMBEDDING_ROWS), ("schedule", SCHEDULES), ("loss_mask", MASKS),
            ("checkpointing", SWITCH), ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise MixOfShowError(
                    f"Training setting {name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}."
                )
        if (self.words == 0) != (self.embedding_rows == "none"):
            raise MixOfShowError(
                f"words is {self.words} but embedding_rows is {self.embedding_rows!r}: learned words need rows, and "
                f"plain words have none. Set words to 0 together with embedding_rows 'none'."
            )
        if not (self.trains_embeddings or self.text_lora or self.unet_lora):
            raise MixOfShowError("Nothing would be trained: switch on embeddings, text_lora or unet_lora.")

    @property
    def trains_embeddings(self) -> bool:
        return self.embedding_rows != "none"

    @property
    def scale(self) -> float:
        """LoRA scale alpha / rank."""
        return 1.0 if self.alpha == AUTO else self.alpha / self.rank

    def to_json(self) -> dict[str, object]:
        return asdict(self)


PRESETS: dict[str, TrainSettings] = {
    "ED-LoRA": TrainSettings(),
    "P+": TrainSettings(method="P+", text_lora=False, unet_lora=False, words=1, norm_stop=-1),
    "Textual Inversion": TrainSettings(
        method="Textual Inversion", text_lora=False, unet_lora=False, words=1, embedding_rows="one", norm_stop=-1
    ),
    "LoRA": TrainSettings(method="LoRA", words=0, embedding_rows="none"),
}

# (embedding, text LoRA, UNet LoRA). Full-size figures: Mix-of-Show's configuration files. A base of a few million
# parameters learns in hundreds of steps and needs larger ones.
RATES = {"full": (1e-3, 1e-5, 1e-4), "small": (5e-3, 2e-4, 1.5e-3)}
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

    if steps:
        chosen["steps"] = steps
    elif not settings.steps:
        count = max(1, round(auto_steps(facts, pictures) * QUALITIES[quality]))
        choose("steps", count, f"{pictures} pictures, {quality} quality, {why}")
    used = {"lr_embedding": settings.trains_embeddings, "lr_text": settings.text_lora, "lr_unet": settings.unet_lora}
    for (name, on), rate in zip(used.items(), RATES[size], strict=True):
        if not getattr(settings, name) and on:
            choose(name, rate, why)
    if not settings.batch:
        choose("batch", 8 if facts.is_small else (1 if facts.family.startswith("sdxl") else 2), why)
    batch = int(chosen.get("batch", settings.batch))
    slots = settings.slots or math.gcd(batch, 2 if facts.is_small else 4)
    if settings.slots > batch or batch % slots:
        raise MixOfShowError(f"slots is {slots}; it must divide the batch, {batch}.")
    chosen["slots"] = slots
    if not settings.scale_min:
        choose("scale_min", SCALE_MIN[size], why)
    if not settings.variants:
        choose("variants", 16 if facts.is_small else 8, "placements encoded per picture")
    if not settings.norm_stop and settings.trains_embeddings:
        choose("norm_stop", 1.45 * facts.vocabulary_norm, "1.45 x the vocabulary's mean norm")
    if settings.checkpointing == "auto":
        chosen["checkpointing"] = "off" if facts.device == "cpu" or facts.is_small else "on"
    if settings.precision == "bf16" and facts.device == "cpu":
        raise MixOfShowError("precision is bf16, which is slower than fp32 on a CPU and crashes on some. Use auto.")
    if settings.precision == "auto":
        chosen["precision"] = "fp32" if facts.device == "cpu" else "bf16"
    if not settings.alpha:
        chosen["alpha"] = float(settings.rank)
    return replace(settings, **chosen), tuple(notes)


def learning_rate_factor(settings: TrainSettings, step: int) -> float:
    """Multiplier of every rate at 0-based ``step``: linear warm-up, then the schedule down to 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    if settings.schedule == "linear":
        return max(0.0, 1.0 - done)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))) if settings.schedule == "cosine" else 1.0
