"""The example workflows as data: `python -m world.workflows.write` rewrites example_workflows/*.json.

It asks a running server which inputs the nodes have, so the files always fit the release they come with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from . import casts as cast_workflows
from . import evaluation as evaluation_workflows
from . import fusing as fusing_workflows
from . import placing as placing_workflows
from . import training as training_workflows
from .graphs import Step, build_workflow
from .layout import arrange

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "example_workflows"

REGIONS = {
    "version": 1,
    "suffix": "green background",
    "regions": [
        {
            "id": "left",
            "name": "mara",
            "concept": "mara",
            "prompt": "a photo of mara",
            "shape": {"type": "rect", "x": 0, "y": 0, "width": 0.5, "height": 1},
        },
        {
            "id": "right",
            "name": "finn",
            "concept": "finn",
            "prompt": "a photo of finn",
            "shape": {"type": "rect", "x": 0.5, "y": 0, "width": 0.5, "height": 1},
        },
    ],
}

STORY = """## Two people of your own in one picture

1. **Dataset**: eight pictures each of *mara* and *finn* come with the pack (`demo:mara`, `demo:finn`).
2. **Train** learns each of them (about a minute on two CPU cores) and saves a file.
3. **Fuse** computes one set of weights for both, in closed form.
4. **Regions** says who stands where, **Place** puts each region's text there.
5. The ordinary **KSampler** paints.

The model is the pack's own tiny one (64 pixels a side, trained by us on avatars and emoji), so that this runs
anywhere. For real pictures put your checkpoint in place of *Demo Model* and a folder of your own into *Dataset*.
"""


def first_picture() -> dict[str, Step]:
    """01: two concepts trained, fused and placed."""
    steps = {
        "story": Step("MarkdownNote", {"text": STORY}),
        **placing_workflows.trained(),
        "fuse": Step(
            "MixOfShowFuse",
            {},
            {"model": ("base", 0), "clip": ("base", 1), "concepts": ("finn", 0)},
        ),
        "regions": Step(
            "MixOfShowRegions",
            {"editor": json.dumps(REGIONS, indent=1), "width": 128, "height": 64},
            {"concepts": ("finn", 0)},
        ),
        "place": Step(
            "MixOfShowPlace",
            {"prompt": "mara on the left and finn on the right, green background", "negative": ""},
            {"model": ("fuse", 0), "clip": ("fuse", 1), "regions": ("regions", 0)},
        ),
        "latent": Step(
            "EmptyLatentImage",
            {"batch_size": 4},
            {"width": ("regions", 3), "height": ("regions", 4)},
        ),
        "sample": Step(
            "KSampler",
            {"seed": 1, "steps": 20, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal"},
            {"model": ("place", 0), "positive": ("place", 1), "negative": ("place", 2), "latent_image": ("latent", 0)},
        ),
        "decode": Step("VAEDecode", {}, {"samples": ("sample", 0), "vae": ("base", 2)}),
        "save": Step("SaveImage", {"filename_prefix": "mixofshow/01"}, {"images": ("decode", 0)}),
    }
    return arrange(steps, placing_workflows.PEOPLE_ROW, ("fuse", "regions", "place sample", "latent decode save"))


WORKFLOWS = {
    "01_train_fuse_place": first_picture,
    **placing_workflows.WORKFLOWS,
    **fusing_workflows.WORKFLOWS,
    **training_workflows.WORKFLOWS,
    **evaluation_workflows.WORKFLOWS,
    **cast_workflows.WORKFLOWS,
}


def main() -> None:
    from tests.host.runtime import find_host
    from tests.host.server import start_server

    FOLDER.mkdir(exist_ok=True)
    with start_server(find_host()) as server:
        object_info = server.object_info()
    for name, steps in WORKFLOWS.items():
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps(build_workflow(steps(), object_info), indent=1) + "\n")
        sys.stderr.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
