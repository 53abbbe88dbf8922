"""MixOfShowFuse: several concepts into one set of weights."""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io, ui

from ..mixofshow_core.bounds import bounds_of
from ..mixofshow_core.concept import ConceptUse
from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.families.layers import ROLE_CROSS_KV, ROLE_SPATIAL, ROLE_TEXT
from ..mixofshow_core.fusion.fuse import Spread
from ..mixofshow_core.fusion.methods import METHODS, describe_methods
from ..mixofshow_core.fusion.plan import PRESETS, preset
from ..mixofshow_core.fusion.plot import draw_report
from ..mixofshow_core.fusion.report import format_report
from ..mixofshow_core.fusion.settings import FusionSettings, parse_weights
from .bridge.fusing.fusion import fuse_uses, save_fused
from .bridge.host.applied import mark_applied, marks_of
from .bridge.host.files import work_folder
from .bridge.host.images import to_image_batch
from .bridge.host.model import apply_deltas
from .bridge.host.text import register_concepts
from .types import CONCEPTS, FUSE, SETTINGS, alone, every, found_by, in_groups

log = logging.getLogger("mixofshow")

# role -> how widgets call it, how people do
STAGES = {
    ROLE_TEXT: ("text", "text encoder's layers"),
    ROLE_CROSS_KV: ("kv", "keys and values of cross-attention"),
    ROLE_SPATIAL: ("spatial", "spatial layers"),
}

BY_WORDS = (
    "MODEL has the layers with places fused, CLIP is the base's: connect CONCEPTS (what reads text) to Place. "
    "A saved file has the fused part alone."
)
GROUPS = {
    "inputs": "mode refine memory_gb",
    "anchors": "ridge_text ridge_kv ridge_spatial prior_text prior_kv prior_spatial",
    "what is solved": "stage_text stage_kv stage_spatial unsolved weights words",
    "size": "size max_rank added_error concept_rank",
    "other methods": "density off_diagonal seed",
}
RARE = (
    "ridge_text ridge_kv ridge_spatial prior_text prior_kv prior_spatial stage_text stage_kv stage_spatial unsolved "
    "added_error concept_rank density off_diagonal seed"
)


