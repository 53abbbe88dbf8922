"""Workflows about training: an object with masks, a style, Custom Diffusion with class pictures, two in one run."""

from __future__ import annotations

from collections.abc import Mapping

from .graphs import Step
from .layout import arrange

BASE = {"model": ("base", 0), "clip": ("base", 1), "vae": ("base", 2)}

OBJECT_STORY = """## An object, learned inside its masks

1. **Dataset**: eight pictures of the snowman *olmo*; `01.mask.png` beside `01.png` is white where it stands.
2. **Train Settings**: `loss_mask` *object*, so that only what the masks show is learned, and `attention_weight`, which
   holds the attention of its words inside them.
3. **Train** saves `olmo.safetensors`. Judge by its three samples (the words alone, LoRA at 0.7 and at 1), not by the
   loss, which jumps with the noise level.

For your own object put pictures and masks into a folder of ComfyUI's input folder and type its name into *Dataset*.
Without masks leave Train Settings out.
"""

STYLE_STORY = """## A style

Eight pictures of many things in one manner, and captions that name the things: *"a fish, blue background, tessa
style"*. What the captions do not say, the manner, is what the word *tessa* learns. `kind` *style* chooses templates
that say "in the style of".

Both rows are painted from the same noise and the same prompt, the lower one without the last two words.
"""

CUSTOM_STORY = """## Custom Diffusion, with pictures of the bare class

1. The preset learns one word before the class noun and whole key and value matrices of cross-attention.
2. So that not every *person* becomes mara, each step also shows pictures of the bare class. The base paints them once
   (`prior_pictures`) and they are kept for later runs; or name a folder of your own in `prior_folder`.
3. Upper row: *mara*. Lower row: *a person*, who should not look like her.

`validate_every` saves the concept as it is after every 100 steps, with a sheet of pictures: choose the best one.
"""

JOINT_STORY = """## Two people in one run

*Dataset* takes another dataset: both people are trained together into one file with two names. One run is shorter than
two, and the two cannot disturb each other later; adding a third means training again. For that, train each alone and
**Fuse** (workflow 01).
"""


def trained(
    story: str, concepts: Mapping[str, tuple[str, str]], save_as: str, settings: Mapping[str, object], **widgets: object
) -> dict[str, Step]:
    """Base, chained datasets (name -> class word, kind), one Train under "train", applied by Fuse under "apply"."""
    steps = {
        "story": Step("MarkdownNote", {"text": story}),
        "base": Step("MixOfShowDemoModel"),
    }
    before = ""
    for name, (word, kind) in concepts.items():
        steps[name] = Step(
            "MixOfShowDataset",
            {"name": name, "class_word": word, "kind": kind, "folder": f"demo:{name}"},
            {"dataset": (before, 0)} if before else {},
        )
        before = name
    links = BASE | {"dataset": (before, 0)}
    if settings:
        steps["settings"] = Step("MixOfShowTrainSettings", settings)
        links |= {"settings": ("settings", 0)}
    return steps | {
        "train": Step("MixOfShowTrain", {"save_as": save_as, **widgets}, links),
        "loss": Step("PreviewImage", {}, {"images": ("train", 4)}, title="Loss"),
        "apply": Step(
            "MixOfShowFuse",
            {},
            {"model": ("base", 0), "clip": ("base", 1), "concepts": ("train", 0)},
        ),
        "latent": Step("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 4}),
    }


def painted(number: str, prompts: Mapping[str, str]) -> dict[str, Step]:
    """One row of pictures per prompt, all from the same noise."""
    steps = {}
    for key, prompt in prompts.items():
        steps |= {
            f"{key}_place": Step(
                "MixOfShowPlace",
                {"prompt": prompt, "negative": ""},
                {"model": ("apply", 0), "clip": ("apply", 1)},
            ),
            f"{key}_sample": Step(
                "KSampler",
                {"seed": 1, "steps": 20, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal"},
                {
                    "model": (f"{key}_place", 0),
                    "positive": (f"{key}_place", 1),
                    "negative": (f"{key}_place", 2),
                    "latent_image": ("latent", 0),
                },
            ),
            f"{key}_decode": Step("VAEDecode", {}, {"samples": (f"{key}_sample", 0), "vae": ("base", 2)}),
            f"{key}_save": Step(
                "SaveImage",
                {"filename_prefix": f"mixofshow/{number}_{key}"},
                {"images": (f"{key}_decode", 0)},
            ),
        }
    return steps


def in_rows(steps: Mapping[str, Step], number: str, prompts: Mapping[str, str], *before: str) -> dict[str, Step]:
    """A row that trains (``before``: what stands left of Train) and a row that paints every prompt."""
    painting = [column for key in prompts for column in (f"{key}_place {key}_sample", f"{key}_decode {key}_save")]
    return arrange(
        {**steps, **painted(number, prompts)}, ("story base", *before, "train", "loss latent", "apply"), painting
    )


def object_with_masks() -> dict[str, Step]:
    settings = {"loss_mask": "object", "attention_weight": 0.0025}
    steps = trained(OBJECT_STORY, {"olmo": ("snowman", "object")}, "olmo", settings)
    prompts = {"green": "a photo of olmo, green background", "gray": "olmo, gray background"}
    return in_rows(steps, "09", prompts, "olmo", "settings")


def style() -> dict[str, Step]:
    steps = trained(STYLE_STORY, {"tessa": ("style", "style")}, "tessa", {})
    prompts = {"tessa": "a cat, green background, tessa style", "plain": "a cat, green background"}
    return in_rows(steps, "10", prompts, "tessa")


def custom_diffusion() -> dict[str, Step]:
    settings = {"prior_weight": 1.0, "prior_pictures": 24, "validate_every": 100}
    steps = trained(CUSTOM_STORY, {"mara": ("person", "character")}, "mara_custom", settings, preset="Custom Diffusion")
    prompts = {"mara": "a photo of mara, green background", "person": "a photo of a person, green background"}
    return in_rows(steps, "11", prompts, "mara", "settings")


def two_in_one_run() -> dict[str, Step]:
    people = {"mara": ("person", "character"), "finn": ("person", "character")}
    prompts = {name: f"a photo of {name}, green background" for name in people}
    return in_rows(trained(JOINT_STORY, people, "mara_and_finn", {}), "12", prompts, *people)


WORKFLOWS = {
    "09_object_with_masks": object_with_masks,
    "10_style": style,
    "11_custom_diffusion": custom_diffusion,
    "12_two_in_one_run": two_in_one_run,
}
