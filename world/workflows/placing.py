"""Workflows about placing: concepts routed to their regions without fusing, a detail pass per person, a sketch that
holds in one region, an object in a learned scene, and SDXL's kind."""

from __future__ import annotations

import json
from dataclasses import replace

from .graphs import Step
from .layout import arrange

SIDE = 64  # the small base's picture; a crop is painted again at this size
BASE = {"model": ("base", 0), "clip": ("base", 1), "vae": ("base", 2)}

ROUTED_STORY = """## Two people, nothing fused

The files that **Train** saves go straight into **Place** (`concepts`): each acts only in the region that names it, in
the same single pass of the model.

Compare with workflow 01, which fuses first. *Route* to try people together; *fuse* when one file shall hold them all,
or when a prompt without regions names several.

**Coverage** shows who owns which token at each resolution of the model.
"""

DETAIL_STORY = """## Three in one picture, then each person again

1. Three regions that overlap: *mara* and *finn* are yours, the cat in the middle is a plain prompt. Where regions
   overlap, both texts count by half (see *Background* in the editor).
2. **Pick Region** takes one person with prompt and concept.
3. The picture is cropped there, painted again with that text alone at a low denoise, and pasted back.

The boxes of the crops are those of the regions: change both when you move one.
"""


SKETCH_STORY = """## A sketch holds in one region, the other is free

1. The base paints two strangers (*Strangers*). **Control Image** takes their lines.
2. **Region Control** with the demo's T2I-Adapter: in *mara*'s region the control weight is 1, in *finn*'s it is 0 (set
   in the editor). The left stranger's outline becomes mara; finn stands as he likes.

For a real checkpoint take *Load ControlNet Model* in place of *Demo Control*, and choose the kind of control picture
that it was trained on. Any picture of yours can be the sketch.
"""

SCENE_STORY = """## Two characters and an object in a scene, all learned

*mara* and *finn* are characters, *olmo* an object, *lagun* a scene. Each stays in its own file and is routed: the
scene is the concept of the *Background* in the editor and acts wherever no region is.

The demo's base paints flat colours unless *in a background* in a region's prompt asks for more. A real checkpoint does
not need that.
"""

XL_STORY = """## The same with a model of SDXL's kind

*Demo Model* gives the base with two text encoders and size conditioning; everything else is workflow 02. Concepts
belong to the kind that they were trained on, so *mara* and *finn* are trained again and saved under other names.
"""


def region(identifier: str, x: float, width: float, top: float = 0, **more) -> dict:
    shape = {"type": "rect", "x": x, "y": top, "width": width, "height": 1 - top}
    return {"id": identifier, "name": identifier, "shape": shape, **more}


PEOPLE = {"mara": ("person", "character"), "finn": ("person", "character")}
PEOPLE_ROW = ("story base", "mara_pictures", "mara", "finn_pictures", "finn")
ROUTED_ROW = ("coverage", "regions", "place sample", "latent decode save")
SCENE = {
    "mara": ("person", "character"),
    "olmo": ("snowman", "object"),
    "finn": ("person", "character"),
    "lagun": ("beach", "scene"),
}


def trained(cast: dict[str, tuple[str, str]] = PEOPLE, base: str = "", mark: str = "") -> dict[str, Step]:
    """Concepts (name -> class word, kind) from the pack's pictures as one chain that ends in the last of ``cast``.

    ``base``: the kind of the small base, empty for its default; ``mark`` ends the names of the saved files.
    """
    steps, before = {"base": Step("MixOfShowDemoModel", {"base": base} if base else {})}, ""
    for name, (word, kind) in cast.items():
        steps[f"{name}_pictures"] = Step(
            "MixOfShowDataset",
            {"name": name, "class_word": word, "kind": kind, "folder": f"demo:{name}"},
        )
        chain = {"concepts": (before, 0)} if before else {}
        steps[name] = Step(
            "MixOfShowTrain",
            {"save_as": name + mark},
            BASE | {"dataset": (f"{name}_pictures", 0)} | chain,
        )
        before = name
    return steps


