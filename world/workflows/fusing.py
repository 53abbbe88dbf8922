"""Workflows about fusing: three concepts into one file, one more added later, and community LoRAs by role."""

from __future__ import annotations

from .graphs import Step

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


def pictures(name: str, folder: str, row: int) -> Step:
    return Step(
        "MixOfShowDataset", (380, 40 + 560 * row), (330, 420), {"name": name, "class_word": "person", "folder": folder}
    )


def train(name: str, row: int, before: str = "") -> Step:
    chain = {"concepts": (before, 0)} if before else {}
    links = BASE | {"dataset": (f"{name}_pictures", 0)} | chain
    return Step("MixOfShowTrain", (750, 40 + 560 * row), (330, 460), {"save_as": name, "seed": row}, links)


def painted(model: str, prompt: str, number: str, x: int) -> dict[str, Step]:
    """The stock text nodes and sampler on a fused MODEL and CLIP."""
    return {
        "positive": Step("CLIPTextEncode", (x, 40), (360, 140), {"text": prompt}, {"clip": (model, 1)}),
        "negative": Step("CLIPTextEncode", (x, 240), (360, 100), {"text": ""}, {"clip": (model, 1)}),
        "sample": Step(
            "KSampler", (x + 400, 40), (320, 300),
            {"seed": 1, "steps": 20, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal"},
            {
                "model": (model, 0), "positive": ("positive", 0), "negative": ("negative", 0),
                "latent_image": ("latent", 0),
            },
        ),
        "decode": Step("VAEDecode", (x + 400, 400), (220, 60), {}, {"samples": ("sample", 0), "vae": ("base", 2)}),
        "save": Step(
            "SaveImage", (x + 760, 40), (480, 420), {"filename_prefix": f"mixofshow/{number}"},
            {"images": ("decode", 0)},
        ),
    }  # fmt: skip


def fuse(last: str, y: int, save_as: str, settings: bool = False) -> Step:
    more = {"settings": ("settings", 0)} if settings else {}
    links = {"model": ("base", 0), "clip": ("base", 1), "concepts": (last, 0)} | more
    return Step("MixOfShowFuse", (1120, y), (330, 300), {"save_as": save_as}, links)


def three_fused() -> dict[str, Step]:
    people = (("mara", "demo:mara", ""), ("finn", "demo:finn", "mara"), ("mara2", "demo:mara", "finn"))
    steps = {
        "story": Step("MarkdownNote", (-260, 40), (360, 420), {"text": THREE_STORY}),
        "base": Step("MixOfShowDemoModel", (120, 40), (220, 80)),
        "settings": Step("MixOfShowFusionSettings", (750, 1720), (330, 480)),
    }
    for row, (name, folder, before) in enumerate(people):
        steps[f"{name}_pictures"] = pictures(name, folder, row)
        steps[name] = train(name, row, before)
    return steps | {
        "fuse_two": fuse("finn", 40, "mara_finn"),
        "two": Step("PreviewAny", (1490, 600), (420, 420), {}, {"source": ("fuse_two", 3)}, title="Two fused"),
        "fuse_three": fuse("mara2", 420, "mara_finn_mara2", settings=True),
        "three": Step("PreviewAny", (1940, 600), (420, 420), {}, {"source": ("fuse_three", 3)}, title="One more"),
        "latent": Step("EmptyLatentImage", (1120, 800), (330, 110), {"width": 128, "height": 64, "batch_size": 4}),
        **painted("fuse_three", "mara on the left and finn on the right, green background", "04", 1490),
    }


def community() -> dict[str, Step]:
    files = (
        ("anna", {"trigger": "ohwx woman"}), ("ben", {"trigger": "sks man"}),
        ("ink", {"role": "style", "trigger": "ink drawing", "strength": 0.8}),
        ("slider", {"role": "add-on", "strength": -0.5}), ("few_steps", {"role": "add-on"}),
    )  # fmt: skip
    steps = {
        "story": Step("MarkdownNote", (-260, 40), (360, 420), {"text": COMMUNITY_STORY}),
        "base": Step(
            "CheckpointLoaderSimple", (40, 540), (300, 100), {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}
        ),
    }
    last = ""
    for row, (name, facts) in enumerate(files):
        links = {"concepts": (last, 0)} if last else {}
        chosen = {"file": f"{name}.safetensors"} | facts
        steps[name] = Step("MixOfShowLoadConcept", (380, 40 + 320 * row), (330, 280), chosen, links, title=name)
        last = name
    return steps | {
        "settings": Step("MixOfShowFusionSettings", (750, 40), (330, 480)),
        "fuse": fuse(last, 40, "my_fusion", settings=True),
        "report": Step("PreviewAny", (1120, 400), (500, 420), {}, {"source": ("fuse", 3)}, title="Fusion report"),
        "plot": Step("PreviewImage", (1660, 500), (420, 420), {}, {"images": ("fuse", 4)}),
        "latent": Step("EmptyLatentImage", (1120, 880), (330, 110), {"width": 512, "height": 512}),
        **painted("fuse", "ohwx woman and sks man in a park, ink drawing", "05", 1660),
    }


WORKFLOWS = {"04_fuse_three_add_one": three_fused, "05_fuse_community_loras": community}
