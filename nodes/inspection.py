"""MixOfShowInspect: what a file or a wire holds, as a card and a picture."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.formats import read_any
from ..mixofshow_core.formats.card import describe, describe_concept, plot_norms
from .bridge.formats.foreign import read_with_host
from .bridge.host.files import check_concept_file, file_fingerprint, list_concept_files, resolve_concept_file
from .bridge.host.images import to_image_batch
from .bridge.host.progress import Steps
from .types import CONCEPTS, EVALUATE, found_by

FROM_WIRE = "(the connected concepts)"


class MixOfShowInspect(io.ComfyNode):
    """A readable card and the norm of every layer's change."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowInspect",
            display_name="Mix-of-Show Inspect",
            category=EVALUATE,
            **found_by("MixOfShowInspect"),
            description="Shows names, words, base, rank, layers, sizes and warnings of a file or a wire.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[FROM_WIRE, *list_concept_files()],
                    default=FROM_WIRE,
                    tooltip="Any file we read, told by its content; or what is connected to `concepts`.",
                ),
                CONCEPTS.Input("concepts", optional=True, tooltip="Looked at when no file is chosen."),
            ],
            outputs=[
                io.String.Output(display_name="card"),
                io.Image.Output(display_name="plot", tooltip="One bar per layer; one picture per concept."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return True if file == FROM_WIRE else check_concept_file(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, **_) -> tuple:
        return file_fingerprint(file)

    @classmethod
    def execute(cls, file=FROM_WIRE, concepts=None) -> io.NodeOutput:
        if file != FROM_WIRE:
            path = resolve_concept_file(file)
            result = read_any(path)
            read = read_with_host(path, step=Steps()) if result.kind == "lora" else result
            card, found = describe(result, file), [(read.concept, file)]
            if read is not result:
                card = "\n".join(filter(None, (card, describe_concept(read.concept), read.warning())))
        elif concepts:
            found = [(use.concept, use.label) for use in concepts]
            card = "\n\n".join(
                f"{use.label}, strength {use.strength:g}, role {use.resolved_role}\n{describe_concept(use.concept)}"
                for use in concepts
            )
        else:
            raise MixOfShowError("Inspect has nothing to look at: choose a file, or connect concepts.")
        plots = to_image_batch([plot_norms(concept, label) for concept, label in found])
        return io.NodeOutput(card, plots, ui=ui.PreviewText(card))


NODES = [MixOfShowInspect]
