"""Workflows about placing: concepts routed to their regions without fusing, and a detail pass per person."""

from __future__ import annotations

import json

from .graphs import Step

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


def region(identifier: str, x: float, width: float, **more) -> dict:
    shape = {"type": "rect", "x": x, "y": 0, "width": width, "height": 1}
    return {"id": identifier, "name": identifier, "shape": shape, **more}


def trained() -> dict[str, Step]:
    """mara and finn from their pictures, as one chain of two concepts."""
    pictures = {
        f"{name}_pictures": Step(
            "MixOfShowDataset", (380, 40 + 560 * row), (330, 420),
            {"name": name, "class_word": "person", "folder": f"demo:{name}"},
        )
        for row, name in enumerate(("mara", "finn"))
    }  # fmt: skip
    return {
        "base": Step("MixOfShowDemoModel", (120, 40), (220, 80)),
        **pictures,
        "mara": Step(
            "MixOfShowTrain", (750, 40), (330, 460), {"save_as": "mara"}, BASE | {"dataset": ("mara_pictures", 0)}
        ),
        "finn": Step(
            "MixOfShowTrain", (750, 600), (330, 460), {"save_as": "finn"},
            BASE | {"dataset": ("finn_pictures", 0), "concepts": ("mara", 0)},
        ),
    }  # fmt: skip


def placed(document: dict, width: int, prompt: str, batch: int) -> dict[str, Step]:
    """Regions, Place with unfused concepts, and the host's sampler."""
    return {
        "regions": Step(
            "MixOfShowRegions", (1120, 40), (780, 680),
            {"editor": json.dumps(document, indent=1), "width": width, "height": SIDE}, {"concepts": ("finn", 0)},
        ),
        "coverage": Step(
            "MixOfShowCoverage", (1120, 780), (420, 420), {}, {"regions": ("regions", 0), "model": ("base", 0)}
        ),
        "place": Step(
            "MixOfShowPlace", (1940, 40), (360, 280), {"prompt": prompt, "negative": ""},
            {"model": ("base", 0), "clip": ("base", 1), "regions": ("regions", 0), "concepts": ("finn", 0)},
        ),
        "latent": Step(
            "EmptyLatentImage", (1940, 380), (360, 110), {"batch_size": batch},
            {"width": ("regions", 3), "height": ("regions", 4)},
        ),
        "sample": sampler((2340, 40), "place", ("latent", 0)),
        "decode": Step("VAEDecode", (2340, 400), (220, 60), {}, {"samples": ("sample", 0), "vae": ("base", 2)}),
    }  # fmt: skip


def sampler(pos: tuple[int, int], place: str, latent: tuple[str, int], denoise: float = 1.0) -> Step:
    return Step(
        "KSampler", pos, (320, 300),
        {"seed": 1, "steps": 20, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "normal", "denoise": denoise},
        {"model": (place, 0), "positive": (place, 1), "negative": (place, 2), "latent_image": latent},
    )  # fmt: skip


def two_routed() -> dict[str, Step]:
    document = {
        "version": 1,
        "suffix": "green background",
        "regions": [
            region("mara", 0, 0.5, concept="mara", prompt="a photo of mara"),
            region("finn", 0.5, 0.5, concept="finn", prompt="a photo of finn"),
        ],
    }
    return {
        "story": Step("MarkdownNote", (-260, 40), (360, 420), {"text": ROUTED_STORY}),
        **trained(),
        **placed(document, 2 * SIDE, "two people side by side, green background", 4),
        "save": Step(
            "SaveImage", (2700, 40), (480, 420), {"filename_prefix": "mixofshow/02"}, {"images": ("decode", 0)}
        ),
    }  # fmt: skip


def detail(name: str, row: int, x: int, picture: tuple[str, int]) -> dict[str, Step]:
    """Crop a person's box out of ``picture``, paint it again with its own text, paste it back."""
    y = 40 + 700 * row
    return {
        f"pick_{name}": Step(
            "MixOfShowPickRegion", (2700, y), (300, 120), {"region": name}, {"regions": ("regions", 0)}
        ),
        f"crop_{name}": Step(
            "ImageCrop", (2700, y + 180), (300, 160), {"width": SIDE, "height": SIDE, "x": x, "y": 0},
            {"image": picture},
        ),
        f"encode_{name}": Step(
            "VAEEncode", (2700, y + 400), (300, 60), {}, {"pixels": (f"crop_{name}", 0), "vae": ("base", 2)}
        ),
        f"place_{name}": Step(
            "MixOfShowPlace", (3040, y), (360, 280), {"prompt": f"a photo of {name}", "negative": ""},
            {
                "model": ("base", 0), "clip": ("base", 1), "regions": (f"pick_{name}", 0), "concepts": ("finn", 0),
            },
        ),
        f"sample_{name}": sampler((3440, y), f"place_{name}", (f"encode_{name}", 0), denoise=0.5),
        f"decode_{name}": Step(
            "VAEDecode", (3440, y + 360), (220, 60), {}, {"samples": (f"sample_{name}", 0), "vae": ("base", 2)}
        ),
        f"paste_{name}": Step(
            "ImageCompositeMasked", (3800, y), (300, 180), {"x": x, "y": 0, "resize_source": False},
            {"destination": picture, "source": (f"decode_{name}", 0)},
        ),
    }  # fmt: skip


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
    return {
        "story": Step("MarkdownNote", (-260, 40), (360, 420), {"text": DETAIL_STORY}),
        **trained(),
        **placed(document, 3 * SIDE, "two people and a cat, green background", 1),
        **detail("mara", 0, 0, ("decode", 0)),
        **detail("finn", 1, 2 * SIDE, ("paste_mara", 0)),
        "before": Step("PreviewImage", (2340, 520), (320, 200), {}, {"images": ("decode", 0)}, title="Before"),
        "save": Step(
            "SaveImage", (4140, 40), (480, 420), {"filename_prefix": "mixofshow/03"}, {"images": ("paste_finn", 0)}
        ),
    }  # fmt: skip


WORKFLOWS = {"02_two_people_routed": two_routed, "03_three_people_detailed": three_with_detail}
