"""What a training run does, as one frozen dataclass; presets are settings, not code paths.

Bounds and choices stand in the fields, where the checks and the settings node read them (bounds.py). Numbers that are 0
mean "auto" where the field says so; ``auto.resolve`` fills them in.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from ..bounds import check_bounds, choice, meaning, number
from ..errors import MixOfShowError

QUALITIES = {"draft": 0.4, "standard": 1.0, "high": 2.0}
EMBEDDING_ROWS = ("none", "one", "resolutions", "layers")
SCHEDULES = ("linear", "cosine", "constant")
MASKS = ("valid", "object")
SWITCH = ("auto", "on", "off")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LAYERS = ("cross_kv", "cross_attention", "attention", "transformer", "everything")
WORD_STARTS = ("random+class", "class", "random", "rare")
ASPECTS = ("square", "buckets")
OPTIMIZERS = ("adamw", "adamw8bit", "prodigy", "adafactor")
AUTO = 0


@dataclass(frozen=True)
class TrainSettings:
    """One run. Rates are AdamW learning rates, ``alpha`` 0 equals the rank (scale 1, as in Mix-of-Show).

    ``embedding_rows``: how many embeddings a concept word gets: none (plain words), one (textual inversion), one per
    UNet resolution, or one per cross-attention layer (P+, ED-LoRA). ``norm_stop``: embeddings stop moving when their
    mean norm reaches this (0 auto, -1 never). ``slots``: different captions per step; fewer is faster.

    ``unet_layers``: which UNet layers change, and ``full_weights`` whether by whole matrices instead of LoRA; the text
    encoder follows with its feed-forward layers from "transformer" on. ``with_class``: the class noun stands behind
    the name. ``detach_bos``: keys and values of the first text position get no gradient (Custom Diffusion).
    ``kv_drop``: chance that a cross-attention K or V is left out of a step. ``prior_weight``: weight of the loss on
    pictures of the class, 0 = none. ``attention_weight``: weight of the concept words' attention outside the mask;
    with ``attention_identity`` the last word has to cover the whole mask. ``snapshots_kept``: how many of a run's
    snapshots stay on disk, should the newest be damaged.
    """

    method: str = "ED-LoRA"
    words: int = number(2, 0, 8)
    embedding_rows: str = choice("layers", EMBEDDING_ROWS)
    text_lora: bool = True
    unet_lora: bool = True
    rank: int = number(4, 1, 256)
    alpha: float = number(AUTO, 0, 1024, auto=True)
    dropout: float = number(0.0, 0, 0.9)
    lr_embedding: float = number(AUTO, 0, 1, auto=True)
    lr_text: float = number(AUTO, 0, 1, auto=True)
    lr_unet: float = number(AUTO, 0, 1, auto=True)
    weight_decay: float = number(0.01, 0, 1)
    schedule: str = choice("linear", SCHEDULES)
    warmup_steps: int = number(0, 0, 100_000)
    steps: int = number(AUTO, 0, 1_000_000, auto=True)
    batch: int = number(AUTO, 0, 256, auto=True)
    slots: int = number(AUTO, 0, 256, auto=True)
    accumulation: int = number(1, 1, 256)
    noise_offset: float = number(0.01, 0, 1)
    min_snr: float = number(0.0, 0, 100)
    clip_gradient: float = number(0.0, 0, 1000)
    norm_stop: float = number(AUTO, -1, 100, auto=True)
    loss_mask: str = choice("valid", MASKS)
    variants: int = number(AUTO, 0, 1000, auto=True)
    crop_chance: float = number(0.5, 0, 1)
    scale_min: float = number(AUTO, 0, 1, auto=True)
    flip: bool = False
    templates: bool = True
    shuffle_captions: bool = True
    caption_dropout: float = number(0.0, 0, 1)
    checkpointing: str = choice("auto", SWITCH)
    precision: str = choice("auto", PRECISIONS)
    snapshot_every: int = number(100, 1, 1_000_000)
    preview_every: int = number(25, 0, 1_000_000)
    unet_layers: str = choice("attention", LAYERS)
    full_weights: bool = False
    word_start: str = choice("random+class", WORD_STARTS)
    with_class: bool = False
    detach_bos: bool = False
    kv_drop: float = number(0.0, 0, 0.9)
    prior_weight: float = number(0.0, 0, 100)
    prior_pictures: int = number(AUTO, 0, 10_000, auto=True)
    prior_folder: str = ""
    attention_weight: float = number(0.0, 0, 10)
    attention_identity: bool = False
    size_captions: bool = False
    aspect: str = choice("square", ASPECTS)
    optimizer: str = choice("adamw", OPTIMIZERS)
    validate_every: int = number(0, 0, 1_000_000)
    validation_prompts: str = ""
    snapshots_kept: int = number(2, 1, 100)

    def __post_init__(self) -> None:
        check_bounds(self, "Training setting")
        if 0 < self.scale_min < 0.2:
            raise MixOfShowError(f"Training setting scale_min is {self.scale_min}; it must be 0 (auto) or 0.2 to 1.")
        if (self.words == 0) != (self.embedding_rows == "none"):
            raise MixOfShowError(
                f"words is {self.words} but embedding_rows is {self.embedding_rows!r}: learned words need rows, and "
                f"plain words have none. Set words to 0 together with embedding_rows 'none'."
            )
        if not (self.trains_embeddings or self.text_lora or self.unet_lora):
            raise MixOfShowError("Nothing would be trained: switch on embeddings, text_lora or unet_lora.")
        if self.unet_layers == "everything" and self.unet_lora and not self.full_weights:
            raise MixOfShowError(
                "unet_layers is 'everything', which holds 3x3 convolutions, and LoRA is for linear layers. "
                "Choose 'transformer', or the DreamBooth preset for full weights."
            )
        if self.attention_weight and not self.trains_embeddings:
            raise MixOfShowError(
                f"attention_weight is {self.attention_weight}, but {self.method} learns no words whose attention could "
                f"be held to the mask. Set it to 0, or choose a preset with learned words."
            )

    @property
    def is_half(self) -> bool:
        return self.precision in ("bf16", "fp16")

    @property
    def recomputes(self) -> bool:
        """Whether activations are computed again in the backward pass; `auto` is resolved by then."""
        return meaning("Training setting checkpointing", self.checkpointing, {"on": True, "off": False})

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
    "LoRA": TrainSettings(method="LoRA", words=0, embedding_rows="none", with_class=True),
    "LoRA with a word": TrainSettings(method="LoRA with a word", words=1, embedding_rows="one"),
    "Custom Diffusion": TrainSettings(
        method="Custom Diffusion",
        words=1,
        embedding_rows="one",
        word_start="rare",
        with_class=True,
        text_lora=False,
        unet_layers="cross_kv",
        full_weights=True,
        detach_bos=True,
        prior_weight=1.0,
        size_captions=True,
        norm_stop=-1,
        noise_offset=0.0,
        schedule="constant",
        clip_gradient=1.0,
        templates=True,
    ),
    "DreamBooth": TrainSettings(
        method="DreamBooth",
        words=0,
        embedding_rows="none",
        with_class=True,
        text_lora=False,
        unet_layers="everything",
        full_weights=True,
        prior_weight=1.0,
        noise_offset=0.0,
        schedule="constant",
        clip_gradient=1.0,
    ),
    # As near to the published code as this trainer goes (docs/decisions/008): its weights are a quarter of theirs
    # where their loss is summed over four channels.
    "ED-LoRA (reference)": TrainSettings(
        method="ED-LoRA (reference)",
        batch=4,
        slots=4,
        scale_min=1.0,
        attention_weight=0.0025,
        lr_embedding=1e-3,
        lr_text=1e-5,
        lr_unet=1e-4,
    ),
}
PRESETS["Custom Diffusion (reference)"] = replace(
    PRESETS["Custom Diffusion"],
    method="Custom Diffusion (reference)",
    prior_weight=0.25,
    batch=4,
    slots=4,
    flip=True,
    lr_embedding=8e-5,
    lr_unet=8e-5,
    steps=250,
)


def learning_rate_factor(settings: TrainSettings, step: int) -> float:
    """Multiplier of every rate at 0-based ``step``: linear warm-up, then the schedule down to 0."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    fall = {"linear": max(0.0, 1.0 - done), "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))), "constant": 1.0}
    return meaning("Training setting schedule", settings.schedule, fall)
