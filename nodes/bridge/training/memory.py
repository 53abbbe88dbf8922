"""How much memory a run will take, roughly, and which setting would save most of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ....mixofshow_core.families.nets import kind_of
from ....mixofshow_core.families.text import text_blocks
from ....mixofshow_core.training.settings import TrainSettings
from ..host import model as bridge_model
from .denoiser import TEXT_SECTIONS
from .parts import count_trained
from .request import TrainRequest

GIGABYTE = 1024**3
POSITIONS = 77
# Values kept for the backward pass per position and channel, measured on the host's modules (see the test).
TEXT_KEPT = 22.0
MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "adafactor": 1}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, by what they are for."""

    weights: float
    trained: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.trained + self.activations

    def text(self) -> str:
        return (
            f"about {gigabytes(self.total)}: {gigabytes(self.weights)} base, {gigabytes(self.trained)} trained tensors "
            f"with their gradients and moments, {gigabytes(self.activations)} activations"
        )


def gigabytes(size: float) -> str:
    return f"{size / GIGABYTE:.1f} GB" if size >= 0.1 * GIGABYTE else f"{size / 1024**2:.0f} MB"


def _text_values(request: TrainRequest, settings: TrainSettings, rows: int) -> float:
    reached = kind_of(bridge_model.net_of(request.model)).trains_text
    if not reached or not (settings.trains_embeddings or settings.text_lora):
        return 0.0
    sections = rows * settings.slots + (settings.slots if settings.prior_weight else 0)
    if settings.recomputes:
        sections = min(sections, TEXT_SECTIONS)
    total = 0.0
    for module in bridge_model.text_models_of(request.clip).values():
        for _, block in text_blocks(module):
            total += sections * POSITIONS * block.layer_norm1.normalized_shape[0] * TEXT_KEPT
    return total


def estimate(request: TrainRequest, settings: TrainSettings | None = None) -> MemoryEstimate:
    """A run's memory on the device, within a factor of two; the attention kernel and the allocator decide the rest."""
    settings = settings or request.settings
    unet = bridge_model.net_of(request.model)
    half = settings.is_half
    weights = sum(p.numel() * (p.element_size() if half else 4) for p in unet.parameters())
    for module in bridge_model.text_models_of(request.clip).values():
        weights += sum(p.numel() * p.element_size() for p in module.parameters())
    changed = replace(request, settings=settings)
    trained = count_trained(changed) * (8 + MOMENT_BYTES[settings.optimizer])
    pictures = settings.batch * (2 if settings.prior_weight else 1)
    blocks = list(kind_of(unet).activations(unet, bridge_model.native_cells(request.model)))
    if settings.recomputes:
        values = sum(inputs for _, inputs in blocks) + max(kept for kept, _ in blocks)
    else:
        values = sum(kept for kept, _ in blocks)
    activations = values * pictures * (2 if half else 4)
    activations += _text_values(request, settings, max(changed.index) + 1) * 4
    return MemoryEstimate(weights, trained, activations)


def memory_advice(request: TrainRequest) -> str:
    """Which settings to change after running out of memory, the one that saves most first."""
    settings = request.settings
    layers = len(request.index)
    ideas = {
        "set checkpointing to on": {"checkpointing": "on"},
        f"set batch to 1 and accumulation to {settings.batch}": {"batch": 1, "slots": 1},
        "set embedding_rows to resolutions": {"embedding_rows": "resolutions"} if settings.trains_embeddings else {},
        "set optimizer to adafactor": {"optimizer": "adafactor"},
    }
    if str(request.model.load_device.type) != "cpu":
        half = settings.precision if settings.is_half else "bf16"
        ideas[f"set precision to {half}"] = {"precision": half}
    now = estimate(request).total
    saved = {idea: now - estimate(request, replace(settings, **change)).total for idea, change in ideas.items()}
    best = sorted((idea for idea in saved if saved[idea] > 0.01 * now), key=saved.get, reverse=True)
    told = "; ".join(f"{idea} (saves about {gigabytes(saved[idea])})" for idea in best) or "a smaller model"
    return (
        f"Not enough memory to train ({estimate(request).text()}; {layers} cross-attention layers). "
        f"In Train Settings, try in this order: {told}."
    )