def placed(document: dict, width: int, prompt: str, batch: int, concepts: str = "finn") -> dict[str, Step]:
    """Regions, Place with the unfused ``concepts`` of a chain, and the host's sampler."""
    return {
        "regions": Step(
            "MixOfShowRegions",
            {"editor": json.dumps(document, indent=1), "width": width, "height": SIDE},
            {"concepts": (concepts, 0)},
        ),
        "coverage": Step("MixOfShowCoverage", {}, {"regions": ("regions", 0), "model": ("base", 0)}),
        "place": Step(
            "MixOfShowPlace",
            {"prompt": prompt, "negative": ""},
            {"model": ("base", 0), "clip": ("base", 1), "regions": ("regions", 0), "concepts": (concepts, 0)},
        ),
        "latent": Step(
            "EmptyLatentImage",
            {"batch_size": batch},
            {"width": ("regions", 3), "height": ("regions", 4)},
        ),
        "sample": sampler("place", ("latent", 0)),
        "decode": Step("VAEDecode", {}, {"samples": ("sample", 0), "vae": ("base", 2)}),
    }


def sampler(place: str, latent: tuple[str, int], denoise: float = 1.0) -> Step:
    return Step(
        "KSampler",
        {"seed": 1, "steps": 20, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal", "denoise": denoise},
        {"model": (place, 0), "positive": (place, 1), "negative": (place, 2), "latent_image": latent},
    )


def two_routed() -> dict[str, Step]:
    document = {
        "version": 1,
        "suffix": "green background",
        "regions": [
            region("mara", 0, 0.5, concept="mara", prompt="a photo of mara"),
            region("finn", 0.5, 0.5, concept="finn", prompt="a photo of finn"),
        ],
    }
    steps = {
        "story": Step("MarkdownNote", {"text": ROUTED_STORY}),
        **trained(),
        **placed(document, 2 * SIDE, "two people side by side, green background", 4),
        "save": saved("02", ("decode", 0)),
    }
    return arrange(steps, PEOPLE_ROW, ROUTED_ROW)


def saved(number: str, picture: tuple[str, int]) -> Step:
    return Step("SaveImage", {"filename_prefix": f"mixofshow/{number}"}, {"images": picture})


def detail(name: str, x: int, picture: tuple[str, int]) -> dict[str, Step]:
    """Crop a person's box out of ``picture``, paint it again with its own text, paste it back."""
    return {
        f"pick_{name}": Step("MixOfShowPickRegion", {"region": name}, {"regions": ("regions", 0)}),
        f"crop_{name}": Step(
            "ImageCrop",
            {"width": SIDE, "height": SIDE, "x": x, "y": 0},
            {"image": picture},
        ),
        f"encode_{name}": Step("VAEEncode", {}, {"pixels": (f"crop_{name}", 0), "vae": ("base", 2)}),
        f"place_{name}": Step(
            "MixOfShowPlace",
            {"prompt": f"a photo of {name}", "negative": ""},
            {
                "model": ("base", 0),
                "clip": ("base", 1),
                "regions": (f"pick_{name}", 0),
                "concepts": ("finn", 0),
            },
        ),
        f"sample_{name}": sampler(f"place_{name}", (f"encode_{name}", 0), denoise=0.5),
        f"decode_{name}": Step("VAEDecode", {}, {"samples": (f"sample_{name}", 0), "vae": ("base", 2)}),
        f"paste_{name}": Step(
            "ImageCompositeMasked",
            {"x": x, "y": 0, "resize_source": False},
            {"destination": picture, "source": (f"decode_{name}", 0)},
        ),
    }


def three_with_detail() -> dict[str, Step]:
    document = {
        "version": 1,
        "suffix": "green background",
        "regions": [
            region("mara", 0, 0.375, concept="mara", prompt="a photo of mara"),
            region("cat", 0.3125, 0.375, prompt="a cat"),
            region("finn", 0.625, 0.375, concept="finn", prompt="a photo of finn"),
        ],
    }
    steps = {
        "story": Step("MarkdownNote", {"text": DETAIL_STORY}),
        **trained(),
        **placed(document, 3 * SIDE, "two people and a cat, green background", 3),
        **detail("mara", 0, ("decode", 0)),
        **detail("finn", 2 * SIDE, ("paste_mara", 0)),
        "before": Step("PreviewImage", {}, {"images": ("decode", 0)}, title="Before"),
        "save": saved("03", ("paste_finn", 0)),
    }
    return arrange(
        steps,
        PEOPLE_ROW,
        ("coverage", "regions", "place sample", "latent decode before"),
        (
            "pick_mara crop_mara encode_mara",
            "place_mara sample_mara",
            "decode_mara paste_mara",
            "pick_finn crop_finn encode_finn",
            "place_finn sample_finn",
            "decode_finn paste_finn save",
        ),
    )


def sketched() -> dict[str, Step]:
    document = {
        "version": 1,
        "suffix": "green background",
        "regions": [
            region("mara", 0, 0.5, concept="mara", prompt="a photo of mara"),
            region("finn", 0.5, 0.5, concept="finn", prompt="a photo of finn", control=0),
        ],
    }
    steps = {
        "story": Step("MarkdownNote", {"text": SKETCH_STORY}),
        **trained(),
        **placed(document, 2 * SIDE, "two people side by side, green background", 4),
    }
    text = "a person with an afro on the left and a person with long hair on the right, white background"
    steps |= {
        "strangers_text": Step(
            "MixOfShowPlace",
            {"prompt": text, "negative": ""},
            {"model": ("base", 0), "clip": ("base", 1)},
        ),
        "one": Step(
            "EmptyLatentImage",
            {"batch_size": 1},
            {"width": ("regions", 3), "height": ("regions", 4)},
        ),
        "strangers_sample": sampler("strangers_text", ("one", 0)),
        "strangers": Step("VAEDecode", {}, {"samples": ("strangers_sample", 0), "vae": ("base", 2)}),
        "strangers_shown": Step("PreviewImage", {}, {"images": ("strangers", 0)}, title="Strangers"),
        "lines": Step("MixOfShowControlImage", {}, {"image": ("strangers", 0)}),
        "lines_shown": Step("PreviewImage", {}, {"images": ("lines", 0)}, title="Sketch"),
        "adapter": Step("MixOfShowDemoControl"),
        "control": Step(
            "MixOfShowRegionControl",
            {"outside": 0.0},
            {
                "positive": ("place", 1),
                "negative": ("place", 2),
                "control_net": ("adapter", 0),
                "image": ("lines", 0),
                "regions": ("regions", 0),
            },
        ),
    }
    guided = {"model": ("place", 0), "positive": ("control", 0), "negative": ("control", 1)}
    sample = steps["sample"]
    steps["sample"] = replace(sample, links={**sample.links, **guided})
    return arrange(
        steps | {"save": saved("06", ("decode", 0))},
        PEOPLE_ROW,
        ("coverage", "regions", "place latent", "strangers_text one", "strangers_sample strangers"),
        ("strangers_shown", "lines adapter", "lines_shown", "control", "sample decode", "save"),
    )


def in_a_scene() -> dict[str, Step]:
    names = ("mara", "olmo", "finn")
    regions = [
        region(name, n / 3, 1 / 3, concept=name, prompt=f"a photo of {name} in a background")
        for n, name in enumerate(names)
    ]
    for entry in regions:
        entry["shape"]["type"] = "ellipse"
    document = {"version": 1, "background": {"concept": "lagun"}, "regions": regions}
    steps = {
        "story": Step("MarkdownNote", {"text": SCENE_STORY}),
        **trained(SCENE),
        **placed(document, 3 * SIDE, "a photo of lagun", 4, "lagun"),
        "save": saved("07", ("decode", 0)),
    }
    return arrange(
        steps,
        ("story base", "mara_pictures", "mara", "olmo_pictures", "olmo", "finn_pictures", "finn"),
        ("lagun_pictures", "lagun", "regions", "place sample", "latent decode coverage", "save"),
    )


def two_routed_xl() -> dict[str, Step]:
    steps = two_routed() | {"story": Step("MarkdownNote", {"text": XL_STORY})}
    steps |= trained(base="SDXL kind", mark="_xl") | {"save": saved("08", ("decode", 0))}
    return arrange(steps, PEOPLE_ROW, ROUTED_ROW)


WORKFLOWS = {
    "02_two_people_routed": two_routed,
    "03_three_people_detailed": three_with_detail,
    "06_sketch_in_one_region": sketched,
    "07_characters_in_a_scene": in_a_scene,
    "08_two_people_sdxl": two_routed_xl,
}
