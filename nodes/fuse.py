"""MixOfShowFuse: several concepts into one set of weights."""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io, ui

from ..mixofshow_core.concept import ConceptUse
from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.fusion.plan import PRESETS, preset
from ..mixofshow_core.fusion.plot import draw_report
from ..mixofshow_core.fusion.report import format_report
from ..mixofshow_core.fusion.settings import METHODS, FusionSettings
from .bridge.files import work_folder
from .bridge.fusion import fuse_uses, save_fused
from .bridge.images import to_image_batch
from .bridge.model import apply_deltas
from .bridge.text import register_concepts
from .types import CATEGORY, CONCEPTS, SETTINGS

log = logging.getLogger("mixofshow")


class MixOfShowFuse(io.ComfyNode):
    """Fuse concepts in closed form; one concept is simply applied."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowFuse",
            display_name="Mix-of-Show Fuse",
            category=CATEGORY,
            description=(
                "Computes one set of weights that keeps what every concept does to its own inputs, layer by layer and "
                "in closed form. First it looks at each concept alone (calibration), then it solves in seconds. "
                "With one concept it only applies it."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The base. LoRAs that are already on it count as part of the base."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the base."),
                CONCEPTS.Input("concepts", tooltip="From Load Concept or Train; chain Load Concept nodes for several."),
                io.Combo.Input(
                    "method", options=list(METHODS), default="exact",
                    tooltip="exact: the least-squares fusion. sum and average are the usual LoRA merges, to compare.",
                ),
                io.Combo.Input(
                    "calibration", options=list(PRESETS), default="standard",
                    tooltip="How much is looked at before solving: standard samples about two pictures per concept. "
                            "Kept on disk, so it is done once per concept and base.",
                ),
                io.String.Input(
                    "save_as", default="",
                    tooltip="File name for the fused concept in models/loras/mixofshow; empty saves nothing.",
                ),
                SETTINGS.Input("settings", optional=True, tooltip="Fusion settings; leave open for the defaults."),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The base with the fused change."),
                io.Clip.Output(display_name="CLIP", tooltip="Knows every concept's name."),
                CONCEPTS.Output(display_name="CONCEPTS", tooltip="All concepts as one: for Place or Export."),
                io.String.Output(display_name="report"),
                io.Image.Output(display_name="plot"),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip, concepts, method, calibration, save_as="", settings=None) -> io.NodeOutput:
        if settings is not None and not isinstance(settings, FusionSettings):
            raise MixOfShowError("`settings` on Fuse needs fusion settings; what is connected belongs to another node.")
        settings = settings or FusionSettings()
        result = fuse_uses(model, clip, tuple(concepts), method, preset(calibration), settings, work_folder("cache"))
        notes, fused = list(result.notes), ConceptUse(result.concept)
        if save_as.strip():
            path = save_fused(save_as, result.concept)
            notes.append(f"saved: {path}")
            fused = replace(fused, path=path.name)
        summary = result.summary
        report = format_report(summary, notes) if summary.get("concepts") else "\n".join(notes)
        log.info(report)
        patched, words = apply_deltas(model, clip, result.concept.deltas)
        plot = to_image_batch([draw_report(summary)])
        return io.NodeOutput(
            patched, register_concepts(words, (fused,)), (fused,), report, plot, ui=ui.PreviewText(report)
        )


NODES = [MixOfShowFuse]
