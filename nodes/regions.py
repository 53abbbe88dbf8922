"""MixOfShowRegions: where things go."""

import torch
from comfy_api.latest import io, ui

from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.names import fold
from ..mixofshow_core.regional.describe import describe_regions
from ..mixofshow_core.regional.preview import draw_preview
from ..mixofshow_core.regional.raster import make_map
from ..mixofshow_core.regional.schema import MAX_REGIONS, InputMask, parse_regions
from .bridge.host.show import warnings_first
from .types import CONCEPTS, PLACE, REGIONS, alone, drawn_text, every, found_by

NO_REGIONS = '{"version": 1, "regions": []}'


class MixOfShowRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowRegions",
            display_name="Mix-of-Show Regions",
            category=PLACE,
            **found_by("MixOfShowRegions"),
            is_input_list=True,  # masks and concepts are wanted all at once
            description="Say who goes where: areas of the canvas, each with its own prompt and concept.",
            inputs=[
                drawn_text(
                    "editor",
                    "MOS_REGIONS",
                    NO_REGIONS,
                    (
                        "Draw the regions and say what is in each. Stored as one JSON text (docs/formats.md), which "
                        "can be wired in instead. Dynamic prompts are not chosen from here."
                    ),
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Width of the canvas in pixels. Wire the width output to the empty latent.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Height of the canvas in pixels. Wire the height output to the empty latent.",
                ),
                CONCEPTS.Input(
                    "concepts",
                    optional=True,
                    tooltip="The concepts you mean to place: a region that names another one is then an error here.",
                ),
                io.Image.Input(
                    "backdrop", optional=True, tooltip="A picture to show under the regions in the preview only."
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="Masks for regions whose shape is an input, by its index, counted from 0. "
                    "They are resized to the canvas and must have its proportions.",
                ),
            ],
            outputs=[
                REGIONS.Output(display_name="regions", tooltip="For Place, Region Control, Pick Region and Coverage."),
                io.Mask.Output(display_name="masks", tooltip="One mask per region, in their order."),
                io.Image.Output(display_name="preview", tooltip="The regions in colour, with their names."),
                io.Int.Output(display_name="width", tooltip="Wire to the empty latent."),
                io.Int.Output(display_name="height", tooltip="Wire to the empty latent."),
            ],
        )

    @classmethod
    def execute(cls, editor, width, height, concepts=None, backdrop=None, masks=None) -> io.NodeOutput:
        editor, width, height, backdrop = alone("Regions", editor=editor, width=width, height=height, backdrop=backdrop)
        concepts = None if concepts is None else [use for part in every(concepts) for use in part]
        planes = [plane for mask in every(masks) for plane in mask.reshape(-1, *mask.shape[-2:])]
        placed = make_map(parse_regions(editor, width, height), planes)
        if concepts is not None:
            _check_names(placed.regions, concepts)
        shown = placed.masks.float() / 255
        if not len(shown):
            shown = shown.new_zeros(1, height, width)
        seen = _for_the_editor(placed, concepts, backdrop, planes)
        seen |= {"text": [warnings_first([*describe_regions(placed), *_note_masks(placed, planes)])]}
        return io.NodeOutput(placed, shown, draw_preview(placed, backdrop), width, height, ui=seen)


def _for_the_editor(placed, concepts, backdrop, masks) -> dict:
    """What the editor can only know after a run: the size, the names of the concepts, the backdrop, the masks."""
    names = [entry.name for use in concepts or () for entry in use.concept.entries]
    seen = {
        "mixofshow_run": [
            {"size": {"width": placed.regions.width, "height": placed.regions.height}, "concepts": names}
        ],
        "mixofshow_backdrop": [],
        "mixofshow_masks": [],
    }
    if backdrop is not None:
        seen["mixofshow_backdrop"] = _save_temporary(backdrop[:1, ..., :3])
    for mask in masks[:MAX_REGIONS]:
        cover = mask[None, ..., None].clamp(0, 1)
        white = torch.ones_like(cover).expand(*cover.shape[:3], 3)
        seen["mixofshow_masks"] += _save_temporary(torch.cat([white, cover], -1))
    return seen


def _note_masks(placed, masks) -> list[str]:
    """Of masks that no region uses; the editor keeps the number of one that it made a shape of in `ui`."""
    spec = placed.regions.regions
    used = {r.shape.index if isinstance(r.shape, InputMask) else r.ui.get("mask") for r in spec}
    free = [index for index in range(len(masks)) if index not in used]
    if not free:
        return []
    what = f"of {len(masks)} incoming masks {len(free)}"
    return [f"WARNING: {what} belong to no region: the editor's button makes shapes of them, or disconnect `masks`."]


def _save_temporary(images: torch.Tensor) -> list[dict]:
    return list(
        ui.ImageSaveHelper.save_images(images, "mixofshow_regions", io.FolderType.temp, cls=None, compress_level=1)
    )


def _check_names(regions, concepts) -> None:
    entries = [entry for use in concepts for entry in use.concept.entries]
    known = {fold(name) for entry in entries for name in (entry.name, entry.id)}
    for region in (*regions.regions, regions.background):
        if getattr(region, "enabled", True) and region.concept and fold(region.concept).strip(" <>") not in known:
            where = f"region {region.name!r}" if hasattr(region, "name") else "the background"
            names = ", ".join(entry.name for entry in entries) or "none"
            raise MixOfShowError(f"Regions: {where} names concept {region.concept!r}, which is not connected: {names}.")


NODES = [MixOfShowRegions]