class MixOfShowFusionSettings(io.ComfyNode):
    """What the Fuse node does not show; every default is Fuse's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        plain, bounds = FusionSettings(), bounds_of(FusionSettings)

        def anchor(name: str, value: float, tooltip: str):
            return io.Float.Input(name, default=value, min=0, max=1000, step=1e-4, round=False, tooltip=tooltip)

        def share(name: str, step: float, tooltip: str, label: str | None = None):
            return io.Float.Input(name, label, step=step, round=False, tooltip=tooltip, **limits(name))

        def count(name: str, tooltip: str, label: str | None = None, **more):
            return io.Int.Input(name, label, tooltip=tooltip, **limits(name), **more)

        def choice(name: str, tooltip: str):
            return io.Combo.Input(
                name, options=list(bounds[name].choices), default=getattr(plain, name), tooltip=tooltip
            )

        def limits(name: str) -> dict[str, float]:
            return {"default": getattr(plain, name), "min": bounds[name].low, "max": bounds[name].high}

        def stage(name: str, what: str):
            return io.Boolean.Input(
                name,
                default=True,
                tooltip=(f"Solve the {what}. Off: they are merged by the rule for layers that cannot be solved."),
            )

        ridge = "Ridge: how strongly the {} are held to the base. Only for method exact."
        prior = "Prior: weight of generic text and pictures, which the {} should not change. Only for method exact."
        return io.Schema(
            node_id="MixOfShowFusionSettings",
            display_name="Mix-of-Show Fusion Settings",
            category=FUSE,
            **found_by("MixOfShowFusionSettings"),
            description="Everything else about a fusion. Connect it to the settings of Fuse.",
            inputs=in_groups(
                [
                    choice(
                        "mode",
                        (
                            "own: each concept's inputs come from that concept alone; kept on disk, so a later change "
                            "is only a solve. staged: as in the paper, each stage looks behind the fused ones; anew "
                            "for every set."
                        ),
                    ),
                    count(
                        "refine",
                        (
                            "How often the inputs are collected once more with the fused layers and solved again. Each "
                            "round costs a calibration."
                        ),
                    ),
                    *(
                        anchor(f"ridge_{short}", plain.ridge[role], ridge.format(what))
                        for role, (short, what) in STAGES.items()
                    ),
                    *(
                        anchor(f"prior_{short}", plain.prior[role], prior.format(what))
                        for role, (short, what) in STAGES.items()
                    ),
                    *(stage(f"stage_{short}", what) for short, what in STAGES.values()),
                    choice(
                        "unsolved",
                        (
                            "Layers that cannot be solved (3x3 kernels, norms, biases, time and label layers): mean, "
                            "sum, or drop them."
                        ),
                    ),
                    choice(
                        "size",
                        (
                            "auto: the lowest rank that adds at most added_error. exact: all ranks, the sum of the "
                            "concepts'."
                        ),
                    ),
                    count("max_rank", "Largest rank at size auto."),
                    share("added_error", 1e-3, "Share of a layer's energy that size auto may leave out."),
                    share("density", 0.05, "Methods ties and dare: share of every change's entries that is kept."),
                    share("off_diagonal", 0.05, "Method regmean: factor beside the diagonal of the statistics."),
                    # Without the flag the front end draws a new seed at each run, and Fuse runs again for nothing.
                    count("seed", "Method dare: what goes.", control_after_generate=False),
                    share(
                        "memory_gb",
                        0.5,
                        (
                            "Memory that statistics may fill while they are collected; 0 = half of what is free. With "
                            "less, calibration runs block by block: same answer, more passes."
                        ),
                        "memory_gb (0: auto)",
                    ),
                    io.String.Input(
                        "weights",
                        default="",
                        tooltip=(
                            "Who matters more where concepts disagree: name: number, as in mara: 2, finn: 0.5; 1 where "
                            "none is given. Nothing is looked at again for it. Not how strongly a concept acts: that "
                            "is strength."
                        ),
                    ),
                    count(
                        "concept_rank",
                        ("Cut every concept to this rank before anything else; 0 keeps them. For seeing how many fit."),
                        "concept_rank (0: whole)",
                    ),
                    choice(
                        "words",
                        (
                            "fused: everything is. own: only layers with places are fused; connect CONCEPTS to Place, "
                            "which reads every word by its own concept."
                        ),
                    ),
                ],
                GROUPS,
                RARE,
            ),
            outputs=[SETTINGS.Output(display_name="settings", tooltip="For Fuse and Compare.")],
        )

    @classmethod
    def execute(cls, **values) -> io.NodeOutput:
        anchors = {
            kind: {role: values.pop(f"{kind}_{short}") for role, (short, _) in STAGES.items()}
            for kind in ("ridge", "prior")
        }
        stages = tuple(role for role, (short, _) in STAGES.items() if values.pop(f"stage_{short}"))
        weights = parse_weights(values.pop("weights"))
        settings = FusionSettings(**anchors, stages=stages, weights=weights, **values)
        plain = vars(FusionSettings())
        told = [f"{name}: {value}" for name, value in vars(settings).items() if value != plain[name]]
        return io.NodeOutput(settings, ui=ui.PreviewText("\n".join(told or ["Everything is as Fuse does it anyway."])))


class MixOfShowFuse(io.ComfyNode):
    """Fuse concepts in closed form; one concept is simply applied."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowFuse",
            display_name="Mix-of-Show Fuse",
            category=FUSE,
            **found_by("MixOfShowFuse"),
            is_input_list=True,  # a list of concepts is one fusion, not one for each
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
                    "method",
                    options=list(METHODS),
                    default="exact",
                    tooltip=describe_methods(),
                ),
                io.Combo.Input(
                    "calibration",
                    options=list(PRESETS),
                    default="standard",
                    tooltip="How much is looked at before solving: standard samples about two pictures per concept. "
                    "Kept on disk, so it is done once per concept and base.",
                ),
                io.String.Input(
                    "save_as",
                    default="",
                    tooltip="File name for the fused concept in models/loras/mixofshow; empty saves nothing.",
                ),
                SETTINGS.Input("settings", optional=True, tooltip="From Fusion Settings; open: the defaults."),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The base with the fused change."),
                io.Clip.Output(display_name="CLIP", tooltip="Knows every concept's name."),
                CONCEPTS.Output(
                    display_name="CONCEPTS",
                    tooltip=(
                        "All concepts as one, for Export and Inspect. MODEL and CLIP have them already; Place needs "
                        "only those. With words own in Fusion Settings: what Place reads each word by."
                    ),
                ),
                io.String.Output(display_name="report"),
                io.Image.Output(display_name="plot"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, clip, concepts, method, calibration, save_as="", settings=None) -> io.NodeOutput:
        concepts = tuple(use for part in every(concepts) for use in part)
        model, clip, method, calibration, save_as, settings = alone(
            "Fuse", model=model, clip=clip, method=method, calibration=calibration, save_as=save_as, settings=settings
        )
        result = solve(model, clip, concepts, method, calibration, settings)
        notes, fused = list(result.notes), ConceptUse(result.concept)
        log.info("%s", result.summary.get("size", ""))  # before anything is saved
        if save_as.strip():
            path = save_fused(save_as, result.concept)
            notes.append(f"saved: {path}")
            fused = replace(fused, path=path.name)
        summary = result.summary
        report = format_report(summary, notes) if summary.get("concepts") else "\n".join(notes)
        log.info(report)
        marks = marks_of([result.concept, *(use.concept for use in concepts)])
        patched, words = apply_deltas(model, clip, result.concept.deltas, marks=marks)
        mark_applied(patched, words, [result.concept])
        # Where words are their own, CLIP has nothing of the concepts: Place then refuses a whole one.
        mark_applied(patched, None if result.words else words, [use.concept for use in concepts])
        if result.words:
            report += f"\nwords: own. {BY_WORDS}"
        plot = to_image_batch([draw_report(summary)])
        return io.NodeOutput(
            patched,
            register_concepts(words, (fused,)),
            result.words or (fused,),
            report,
            plot,
            ui=ui.PreviewText(report),
        )


def solve(model, clip, concepts, method: str, calibration: str, settings=None, spread: Spread = map):
    """The work of Fuse, whose answer is kept on the disk: also for the command line, which may spread it."""
    if settings is not None and not isinstance(settings, FusionSettings):
        raise MixOfShowError("`settings` on Fuse needs fusion settings; what is connected belongs to another node.")
    chosen, folder = settings or FusionSettings(), work_folder("cache")
    return fuse_uses(model, clip, concepts, method, preset(calibration), chosen, folder, spread)


NODES = [MixOfShowFuse, MixOfShowFusionSettings]
