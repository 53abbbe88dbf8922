"""What the tables share: which concepts, which prompts, how many pictures, and the cells that several tables use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from world.judges.evaluator_kinds import CONCEPTS

from . import graphs as graphs
from .lab import Cell, Job, Training

SEED = 11
UNRELATED = (
    "a cat, blue background",
    "a car, green background",
    "a person, yellow background",
    "a person with short black hair, wearing a red shirt, white background",
)
UNRELATED_COUNT = 2  # of each: drift is measured picture by picture, so the noise has to be the same everywhere
PLAIN = (
    "a photo of {}, green background",
    "{}, blue background",
    "a picture of {}, white background",
    "an image of {}, purple background",
)
SUBJECTS = ("a cat", "a car", "a person with short black hair", "a house")
COLOURS = ("green", "blue", "white", "purple")


@cache
def class_words() -> dict[str, dict[str, str]]:
    """kind -> name -> class word, in the order of world/data/concepts/concepts.json."""
    return json.loads((CONCEPTS / "concepts.json").read_text())


def roster(kind: str) -> tuple[str, ...]:
    return tuple(name for name in class_words()[kind] if (CONCEPTS / kind / name / "train").is_dir())


def kind_of(name: str) -> str:
    return next(kind for kind, names in class_words().items() if name in names)


def class_of(name: str) -> str:
    return class_words()[kind_of(name)][name]


def an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@dataclass(frozen=True)
class Prompt:
    """text with the concept in it, the same for the bare class, what the picture should match, and its background."""

    text: str
    plain: str
    caption: str
    background: str = ""


def prompts_of(name: str) -> tuple[Prompt, ...]:
    """Four prompts by kind: other backgrounds for people and things, other subjects for scenes and styles."""
    kind, noun = kind_of(name), an(class_of(name))
    if kind == "scene":
        return tuple(Prompt(f"{subject} in {name}", f"{subject} in {noun}", subject) for subject in SUBJECTS)
    if kind == "style":
        texts = [f"{subject}, {colour} background" for subject, colour in zip(SUBJECTS, COLOURS, strict=True)]
        return tuple(Prompt(f"{text}, {name} style", text, text) for text in texts)
    return tuple(
        Prompt(text.format(name), text.format(noun), f"{noun}, {colour} background", colour)
        for text, colour in zip(PLAIN, COLOURS, strict=True)
    )


def noun_prompts(name: str) -> dict[str, str]:
    """The class noun alone, and a longer phrase that holds it. Styles have no noun: any other prompt."""
    kind, noun = kind_of(name), class_of(name)
    if kind == "style":
        return {"noun": "a dog, yellow background", "compound": "a cat and a dog, white background"}
    if kind == "scene":
        return {"noun": an(noun), "compound": f"a dog in {an(noun)} at night"}
    compound = "a person with short black hair, wearing a red shirt" if noun == "person" else f"a red {noun} and a cat"
    return {"noun": f"a photo of {an(noun)}, yellow background", "compound": f"{compound}, white background"}


@dataclass(frozen=True)
class Plan:
    """How much is done. pictures: of a prompt. steps: of every training, whatever its method."""

    pictures: int = 8
    steps: int = 240
    seeds: int = 1
    characters: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()  # of the table of methods
    ks: tuple[int, ...] = (2, 5, 10, 20)
    groups: int = 4
    small_sets: tuple[int, ...] = (10, 4)
    calibration: str = "standard"
    base: str = "A"

    def concept(
        self,
        name: str,
        preset: str = "ED-LoRA",
        pictures: int = 0,
        seed: int = 0,
        changes: tuple[tuple[str, object], ...] = (),
    ) -> Training:
        """One training. The table of methods looks at its own on their way, in the first seed with all pictures."""
        pictures = pictures or self.small_sets[0]
        watched = name in self.chosen and pictures == self.small_sets[0] and not (seed or changes)
        return Training(
            name,
            kind_of(name),
            class_of(name),
            preset,
            self.steps,
            pictures,
            seed,
            max(self.steps // 4, 1) if watched else 0,
            changes,
        )


def base_cell(names: Sequence[str], plan: Plan) -> Cell:
    """What the base paints for the bare classes of these concepts, and for prompts that no concept should change."""
    prompts: dict[str, tuple[str, int]] = {f"unrelated{i}": (t, UNRELATED_COUNT) for i, t in enumerate(UNRELATED)}
    for name in names:
        word = f"{kind_of(name)} {class_of(name)}".replace(" ", "-")
        for i, prompt in enumerate(prompts_of(name)):
            prompts[f"{word}-{i}"] = (prompt.plain, half(plan.pictures))
        for key, text in noun_prompts(name).items():
            prompts[f"{word}-{key}"] = (text, plan.pictures)
    canvases = sum(count for _, count in prompts.values())
    return Cell(("base",), (), lambda studio, files: graphs.painted(studio, {}, graphs.SUM, prompts, SEED), canvases)


def base_key(name: str, part: object) -> str:
    """Where `base_cell` keeps the bare class of a concept: part is the number of a prompt, "noun" or "compound"."""
    return f"{kind_of(name)} {class_of(name)}-{part}".replace(" ", "-")


def half(count: int) -> int:
    return max(count // 2, 1)


def everybody(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*plan.characters, *plan.objects, *plan.chosen)))


def the_base(plan: Plan) -> Cell:
    """One base cell for all tables: one name per kind and class is enough."""
    first = {(kind_of(name), class_of(name)): name for name in reversed(everybody(plan))}
    return base_cell(sorted(first.values()), plan)


def fused_prompts(names: Sequence[str], count: int) -> dict[str, tuple[str, int]]:
    prompts = {name: (prompts_of(name)[0].text, count) for name in names}
    return prompts | {f"unrelated{i}": (text, UNRELATED_COUNT) for i, text in enumerate(UNRELATED)}


def fused_cell(
    plan: Plan,
    names: Sequence[str],
    arm: graphs.Arm,
    count: int,
    label: tuple,
    calibrations: float = 0.0,
    preset: str = "ED-LoRA",
) -> Cell:
    """Everybody in one set of weights, painted alone, and the unrelated prompts."""
    prompts = fused_prompts(names, count)

    def build(studio: graphs.Studio, files: Mapping[str, str]) -> dict:
        return graphs.painted(studio, files, arm, prompts, SEED)

    trainings = tuple(plan.concept(name, preset) for name in names)
    return Cell(label, trainings, build, sum(n for _, n in prompts.values()), calibrations)


def alone_cell(plan: Plan, name: str) -> Cell:
    return fused_cell(plan, [name], graphs.SUM, plan.pictures, ("alone", name))


def alone_jobs(plan: Plan, names: Sequence[str], table: str) -> list[Job]:
    return [Job(table, f"{name} alone", (alone_cell(plan, name),)) for name in names]
