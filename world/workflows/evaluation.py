"""A workflow about looking and measuring: Compare and Score on the pack's own two people."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .graphs import Step
from .layout import arrange
from .placing import PEOPLE_ROW, trained

STORY = """## Which way is best? Same noise, every way

1. **Train** mara and finn (a finished training is loaded, not repeated).
2. **Compare**, left: each alone and merged. Empty cells: the prompt does not name that concept.
3. **Compare**, right: both in one picture, with and without regions.
4. **Score** measures the first table against pictures of both. Without an evaluator it only compares colours and edges,
   *which recognises nobody*: connect **Load CLIP Vision**, or name a folder with a CLIP or DINO in `evaluator`.

Here the references are the training pictures, which flatters. For your own, keep some pictures aside.
"""


def half(name: str, x: float) -> dict:
    shape = {"type": "rect", "x": x, "y": 0, "width": 0.5, "height": 1}
    return {"id": name, "name": name, "concept": name, "prompt": f"a photo of {name}", "shape": shape}


REGIONS = {"version": 1, "suffix": "green background", "regions": [half("mara", 0.0), half("finn", 0.5)]}
SAMPLING = {"negative": "", "seed": 1, "steps": 20, "cfg": 3.0}
LINKS = {"model": ("base", 0), "clip": ("base", 1), "vae": ("base", 2), "concepts": ("finn", 0)}


def compared(key: str, widgets: Mapping, links: Mapping, latent: Step) -> dict[str, Step]:
    """A Compare node with its latent, and its grid saved."""
    return {
        f"{key}_latent": latent,
        f"{key}_compare": Step(
            "MixOfShowCompare", SAMPLING | widgets, LINKS | {"latent_image": (f"{key}_latent", 0)} | links
        ),
        f"{key}_save": Step(
            "SaveImage", {"filename_prefix": f"mixofshow/13_{key}"}, {"images": (f"{key}_compare", 0)}, size=(700, 780)
        ),
    }


def compare_and_score() -> dict[str, Step]:
    alone = {
        "prompts": "a photo of {name}, green background\na cat, blue background",
        "ways": "base, each, sum, average, fused",
    }
    both = {
        "prompts": "mara on the left and finn on the right, green background",
        "ways": "base, sum, fused, sum + regions, fused + regions, routed",
    }
    single = Step("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 2})
    wide = Step("EmptyLatentImage", {"batch_size": 2}, {"width": ("regions", 3), "height": ("regions", 4)})
    references, before = {}, ""
    for name in ("mara", "finn"):
        references[f"{name}_reference"] = Step(
            "MixOfShowDataset",
            {"name": name, "class_word": "person", "kind": "character", "folder": f"demo:{name}"},
            {"dataset": (before, 0)} if before else {},
            title="Reference",
        )
        before = f"{name}_reference"
    steps = {
        "story": Step("MarkdownNote", {"text": STORY}),
        **trained(),
        "regions": Step(
            "MixOfShowRegions",
            {"editor": json.dumps(REGIONS, indent=1), "width": 128, "height": 64},
            {"concepts": ("finn", 0)},
        ),
        **compared("alone", alone, {}, single),
        **compared("both", both, {"regions": ("regions", 0)}, wide),
        **references,
        "score": Step(
            "MixOfShowScore",
            {},
            {"images": ("alone_compare", 2), "texts": ("alone_compare", 3), "dataset": (before, 0)},
        ),
        "plot": Step("PreviewImage", {}, {"images": ("score", 2)}, title="Plot", size=(600, 600)),
    }
    return arrange(
        steps,
        PEOPLE_ROW,
        ("mara_reference finn_reference", "alone_latent alone_compare", "alone_save score", "plot"),
        ("regions both_latent", "both_compare", "both_save"),
    )


WORKFLOWS = {"13_compare_and_score": compare_and_score}
