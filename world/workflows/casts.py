"""14 to 16: community LoRAs in one list, routed, fused, and each face painted again."""

from __future__ import annotations

import json

from .graphs import Step
from .layout import arrange
from .placing import SIDE, placed, region, sampler, saved

ROUTED_STORY = """## Two LoRAs of others, five nodes

*Load Checkpoint -> Cast -> Regions -> Place -> KSampler*, with *Demo Model* for the checkpoint.

1. **Cast** lists the files. Nothing else is filled in: a LoRA is called by its file's name, its trigger comes from what
   LoRA managers leave beside it.
2. **Regions**: a box for each, its name in the prompt.
3. **Place** puts the trigger in and keeps each LoRA to its own region, in one pass.

The two LoRAs come with the pack (kohya's dialect, trained on the small base). Put your checkpoint and files in their
place; the wires from the base to Cast are not needed then (the small base has other levels than SD1.5).
"""

FUSED_STORY = """## The same two, fused

**Fuse** computes one set of weights for both, for every layer that sees places. What reads text is left apart (*words:
own* in Fusion Settings): Place, with `CONCEPTS`, reads each name by its own LoRA. The prompt alone names them.

Two plain LoRAs both change what *person* means, and one text encoder cannot hold both: with *words: fused* each stands
where it should about half as often. For concepts with learned words, *fused* does as well and is one file (`save_as`).
"""

FACES_STORY = """## Twice as sharp: hires fix, then each face

1. The picture of workflow 14.
2. **Hires fix**: *Upscale Image By* 1.5, encode, a second KSampler at denoise 0.2 with the same model, positive and
   negative.
3. **Each face**: *Pick Region* by name gives the crop (x, y, width and height in the pixels of `image`); a second
   **Place** with that region and the same cast is the MODEL with this person alone, with its positive and negative.
   *Image Crop*, scale to the size that the base knows, encode, sample at denoise 0.5, scale back, paste.

With a detector of another pack: the guide tells which sockets to wire.
"""

FILES = ("anna", "ben")
CAST = {"version": 1, "rows": [{"file": f"{name}.safetensors [demo]"} for name in FILES]}
PAIR = {
    "version": 1,
    "suffix": "green background",
    "regions": [
        region("anna", 0, 0.5, prompt="a photo of anna"),
        region("ben", 0.5, 0.5, prompt="a photo of ben"),
    ],
}
ROW = ("story base", "cast", "regions")
SCALE = 1.5
LANCZOS = {"upscale_method": "lanczos", "crop": "disabled"}


def cast_of_two() -> dict[str, Step]:
    """The wires to Cast say which layers the names mean: the small base has other levels than SD1.5."""
    base = {"model": ("base", 0), "clip": ("base", 1)}
    cast = Step("MixOfShowCast", {"cast": json.dumps(CAST, indent=1)}, base)
    return {"base": Step("MixOfShowDemoModel"), "cast": cast}


def painted(number: str, batch: int) -> dict[str, Step]:
    steps = cast_of_two() | placed(PAIR, 2 * SIDE, "two people side by side, green background", batch, "cast")
    del steps["coverage"]
    return steps | {"save": saved(number, ("decode", 0))}


def two_loras_routed() -> dict[str, Step]:
    steps = {"story": Step("MarkdownNote", {"text": ROUTED_STORY}), **painted("14", 4)}
    return arrange(steps, ROW, ("place sample", "latent decode", "save"))


