"""MixOfShowExport: a concept or a fusion as a file for other programs."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..mixofshow_core.errors import MixOfShowError
from .bridge.formats.exporting import EXPORT_FORMATS, export_concept
from .types import CONCEPTS, FUSE, found_by

SIZES = ("auto", "exact", "128", "64", "32", "16", "8", "4", "2", "1")


class MixOfShowExport(io.ComfyNode):
    """Write one concept in any dialect."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowExport",
            display_name="Mix-of-Show Export",
            category=FUSE,
            **found_by("MixOfShowExport"),
            description="Writes a concept or a fusion for other programs, and says what the format cannot hold.",
            is_output_node=True,
            inputs=[
                CONCEPTS.Input("concepts", tooltip="Exactly one: from Train, Load Concept, or the fused one of Fuse."),
                io.Combo.Input(
                    "format",
                    options=list(EXPORT_FORMATS),
                    default="concept",
                    tooltip="stock: a LoRA for Load LoRA, with one embedding file per concept. diffusers-pipeline and "
                    "checkpoint are whole models and need MODEL and CLIP.",
                ),
                io.Combo.Input(
                    "size",
                    options=list(SIZES),
                    default="auto",
                    tooltip="auto keeps ranks up to 128 as they are and shrinks the rest to 1 % error; a number is the "
                    "largest rank; exact keeps everything.",
                ),
                io.String.Input("save_as", default="", tooltip="File name without suffix; empty takes the concept's."),
                io.Model.Input("model", optional=True, tooltip="The base, without this concept. For whole weights."),
                io.Clip.Input("clip", optional=True, tooltip="The base's text encoder. Only for whole models."),
                io.Vae.Input("vae", optional=True, tooltip="The base's autoencoder. Only for whole models."),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file or folder that was written.")],
        )

    @classmethod
    def execute(cls, concepts, format, size="auto", save_as="", model=None, clip=None, vae=None) -> io.NodeOutput:
        if len(concepts) != 1:
            names = ", ".join(use.label for use in concepts)
            raise MixOfShowError(
                f"Export writes one file, but {len(concepts)} concepts are connected ({names}): fuse them first, or "
                "export each by itself."
            )
        done = export_concept(concepts[0], format, size, save_as.strip(), model, clip, vae)
        return io.NodeOutput(str(done.main), ui=ui.PreviewText(done.report()))


NODES = [MixOfShowExport]
