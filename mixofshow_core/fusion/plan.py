"""What fusion looks at before it solves: prompts, seeds, steps and size.

A plan is data: the same plan on the same model gives the same statistics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ..bounds import meaning
from ..concept import ConceptUse
from ..errors import MixOfShowError

# The reference's two templates come first; the rest put the words into other sentences (few tokens over-fit).
TEMPLATES = (
    "photo of a {}",
    "{}",
    "a photo of {}",
    "a picture of {}, blue background",
    "{} on the left",
    "an image of {} smiling, white background",
    "{} standing in a park, green background",
    "{} on the right, and another person",
    "a close-up of {}",
    "a painting of {} at night",
    "{} sitting on a chair, red background",
    "two people: {} and a friend",
)

# Text that no concept should change. The empty prompt is also the usual negative prompt.
GENERIC = (
    "",
    "a photo of a person",
    "a cat",
    "a photo of a house, blue background",
    "a dog on the left and a car on the right",
    "a picture of a tree, white background",
    "a person with short hair wearing a red shirt",
    "blurry, low quality",
    "a city street at night",
    "two people standing side by side, green background",
    "a wooden table with a bowl of fruit",
    "mountains and a lake",
)

# Class words by kind, for the prior prompts of concepts that do not name their class.
CLASS_OF_KIND = {"character": "person", "object": "object", "scene": "place", "style": "painting"}


@dataclass(frozen=True)
class CalibrationPlan:
    """Prompts, seeds and sampling of one calibration. All of it is part of the statistics' identity.

    templates: text with one {}; generic: prompts for the prior and for styles. pictures: sampled per subject;
    prior_pictures: sampled with the base; steps, cfg, sampler, scheduler, width, height: of that sampling (size in
    pixels, 0 = the model's own).
    """

    templates: tuple[str, ...]
    generic: tuple[str, ...]
    pictures: int
    prior_pictures: int
    steps: int
    cfg: float = 5.0
    sampler: str = "euler"
    scheduler: str = "normal"
    seed: int = 0
    width: int = 0
    height: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise MixOfShowError(f"every calibration template needs exactly one {{}}: {self.templates}")
        if self.steps < 1 or self.pictures < 1:
            raise MixOfShowError(f"a calibration needs at least 1 step and picture, got {self.steps}, {self.pictures}")

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def sized(self, pixels: int) -> CalibrationPlan:
        """The plan with its size filled in from the model's own, where it had none."""
        return self if self.width and self.height else replace(self, width=pixels, height=pixels)


PRESETS = {
    "quick": CalibrationPlan(TEMPLATES[:4], GENERIC[:4], pictures=1, prior_pictures=0, steps=8),
    "standard": CalibrationPlan(TEMPLATES[:8], GENERIC[:8], pictures=2, prior_pictures=1, steps=12),
    "thorough": CalibrationPlan(TEMPLATES, GENERIC, pictures=6, prior_pictures=2, steps=20),
}


def preset(name: str) -> CalibrationPlan:
    if name not in PRESETS:
        raise MixOfShowError(f"calibration {name!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def subjects_of(use: ConceptUse) -> tuple[str, ...]:
    """The texts that call a concept up: its trigger if given, else each entry's plain name with its class word.

    Raises MixOfShowError for a concept with neither: its statistics would describe nothing of it.
    """
    if use.trigger.strip():
        return (use.trigger.strip(),)
    names = tuple(entry.name for entry in use.concept.entries)
    if not names and use.resolved_role == "concept":
        raise MixOfShowError(
            f"{use.label}: this LoRA brings no concept word, so fusion cannot know what text calls it up; "
            f"type its trigger words into `trigger`, or set `role` to style or add-on."
        )
    return names


def concept_prompts(plan: CalibrationPlan, use: ConceptUse) -> tuple[str, ...]:
    """The texts one concept is calibrated on: templates x subjects, or styled generic text for styles."""
    subjects = subjects_of(use)
    if meaning("The role of a fused concept", use.resolved_role, {"style": True, "concept": False}):
        plain = [text for text in plan.generic if text]
        return tuple(f"{text}, {subject}" for subject in subjects for text in plain) if subjects else tuple(plain)
    return tuple(template.format(subject) for subject in subjects for template in plan.templates)


def picture_prompts(plan: CalibrationPlan, use: ConceptUse) -> tuple[str, ...]:
    """The texts that are sampled: `pictures` of every subject's prompts, spread over the list."""
    prompts = concept_prompts(plan, use)
    subjects = max(len(subjects_of(use)), 1)
    share = len(prompts) // subjects
    return tuple(prompts[first + n % share] for first in range(0, len(prompts), share) for n in range(plan.pictures))


def prior_prompts(plan: CalibrationPlan, uses: Sequence[ConceptUse]) -> tuple[str, ...]:
    """Generic text plus each concept's class in the first template, sorted: the set does not depend on the order."""
    classes = {
        entry.class_word or CLASS_OF_KIND[entry.kind]
        for use in uses
        if use.resolved_role == "concept"
        for entry in use.concept.entries
    }
    return plan.generic + tuple(plan.templates[0].format(word) for word in sorted(classes))