def two_loras_fused() -> dict[str, Step]:
    steps = {
        "story": Step("MarkdownNote", {"text": FUSED_STORY}),
        **cast_of_two(),
        "settings": Step("MixOfShowFusionSettings", {"words": "own"}),
        "fuse": Step(
            "MixOfShowFuse",
            {"save_as": "anna_and_ben"},
            {"model": ("base", 0), "clip": ("base", 1), "concepts": ("cast", 0), "settings": ("settings", 0)},
        ),
        "place": Step(
            "MixOfShowPlace",
            {"prompt": "anna on the left and ben on the right, green background", "negative": ""},
            {"model": ("fuse", 0), "clip": ("fuse", 1), "concepts": ("fuse", 2)},
        ),
        "latent": Step("EmptyLatentImage", {"width": 2 * SIDE, "height": SIDE, "batch_size": 4}),
        "sample": sampler("place", ("latent", 0)),
        "decode": Step("VAEDecode", {}, {"samples": ("sample", 0), "vae": ("base", 2)}),
        "save": saved("15", ("decode", 0)),
    }
    return arrange(steps, ("story base", "cast", "settings", "fuse"), ("place", "latent decode", "sample", "save"))


def face(name: str, picture: tuple[str, int]) -> dict[str, Step]:
    """Crop a person out of ``picture``, paint it again with that LoRA alone, paste it back."""
    pick = f"pick_{name}"
    links = {key: (pick, slot) for slot, key in enumerate(("x", "y", "width", "height"), 2)}
    return {
        pick: Step("MixOfShowPickRegion", {"region": name}, {"regions": ("regions", 0), "image": picture}),
        f"crop_{name}": Step("ImageCrop", {}, {"image": picture, **links}),
        f"native_{name}": Step(
            "ImageScale", {**LANCZOS, "width": SIDE, "height": SIDE}, {"image": (f"crop_{name}", 0)}
        ),
        f"encode_{name}": Step("VAEEncode", {}, {"pixels": (f"native_{name}", 0), "vae": ("base", 2)}),
        f"place_{name}": Step(
            "MixOfShowPlace",
            {"prompt": f"a photo of {name}", "negative": ""},
            {"model": ("base", 0), "clip": ("base", 1), "regions": (pick, 0), "concepts": ("cast", 0)},
        ),
        f"sample_{name}": sampler(f"place_{name}", (f"encode_{name}", 0), denoise=0.5),
        f"decode_{name}": Step("VAEDecode", {}, {"samples": (f"sample_{name}", 0), "vae": ("base", 2)}),
        f"back_{name}": Step(
            "ImageScale",
            LANCZOS,
            {"image": (f"decode_{name}", 0), "width": links["width"], "height": links["height"]},
        ),
        f"paste_{name}": Step(
            "ImageCompositeMasked",
            {"resize_source": False},
            {"destination": picture, "source": (f"back_{name}", 0), "x": links["x"], "y": links["y"]},
        ),
    }


def hires_and_faces() -> dict[str, Step]:
    steps = {
        "story": Step("MarkdownNote", {"text": FACES_STORY}),
        **painted("16", 2),
        "larger": Step("ImageScaleBy", {"upscale_method": "lanczos", "scale_by": SCALE}, {"image": ("decode", 0)}),
        "encode": Step("VAEEncode", {}, {"pixels": ("larger", 0), "vae": ("base", 2)}),
        "again": sampler("place", ("encode", 0), denoise=0.2),
        "sharp": Step("VAEDecode", {}, {"samples": ("again", 0), "vae": ("base", 2)}),
        "before": Step("PreviewImage", {}, {"images": ("decode", 0)}, title="Before"),
        "hires": Step("PreviewImage", {}, {"images": ("sharp", 0)}, title="After the second pass"),
        **face("anna", ("sharp", 0)),
        **face("ben", ("paste_anna", 0)),
        "save": saved("16", ("paste_ben", 0)),
    }
    return arrange(
        steps,
        ROW,
        ("place sample", "latent decode before", "larger encode again", "sharp hires"),
        (
            "pick_anna",
            "crop_anna native_anna encode_anna",
            "place_anna sample_anna",
            "decode_anna back_anna paste_anna",
        ),
        (
            "pick_ben",
            "crop_ben native_ben encode_ben",
            "place_ben sample_ben",
            "decode_ben back_ben paste_ben",
            "save",
        ),
    )


WORKFLOWS = {
    "14_two_loras_routed": two_loras_routed,
    "15_two_loras_fused": two_loras_fused,
    "16_hires_and_faces": hires_and_faces,
}
