"""MixOfShowDataset: pictures of one concept, checked and shown as they will be trained."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..mixofshow_core.concept import KINDS
from ..mixofshow_core.training.captions import MODES
from .bridge.training import data as training_data
from .types import DATASET, TRAIN, alone, every, found_by


class MixOfShowDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowDataset",
            display_name="Mix-of-Show Dataset",
            category=TRAIN,
            **found_by("MixOfShowDataset"),
            is_input_list=True,  # a list of pictures is one data set, not one for each
            description="Pictures of one character, object, scene or style, with captions. Chain two to train both.",
            inputs=[
                io.String.Input(
                    "name",
                    default="mara",
                    tooltip=(
                        "What you will type in prompts. Letters of any script, digits, - and _; best a made-up word."
                    ),
                ),
                io.String.Input(
                    "class_word",
                    default="person",
                    tooltip=(
                        "The plain noun for it: person, dog, teapot, castle. Training starts from what the model knows."
                    ),
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="character",
                    tooltip=(
                        "Chooses the caption templates, for instance 'a picture in the style of ...' for a style."
                    ),
                ),
                io.String.Input(
                    "folder",
                    default="demo:mara",
                    tooltip=(
                        "A folder inside ComfyUI's input folder, a full path, or demo:mara for the pictures that come "
                        "with this pack. PNG, JPEG, WebP; x.txt beside x.png is its caption, x.mask.png its mask. Not "
                        "used when an image batch is connected."
                    ),
                ),
                io.Combo.Input(
                    "captions",
                    options=list(MODES),
                    default="auto",
                    tooltip=(
                        "auto: caption files where there are any, else the name. files: every picture must have one. "
                        "templates: caption files are ignored. sentences, booru tags: how they are written; auto "
                        "guesses."
                    ),
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Pictures instead of a folder: a batch, or a list of any sizes."
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip=(
                        "White where the object is: one mask for each picture, or one for all. Used by the loss when "
                        "the training settings say loss_mask object."
                    ),
                ),
                DATASET.Input("dataset", optional=True, tooltip="Another dataset: its concepts are trained together."),
            ],
            outputs=[
                DATASET.Output(display_name="dataset", tooltip="For Train and Score, or another Dataset."),
                io.Image.Output(display_name="preview"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", images=None, **_) -> str:
        return training_data.fingerprint(*alone("Dataset", folder=folder))

    @classmethod
    def execute(
        cls, name: str, class_word: str, kind: str, folder: str, captions: str, images=None, masks=None, dataset=None
    ) -> io.NodeOutput:
        texts = alone("Dataset", name=name, class_word=class_word, kind=kind, folder=folder, captions=captions)
        data, report = training_data.build(*texts, every(images), every(masks), every(dataset))
        sheet = training_data.preview(data)
        return io.NodeOutput(data, sheet, report, ui=ui.PreviewImage(sheet, cls=cls).as_dict() | {"text": (report,)})


NODES = [MixOfShowDataset]
