"""MixOfShowLoadConcept: a concept file or a community LoRA onto the CONCEPTS wire."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..mixofshow_core.cast import CastRow
from ..mixofshow_core.concept import ROLES
from ..mixofshow_core.fitting import check_list
from .bridge.formats.concept_card import describe_use
from .bridge.formats.live import base_weights
from .bridge.formats.load import load_row
from .bridge.host.files import check_concept_file, file_fingerprint, list_concept_files
from .bridge.host.fitting import check_fit
from .types import CONCEPTS, FUSE, found_by

NO_FILE = "(no file yet)"
SAME_AS_STRENGTH = -10.05  # below every strength: the field is as it was made


class MixOfShowLoadConcept(io.ComfyNode):
    """Load one file; chain several nodes by `concepts`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowLoadConcept",
            display_name="Mix-of-Show Load Concept",
            category=FUSE,
            **found_by("MixOfShowLoadConcept"),
            description="Loads a concept file, or any LoRA for SD1.5, SDXL, Anima or a connected MODEL.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_concept_files() or [NO_FILE],
                    tooltip="From models/loras/mixofshow, output/mixofshow and the whole loras folder.",
                ),
                io.String.Input(
                    "trigger",
                    default="",
                    tooltip="Words that call a community LoRA up. Empty: from the files beside it or its header, if "
                    "they name any.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Another plain name for this concept in prompts; for some of several in one file: old=new, "
                    "old2=new2. Empty: the name from the file, for a LoRA its file name.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How strongly the concept acts. It becomes part of the fusion.",
                ),
                io.Combo.Input(
                    "role",
                    options=list(ROLES),
                    default="auto",
                    tooltip="concept: kept on its own words. style: kept on general text. "
                    "add-on (speed, detail, slider LoRAs): added as it is, not solved.",
                ),
                CONCEPTS.Input("concepts", optional=True, tooltip="Concepts loaded before: this one joins them."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base. Only for files with whole weights (fused models, Custom Diffusion) and for "
                    "DoRA, OFT, BOFT and GLoRA: the difference is taken.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The base's text encoder, for the same files."),
                io.Float.Input(
                    "text_strength",
                    default=SAME_AS_STRENGTH,
                    min=SAME_AS_STRENGTH,
                    max=10.0,
                    step=0.05,
                    optional=True,
                    tooltip="Strength for the text encoder's layers alone; at its lowest value it is `strength`.",
                ),
            ],
            outputs=[
                CONCEPTS.Output(
                    display_name="CONCEPTS",
                    tooltip="For Fuse, Place, Regions, Compare or the next Load Concept.",
                ),
                io.String.Output(display_name="card", tooltip="What the file holds."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        """Our own message instead of the host's: it names the folder to put the file in."""
        return check_concept_file(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, **_) -> tuple:
        return file_fingerprint(file)

    @classmethod
    def execute(
        cls,
        file,
        trigger="",
        name="",
        strength=1.0,
        role="auto",
        concepts=None,
        model=None,
        clip=None,
        text_strength=SAME_AS_STRENGTH,
    ) -> io.NodeOutput:
        apart = None if text_strength == SAME_AS_STRENGTH else text_strength
        use, found = load_row(CastRow(file, True, name, trigger, strength, apart, role), base_weights(model, clip))
        uses = (*(concepts or ()), use)
        if model is None:
            check_list(uses)
        else:
            check_fit(model, clip, uses)
        card = describe_use(use, found)
        return io.NodeOutput(uses, card, ui=ui.PreviewText(card))


NODES = [MixOfShowLoadConcept]
