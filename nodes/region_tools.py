"""Pick Region, Coverage, Found Places, Learn Places: one region, who owns what, who was found where, and by what."""

from comfy_api.latest import io, ui

from ..mixofshow_core.regional.coverage import describe_coverage, draw_coverage, level_sizes, measure_coverage
from ..mixofshow_core.regional.pick import crop_box, pick_region
from ..mixofshow_core.regional.preview import draw_preview
from ..mixofshow_core.regional.raster import make_map
from ..mixofshow_core.regional.schema import dump_regions
from .bridge.host.images import to_image_batch
from .bridge.placing.found import found_in
from .bridge.placing.learning import learn_and_keep
from .bridge.placing.place import attention_levels
from .types import PLACE, REGIONS, found_by


class MixOfShowPickRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowPickRegion",
            display_name="Mix-of-Show Pick Region",
            category=PLACE,
            **found_by("MixOfShowPickRegion"),
            description="Take one region out of many, with its prompt and concept, to paint its details again.",
            inputs=[
                REGIONS.Input("regions", tooltip="From Regions."),
                io.String.Input(
                    "region", default="", tooltip="Name or id of the region, as in the editor. Empty: the only one."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture to crop, of the canvas's shape at any size: x, y, width and height are in its "
                    "pixels. Open: in the canvas's.",
                ),
            ],
            outputs=[
                REGIONS.Output(
                    display_name="regions",
                    tooltip="That region, over the whole picture: for Place, and a crop or an inpainting of any size.",
                ),
                io.Mask.Output(display_name="mask", tooltip="Where it was: to crop around it and to inpaint it."),
                io.Int.Output(display_name="x", tooltip="Left edge of a crop around it: for Crop Image, and to paste."),
                io.Int.Output(display_name="y", tooltip="Upper edge of that crop."),
                io.Int.Output(display_name="width", tooltip="Width of that crop, in whole latent cells."),
                io.Int.Output(display_name="height", tooltip="Height of that crop, in whole latent cells."),
            ],
        )

    @classmethod
    def execute(cls, regions, region="", image=None) -> io.NodeOutput:
        picked, mask = pick_region(regions, region)
        found, size = picked.regions.regions[0], picked.regions
        box = crop_box(mask, *((size.width, size.height) if image is None else (image.shape[2], image.shape[1])))
        told = f"{found.name}: {mask.mean():.0%} of {size.width} x {size.height}, handed on as the whole picture"
        told += "\ncrop: {2} x {3} at {0}, {1}".format(*box)
        text = ui.PreviewText("\n".join(filter(None, (told, found.concept, found.prompt))))
        return io.NodeOutput(picked, mask, *box, ui=ui.PreviewMask(mask, cls=cls).as_dict() | text.as_dict())


class MixOfShowCoverage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowCoverage",
            display_name="Mix-of-Show Coverage",
            category=PLACE,
            **found_by("MixOfShowCoverage"),
            description="Shows who owns which token at each resolution of the model, and why a tiny region vanishes.",
            is_output_node=True,
            inputs=[
                REGIONS.Input("regions", tooltip="From Regions."),
                io.Model.Input(
                    "model", optional=True, tooltip="To show the resolutions of this model's attention layers."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="coverage", tooltip="One picture per resolution, finest first."),
                io.String.Output(display_name="report", tooltip="Tokens of each region, and what is lost and why."),
            ],
        )

    @classmethod
    def execute(cls, regions, model=None) -> io.NodeOutput:
        spec = regions.regions
        sizes = level_sizes(spec.width, spec.height, *([] if model is None else [attention_levels(model)]))
        levels = measure_coverage(regions, sizes)
        images, report = to_image_batch(draw_coverage(regions, levels)), describe_coverage(regions, levels)
        shown = ui.PreviewImage(images, cls=cls).as_dict() | ui.PreviewText(report).as_dict()
        return io.NodeOutput(images, report, ui=shown)


class MixOfShowFound(io.ComfyNode):
    """Place runs before the sampler, so what was found while sampling needs a node behind it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowFound",
            display_name="Mix-of-Show Found Places",
            category=PLACE,
            **found_by("MixOfShowFound"),
            description="Shows where concepts without a region were found while sampling, and hands it on as masks "
            "and as regions to edit.",
            is_output_node=True,
            inputs=[
                io.Conditioning.Input("positive", tooltip="From Place: the one that was sampled."),
                io.Latent.Input("samples", tooltip="From the sampler that used it."),
                io.Int.Input("picture", default=0, min=0, max=4095, tooltip="Which of a batch, counted from 0."),
                io.Image.Input("image", optional=True, tooltip="The decoded pictures, to show the places on."),
            ],
            outputs=[
                io.Mask.Output(display_name="masks", tooltip="One mask per concept, in the order of `names`."),
                io.Image.Output(display_name="preview", tooltip="The places in colour, with the concepts' names."),
                io.String.Output(
                    display_name="regions",
                    tooltip="JSON: the outlines as regions. Wire it into the editor of Regions, or adopt it there.",
                ),
                io.String.Output(display_name="names", tooltip="One line per mask."),
            ],
        )

    @classmethod
    def execute(cls, positive, samples, picture=0, image=None) -> io.NodeOutput:
        found = found_in(positive, samples["samples"], picture)
        masks, regions, lines = found.masks(), dump_regions(found.regions()), found.describe()
        backdrop = None if image is None else image[min(picture, len(image) - 1)][None]
        preview = draw_preview(make_map(found.regions()), backdrop)
        shown = ui.PreviewImage(preview, cls=cls).as_dict() | {"text": ("\n".join(lines),)}
        names = "\n".join(found.names)
        return io.NodeOutput(masks, preview, regions, names, ui=shown | {"mixofshow_found": [regions]})


class MixOfShowLearnPlaces(io.ComfyNode):
    """Once per base: how its attention says who is where."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowLearnPlaces",
            display_name="Mix-of-Show Learn Places",
            category=PLACE,
            **found_by("MixOfShowLearnPlaces"),
            description="Once per base: paints plain things in drawn columns and learns from attention who is where. "
            "Place then finds concepts without regions by it.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The base, as it comes from its loader."),
                io.Clip.Input("clip", tooltip="The base's text encoder."),
                io.Int.Input(
                    "scenes", default=24, min=4, max=400, tooltip="Two pictures each, 12 steps. More read better."
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="What was learned and where it is kept.")],
        )

    @classmethod
    def execute(cls, model, clip, scenes=24) -> io.NodeOutput:
        report = learn_and_keep(model, clip, scenes)
        return io.NodeOutput(report, ui=ui.PreviewText(report))


NODES = [MixOfShowPickRegion, MixOfShowCoverage, MixOfShowFound, MixOfShowLearnPlaces]
