"""MixOfShowRegionControl: a control image with its own weight in every region, and where such an image comes from."""

from comfy_api.latest import io, ui

from .bridge.demo.adapter import load_sketch_adapter
from .bridge.placing.control import control_regions
from .bridge.placing.preprocess import KINDS, control_image
from .types import DEMO, PLACE, REGIONS, found_by


class MixOfShowRegionControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowRegionControl",
            display_name="Mix-of-Show Region Control",
            category=PLACE,
            **found_by("MixOfShowRegionControl"),
            description="Let a ControlNet or T2I-Adapter guide each region as strongly as its control weight says.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="From Place, or from a node like this one: chain them."),
                io.Conditioning.Input("negative", tooltip="From the same node as positive."),
                io.ControlNet.Input("control_net", tooltip="From the host's Load ControlNet Model: also T2I-Adapters."),
                io.Image.Input("image", tooltip="The control picture: edges, a pose, a sketch, as the model wants it."),
                REGIONS.Input("regions", tooltip="From Regions: each region's control weight, 0 to 10, counts."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplies the weight everywhere. 0 leaves the control out.",
                ),
                io.Float.Input(
                    "outside",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Weight of the control outside all regions. 0 leaves the background free.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Part of the sampling after which the control begins, 0 to 1.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Part of the sampling after which the control ends, 0 to 1.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler."),
            ],
        )

    @classmethod
    def execute(
        cls, positive, negative, control_net, image, regions, strength=1.0, outside=1.0, start=0.0, end=1.0
    ) -> io.NodeOutput:
        regions = regions.enabled()
        both = control_regions(positive, negative, control_net, image, regions, strength, outside, start, end)
        weights = [(region.name, region.control) for region in regions.regions.regions] + [("elsewhere", outside)]
        told = ", ".join(f"{name} {strength * weight:g}" for name, weight in weights)
        text = f"weight of the control: {told}; from {start:.0%} to {end:.0%} of the sampling"
        return io.NodeOutput(*both, ui=ui.PreviewText(text if strength else "strength 0: the control is left out"))


class MixOfShowControlImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowControlImage",
            display_name="Mix-of-Show Control Image",
            category=PLACE,
            **found_by("MixOfShowControlImage"),
            description="Makes the control picture for a ControlNet or T2I-Adapter: lines, soft edges or a pose.",
            inputs=[
                io.Image.Input("image", tooltip="The picture whose lines or pose shall be followed."),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default=KINDS[0],
                    tooltip="What the control model was trained on. lines: built in, needs nothing. mediapipe pose "
                    "needs the package mediapipe, the others controlnet-aux; lineart, HED and openpose also "
                    "weights in models/controlnet_aux.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Pixels of the shorter side of the result. 0: as the picture. Lines ignore it.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="For Region Control.")],
        )

    @classmethod
    def execute(cls, image, kind=KINDS[0], resolution=0) -> io.NodeOutput:
        made = control_image(image, kind, resolution)
        return io.NodeOutput(made, ui=ui.PreviewImage(made, cls=cls))


class MixOfShowDemoControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowDemoControl",
            display_name="Mix-of-Show Demo Control",
            category=DEMO,
            **found_by("MixOfShowDemoControl"),
            description="A very small T2I-Adapter for Demo Model that follows line drawings. For real checkpoints load "
            "a real one with Load ControlNet Model.",
            inputs=[],
            outputs=[
                io.ControlNet.Output(
                    display_name="CONTROL_NET",
                    tooltip="For Region Control with Demo Model; its picture is Control Image's lines.",
                )
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        adapter = load_sketch_adapter()
        return io.NodeOutput(adapter, ui=ui.PreviewText("A T2I-Adapter for Demo Model: it follows lines."))


NODES = [MixOfShowRegionControl, MixOfShowControlImage, MixOfShowDemoControl]
