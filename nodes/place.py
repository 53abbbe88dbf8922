"""MixOfShowPlace: from prompts and regions to something a sampler can use."""

from comfy_api.latest import io, ui

from .bridge.host.show import warnings_first
from .bridge.placing.place import place
from .types import CONCEPTS, PLACE, REGIONS, every, found_by, in_step


class MixOfShowPlace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowPlace",
            display_name="Mix-of-Show Place",
            category=PLACE,
            **found_by("MixOfShowPlace"),
            is_input_list=True,  # concepts are wanted all at once; a list of prompts is a list of pictures
            description="Encode the prompt with one embedding per attention layer for each concept word, and put every "
            "region's text where it belongs, in one pass of the model.",
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with, usually from Fuse."),
                io.Clip.Input("clip", tooltip="The CLIP that belongs to it, usually from Fuse; it knows the names."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The whole picture, and everything outside the regions. Write concepts by name.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to keep out of the whole picture; regions without a negative prompt use it too.",
                ),
                REGIONS.Input("regions", optional=True, tooltip="From Regions. Without it only the prompt counts."),
                CONCEPTS.Input(
                    "concepts",
                    optional=True,
                    tooltip="From Load Concept or Train, unfused: each acts only in the regions that name it, or "
                    "where its words are found. Leave open after Fuse; what MODEL has already is not applied again.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For the sampler.", is_output_list=True),
                *(
                    io.Conditioning.Output(
                        display_name=name, tooltip="For the sampler; use it with this model.", is_output_list=True
                    )
                    for name in ("positive", "negative")
                ),
            ],
        )

    @classmethod
    def execute(cls, model, clip, prompt, negative, regions=None, concepts=None) -> io.NodeOutput:
        """One picture for each item of the lists that arrive, each with the whole cast."""
        cast = tuple(use for part in every(concepts) for use in part)
        pictures = in_step(model=model, clip=clip, prompt=prompt, negative=negative, regions=regions)
        made = [cls.one(**picture, concepts=cast) for picture in pictures]
        said = dict.fromkeys(line for one in made for line in one.ui.as_dict()["text"][0].splitlines())
        return io.NodeOutput(*map(list, zip(*(one.result for one in made), strict=True)), ui=tell(said))

    @classmethod
    def one(cls, model, clip, prompt, negative, regions=None, concepts=None) -> io.NodeOutput:
        """The outputs for one picture, none of them a list."""
        notes: list[str] = []
        outputs = place(model, clip, prompt, negative, regions, concepts, notes)
        return io.NodeOutput(*outputs, ui=tell(notes))


def tell(lines) -> ui.PreviewText:
    return ui.PreviewText(warnings_first(lines))


NODES = [MixOfShowPlace]
