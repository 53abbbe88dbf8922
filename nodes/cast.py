"""MixOfShowCast: all concepts and LoRAs of a picture in one list."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..mixofshow_core.cast import EMPTY, parse_cast
from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.fitting import check_list
from .bridge.formats.concept_card import describe_use
from .bridge.formats.live import base_weights
from .bridge.formats.load import load_rows
from .bridge.host.files import check_concept_file, file_fingerprint
from .bridge.host.fitting import check_fit
from .types import CONCEPTS, FUSE, drawn_text, found_by


class MixOfShowCast(io.ComfyNode):
    """Load Concept for many files at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowCast",
            display_name="Mix-of-Show Cast",
            category=FUSE,
            **found_by("MixOfShowCast"),
            description="The people and things of your picture: concepts and community LoRAs in one list, for Regions, "
            "Place and Fuse.",
            inputs=[
                drawn_text(
                    "cast",
                    "MOS_CAST",
                    EMPTY,
                    (
                        "One row per concept or LoRA: on, file, name, trigger, strengths, role. Stored as one JSON "
                        "text (docs/cast.schema.json), which can be wired in instead. Dynamic prompts are not chosen "
                        "from here."
                    ),
                ),
                CONCEPTS.Input("concepts", optional=True, tooltip="More concepts, from Train, Load Concept or a Cast."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base. Only for files with whole weights (fused models, Custom Diffusion) and for "
                    "DoRA, OFT, BOFT and GLoRA: the difference is taken.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The base's text encoder, for the same files."),
            ],
            outputs=[
                CONCEPTS.Output(display_name="CONCEPTS", tooltip="For Regions, Place, Fuse and Compare."),
                io.String.Output(display_name="card", tooltip="What every file holds, and what calls it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, cast: str) -> bool | str:
        """Every row and file before anything runs, all that is missing in one message."""
        try:
            rows = [(number, row) for number, row in enumerate(parse_cast(cast), 1) if row.on]
        except MixOfShowError as error:
            return str(error)
        wrong = [(number, check_concept_file(row.file)) for number, row in rows]
        wrong = [f"row {number}: {answer}" for number, answer in wrong if answer is not True]
        return "; ".join(wrong) or True

    @classmethod
    def fingerprint_inputs(cls, cast: str, **_) -> tuple:
        try:
            return cast, *(file_fingerprint(row.file) for row in parse_cast(cast) if row.on)
        except MixOfShowError:
            return (cast,)

    @classmethod
    def execute(cls, cast, concepts=None, model=None, clip=None) -> io.NodeOutput:
        loaded = load_rows(parse_cast(cast), base_weights(model, clip))
        uses = (*(concepts or ()), *(use for use, _ in loaded))
        if model is None:
            check_list(uses)
        else:
            check_fit(model, clip, uses)
        card = "\n\n".join(describe_use(use, found) for use, found in loaded) or "no row is on"
        return io.NodeOutput(uses, card, ui=ui.PreviewText(card))


NODES = [MixOfShowCast]
