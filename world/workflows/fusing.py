"""Workflows about fusing: three concepts into one file, one more added later, and community LoRAs by role."""

from __future__ import annotations

from .graphs import Step
from .layout import arrange

BASE = {"model": ("base", 0), "clip": ("base", 1), "vae": ("base", 2)}

THREE_STORY = """## Three concepts in one file, then a fourth

1. **Train** learns *mara*, *finn* and *mara2* (the same pictures again under another name: put your own folder there).
2. **Fuse** looks at each of them alone, then solves every layer in closed form and saves one file.
3. The second **Fuse** is what adding a concept later looks like: the same chain with one more link. What was looked
   at before is found on disk, so only the new concept is calibrated; the rest is one solve.

**Fusion Settings** holds what Fuse does not show. *auto* cuts the file to the ranks it needs and says what that costs.
"""

COMMUNITY_STORY = """## Community LoRAs, by what they are

Choose your files in the five **Load Concept** nodes. Kohya, PEFT, diffusers and LyCORIS dialects are read.

* A **character** without words of its own needs its trigger (the card lists the most frequent training tags).
* A **style** is kept on general text.
* **Add-ons** (sliders, few-step LoRAs) are not solved: they are added as they are, and are active while the others
  are looked at.

The report foresees conflicts, then says what every LoRA kept, and which layers could only be averaged.
"""


def pictures(name: str, folder: str) -> Step:
    return Step("MixOfShowDataset", {"name": name, "class_word": "person", "folder": folder})


def train(name: str, row: int, before: str = "") -> Step:
    chain = {"concepts": (before, 0)} if before else {}
    links = BASE | {"dataset": (f"{name}_pictures", 0)} | chain
    return Step("MixOfShowTrain", {"save_as": name, "seed": row}, links)


def painted(model: str, prompt: str, number: str) -> dict[str, Step]:
    """The stock text nodes and sampler on a fused MODEL and CLIP."""
    return {
        "positive": Step("CLIPTextEncode", {"text": prompt}, {"clip": (model, 1)}),
        "negative": Step("CLIPTextEncode", {"text": ""}, {"clip": (model, 1)}),
        "sample": Step(
            "KSampler",
            {"seed": 1, "steps": 20, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal"},
            {
                "model": (model, 0),
                "positive": ("positive", 0),
                "negative": ("negative", 0),
                "latent_image": ("latent", 0),
            },
        ),
        "decode": Step("VAEDecode", {}, {"samples": ("sample", 0), "vae": ("base", 2)}),
        "save": Step(
            "SaveImage",
            {"filename_prefix": f"mixofshow/{number}"},
            {"images": ("decode", 0)},
        ),
    }


def fuse(last: str, save_as: str, settings: bool = False) -> Step:
    more = {"settings": ("settings", 0)} if settings else {}
    links = {"model": ("base", 0), "clip": ("base", 1), "concepts": (last, 0)} | more
    return Step("MixOfShowFuse", {"save_as": save_as}, links)


def three_fused() -> dict[str, Step]:
    people = (("mara", "demo:mara", ""), ("finn", "demo:finn", "mara"), ("mara2", "demo:mara", "finn"))
    steps = {
        "story": Step("MarkdownNote", {"text": THREE_STORY}),
        "base": Step("MixOfShowDemoModel"),
        "settings": Step("MixOfShowFusionSettings"),
    }
    for row, (name, folder, before) in enumerate(people):
        steps[f"{name}_pictures"] = pictures(name, folder)
        steps[name] = train(name, row, before)
    steps |= {
        "fuse_two": fuse("finn", "mara_finn"),
        "fuse_three": fuse("mara2", "mara_finn_mara2", settings=True),
        "latent": Step("EmptyLatentImage", {"width": 128, "height": 64, "batch_size": 4}),
        **painted("fuse_three", "mara on the left and finn on the right, green background", "04"),
    }
    return arrange(
        steps,
        ("story base", *(f"{name}{part}" for name, *_ in people for part in ("_pictures", ""))),
        ("settings", "fuse_two", "fuse_three", "positive negative latent", "sample decode", "save"),
    )


def community() -> dict[str, Step]:
    files = (
        ("anna", {"trigger": "ohwx person"}),
        ("ben", {"trigger": "sks person"}),
        ("ink", {"role": "style", "trigger": "ink style", "strength": 0.8}),
        ("slider", {"role": "add-on", "strength": -0.5}),
        ("few_steps", {"role": "add-on"}),
    )
    steps = {
        "story": Step("MarkdownNote", {"text": COMMUNITY_STORY}),
        "base": Step("CheckpointLoaderSimple", {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}),
    }
    last = ""
    for name, facts in files:
        links = {"concepts": (last, 0)} if last else {}
        chosen = {"file": f"{name}.safetensors"} | facts
        steps[name] = Step("MixOfShowLoadConcept", chosen, links, title=name)
        last = name
    steps |= {
        "settings": Step("MixOfShowFusionSettings"),
        "fuse": fuse(last, "my_fusion", settings=True),
        "plot": Step("PreviewImage", {}, {"images": ("fuse", 4)}),
        "latent": Step("EmptyLatentImage", {"width": 512, "height": 512}),
        **painted("fuse", "ohwx person on the left and sks person on the right, ink style", "05"),
    }
    return arrange(
        steps,
        ("story base", *(name for name, _ in files)),
        ("settings", "fuse", "plot", "positive negative latent", "sample decode", "save"),
    )


WORKFLOWS = {"04_fuse_three_add_one": three_fused, "05_fuse_community_loras": community}
