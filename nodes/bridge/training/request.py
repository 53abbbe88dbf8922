"""What a training run is: everything its result depends on, and the key that equal runs share.

Stands below all files that read a request (encode, parts, memory, prior, validation) and below run.py.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from ....mixofshow_core.concept import BaseInfo
from ....mixofshow_core.training.adapters import ConceptPlan
from ....mixofshow_core.training.dataset import TrainingSet
from ....mixofshow_core.training.folder import folder_fingerprint
from ....mixofshow_core.training.settings import TrainSettings
from ..host import model as bridge_model
from ..host.files import safe_name
from ..host.fingerprints import models_key, tokens_key
from .data import picture_folder
from .denoiser import embedding_index

TRAINER_VERSION = 5  # raised when the same request would give another result
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
        return embedding_index(bridge_model.net_of(self.model), self.settings.embedding_rows)

    @property
    def stem(self) -> str:
        return safe_name(self.save_as or "+".join(concept.name for concept in self.data.concepts))

    @cached_property
    def models(self) -> str:
        """Tells MODEL and CLIP, as they are sampled, from all others: class pictures rest on them."""
        return models_key(self.model, self.clip)

    @cached_property
    def fingerprint(self) -> str:
        """The same for runs that would end in the same file."""
        settings = {key: value for key, value in self.settings.to_json().items() if key not in UNHASHED}
        captions = [picture.caption for concept in self.data.concepts for picture in concept.pictures]
        facts = [
            TRAINER_VERSION,
            settings,
            self.seed,
            self.data.content_hash,
            self.base.family,
            self.base.layers,
            models_key(self.model, self.clip, self.vae),
            tokens_key(self.clip, captions),
            class_folder_fingerprint(self.settings),
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def class_folder_fingerprint(settings: TrainSettings) -> str:
    """Changes with the given class pictures; empty without a folder."""
    return folder_fingerprint(picture_folder(settings.prior_folder)) if settings.prior_folder.strip() else ""
