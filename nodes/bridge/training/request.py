"""What a training run is: everything its result depends on, and the key that equal runs share.

Stands below all files that read a request (encode, parts, memory, prior, validation) and below run.py.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from ....mixofshow_core.concept import BaseInfo
from ....mixofshow_core.topology import cross_attention_layers, layer_groups_text, layer_groups_unet
from ....mixofshow_core.training.adapters import ConceptPlan
from ....mixofshow_core.training.dataset import TrainingSet, folder_fingerprint
from ....mixofshow_core.training.settings import TrainSettings
from ..host import model as bridge_model
from ..host.files import safe_name
from ..host.fingerprints import models_digests, module_digest
from .data import picture_folder
from .denoiser import embedding_index

TRAINER_VERSION = 3  # raised when the same request would give another result
UNHASHED = ("snapshot_every", "snapshots_kept", "preview_every", "validate_every", "validation_prompts")


@dataclass(frozen=True, eq=False)
class TrainRequest:
    """Everything a run depends on. ``settings`` are resolved: no autos left."""

    model: object
    clip: object
    vae: object
    data: TrainingSet
    settings: TrainSettings
    seed: int
    save_as: str
    base: BaseInfo

    @property
    def plans(self) -> tuple[ConceptPlan, ...]:
        with_class, start = self.settings.with_class, self.settings.word_start
        return tuple(
            ConceptPlan(c.name, c.class_word.strip(), c.kind, with_class, c.style, start) for c in self.data.concepts
        )

    @property
    def index(self) -> tuple[int, ...]:
        layers = cross_attention_layers(bridge_model.unet_of(self.model))
        return embedding_index(layers, self.settings.embedding_rows)

    @property
    def stem(self) -> str:
        return safe_name(self.save_as or "+".join(concept.name for concept in self.data.concepts))

    @cached_property
    def models(self) -> tuple:
        """Tells MODEL and CLIP, as they are sampled, from all others: the run and its class pictures rest on them."""
        return sample_weights(self.model, self.clip), *models_digests(self.model, self.clip)

    def fingerprint(self) -> str:
        """The same for runs that would end in the same file."""
        settings = {key: value for key, value in self.settings.to_json().items() if key not in UNHASHED}
        facts = [
            TRAINER_VERSION, settings, self.seed, self.data.content_hash, self.base.family, self.base.layers,
            self.models, class_folder_fingerprint(self.settings), module_digest(self.vae.first_stage_model),
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def class_folder_fingerprint(settings: TrainSettings) -> str:
    """Changes with the given class pictures; empty without a folder."""
    return folder_fingerprint(picture_folder(settings.prior_folder)) if settings.prior_folder.strip() else ""


def sample_weights(model, clip) -> str:
    """Hash of a few weights of both models with the LoRAs that are patched onto them."""
    spatial = layer_groups_unet(bridge_model.unet_of(model))
    names = [spatial[0].members[0], spatial[len(spatial) // 2].members[0], spatial[-1].members[0]]
    text = [
        group.members[0]
        for encoder, module in bridge_model.text_models_of(clip).items()
        for group in layer_groups_text(module, encoder)[:1]
    ]
    digest = hashlib.sha256()
    for patcher, chosen in ((model, names), (clip.patcher, text)):
        for name, weight in sorted(bridge_model.effective_weights(patcher, chosen).items()):
            digest.update(name.encode())
            digest.update(weight.contiguous().numpy().tobytes())
    return digest.hexdigest()
