"""MixOfShowCompare and MixOfShowScore: see and measure what a way of using concepts does."""

from __future__ import annotations

import json

from comfy_api.latest import io, ui

from ..mixofshow_core.bounds import meaning
from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.fusion.methods import METHODS
from ..mixofshow_core.fusion.plan import PRESETS
from ..mixofshow_core.fusion.settings import FusionSettings
from ..mixofshow_core.metrics.comparison import expand_prompts, parse_ways, plan_columns, write_table
from ..mixofshow_core.metrics.drawing import THEMES, draw_grid, draw_scores, grid_size
from .bridge.evaluating.evaluation import (
    SAMPLERS,
    SCHEDULERS,
    Comparison,
    KSamplerSettings,
    in_order,
    list_cells,
    paint,
    picture_size,
)
from .bridge.evaluating.evaluators import built_in, from_clip_vision, from_path
from .bridge.evaluating.score import collect_references, describe_pictures, describe_scores, panels_of, score
from .bridge.host.images import to_image_batch
from .bridge.host.show import warnings_first
from .types import CONCEPTS, DATASET, EVALUATE, REGIONS, SETTINGS, alone, every, found_by

WAYS = "base, each, sum, average, fused, fused + regions, routed"
PROMPTS = "a photo of {name}"
CROPS = {"center": True, "whole": False}  # whether the middle is cut out


class MixOfShowCompare(io.ComfyNode):
    """The same prompts and noise in every way; each cell is what KSampler would paint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowCompare",
            display_name="Mix-of-Show Compare",
            category=EVALUATE,
            **found_by("MixOfShowCompare"),
            is_input_list=True,  # concepts and prompts are wanted all at once
            description="Paints the same prompts from the same noise with the base, each concept alone, and the "
            "concepts merged, placed and routed, and shows all of it in one labelled picture.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The base, without any of these concepts."),
                io.Clip.Input("clip", tooltip="The base's CLIP."),
                io.Vae.Input("vae", tooltip="The base's VAE."),
                CONCEPTS.Input("concepts", tooltip="Unfused, from Load Concept or Train."),
                io.Latent.Input("latent_image", tooltip="Its size and its number of pictures, as for KSampler."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default=PROMPTS,
                    tooltip=(
                        "One per line. A line with name in braces is painted once for every concept. Where a model "
                        "does not know a name, the class word stands in its place. Dynamic prompts are not chosen from "
                        "here."
                    ),
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="",
                    dynamic_prompts=True,
                    tooltip="The negative prompt of all.",
                ),
                io.String.Input(
                    "ways",
                    default=WAYS,
                    tooltip=(
                        "Columns, separated by commas: base, each (one concept at a time), fused, any other method of "
                        "Fuse (sum, average, ties ...), each of these with `+ regions` or `by words` behind it (what "
                        "reads text is not merged), routed, and `by words` alone (nothing merged, nothing drawn)."
                    ),
                ),
                io.Combo.Input(
                    "calibration",
                    options=list(PRESETS),
                    default="standard",
                    tooltip=("For fused, as on Fuse; a fusion that Fuse has finished is found again."),
                ),
                # Without the flag the front end draws a new seed at each run, and every cell is painted again.
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip=("As on KSampler; all cells share it."),
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="As on KSampler."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="As on KSampler."),
                io.Combo.Input("sampler_name", options=list(SAMPLERS), default="dpmpp_2m", tooltip="As on KSampler."),
                io.Combo.Input("scheduler", options=list(SCHEDULERS), default="normal", tooltip="As on KSampler."),
                REGIONS.Input(
                    "regions",
                    optional=True,
                    tooltip=("For routed and `+ regions`; lines with name in braces ignore them."),
                ),
                SETTINGS.Input("settings", optional=True, tooltip="From Fusion Settings; open: the defaults."),
                io.Model.Input("other_model", optional=True, tooltip="Painted as one more column: anything you made."),
                io.Clip.Input("other_clip", optional=True, tooltip="The CLIP of other_model; it must know the names."),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="Labelled, on white."),
                io.Image.Output(display_name="grid_dark", tooltip="The same on black."),
                io.Image.Output(display_name="pictures", tooltip="All pictures, in the order of the table: for Score."),
                io.String.Output(display_name="table", tooltip="JSON: what each picture is. For Score's texts."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        concepts,
        latent_image,
        prompts,
        negative,
        ways,
        calibration,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        regions=None,
        settings=None,
        other_model=None,
        other_clip=None,
    ) -> io.NodeOutput:
        given = {name: value for name, value in locals().items() if name not in ("cls", "concepts", "prompts")}
        given = dict(zip(given, alone("Compare", **given), strict=True))
        uses = tuple(use for part in every(concepts) for use in part)
        return cls.compare(concepts=uses, prompts="\n".join(every(prompts)), **given)

    @classmethod
    def compare(
        cls,
        model,
        clip,
        vae,
        concepts,
        latent_image,
        prompts,
        negative,
        ways,
        calibration,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        regions,
        settings,
        other_model,
        other_clip,
    ) -> io.NodeOutput:
        if settings is not None and not isinstance(settings, FusionSettings):
            raise MixOfShowError("`settings` on Compare needs fusion settings; what is connected is something else.")
        if (other_model is None) != (other_clip is None):
            raise MixOfShowError("Compare: connect both `other_model` and `other_clip`, or neither.")
        other = None if other_model is None else (other_model, other_clip)
        stage = Comparison(model, clip, vae, concepts, regions, other, settings, calibration)
        how = KSamplerSettings(negative, seed, steps, cfg, sampler_name, scheduler)
        rows = expand_prompts(prompts, tuple(stage.classes))
        wanted = parse_ways(ways, METHODS)
        columns, left_out = plan_columns(wanted, stage.labels, regions is not None, other is not None)
        grid_size(picture_size(vae, latent_image), len(latent_image["samples"]), len(rows), len(columns))
        painted, blanks, facts = paint(stage, rows, columns, latent_image, how)
        notes = (*left_out, *facts["notes"])
        table = write_table(list_cells(stage, rows, columns, painted, seed), facts | {"notes": list(notes)})
        how_line = f"seed {seed}, {steps} steps, {sampler_name} {scheduler}, cfg {cfg:g}; one line is one noise."
        line = " ".join((how_line, *left_out))
        cells = {key: [p.numpy() for p in pictures] for key, pictures in painted.items()}
        heads = [(column.label, column.kind) for column in columns]
        grids = {
            name: to_image_batch(
                [draw_grid(cells, [row.prompt for row in rows], heads, blanks, "Same prompts, same noise", line, theme)]
            )
            for name, theme in THEMES.items()
        }
        told = [f"{sum(map(len, painted.values()))} pictures: {len(rows)} prompts, {len(columns)} ways. {how_line}"]
        told += [f"empty: {columns[c].label}, {rows[r].prompt!r}: {why}" for (r, c), why in blanks.items()]
        seen = ui.PreviewImage(grids["light"], cls=cls).as_dict() | {"text": (warnings_first([*told, *notes]),)}
        return io.NodeOutput(grids["light"], grids["dark"], in_order(painted), table, ui=seen)


class MixOfShowScore(io.ComfyNode):
    """How like the references, and how well fitting the text, pictures are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowScore",
            display_name="Mix-of-Show Score",
            category=EVALUATE,
            **found_by("MixOfShowScore"),
            is_input_list=True,  # pictures and references are wanted all at once
            description="Measures how like reference pictures, and how well fitting their texts, pictures are, with "
            "95 % intervals. Connect a CLIP_VISION or name an evaluator; without one only colours and edges count.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to score, for instance `pictures` of Compare."),
                io.String.Input(
                    "texts",
                    multiline=True,
                    default="",
                    tooltip=(
                        "Compare's table; or one text per line, one for each picture or one for all. Names are read as "
                        "class words. Dynamic prompts are not chosen from here."
                    ),
                ),
                io.String.Input(
                    "evaluator",
                    default="",
                    tooltip=(
                        "Below ComfyUI's models folder: a folder with config.json and .safetensors (CLIP, DINO), or an "
                        ".onnx file (ArcFace). A CLIP folder reads the texts too. Empty: only clip_vision, or colours."
                    ),
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default="center",
                    tooltip=("center: the middle square of a picture, as CLIP does; whole: squeezed into a square."),
                ),
                io.Image.Input("references", optional=True, tooltip="Pictures of the one concept that is scored."),
                DATASET.Input(
                    "dataset",
                    optional=True,
                    tooltip=(
                        "Instead of references: pictures of one or several concepts, matched by the names in the "
                        "texts. Best pictures that were not trained on."
                    ),
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip=("From Load CLIP Vision: CLIP, SigLIP or DINOv2. It decides the likeness."),
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="One line per group of pictures."),
                io.String.Output(display_name="scores", tooltip="JSON: per group and per picture."),
                io.Image.Output(display_name="plot", tooltip="On white."),
                io.Image.Output(display_name="plot_dark", tooltip="The same on black."),
            ],
        )

    @classmethod
    def execute(
        cls, images, texts="", evaluator="", crop="center", references=None, dataset=None, clip_vision=None
    ) -> io.NodeOutput:
        evaluator, crop, dataset, clip_vision = alone(
            "Score", evaluator=evaluator, crop=crop, dataset=dataset, clip_vision=clip_vision
        )
        images, references, lines = every(images), every(references), every(texts)
        # Several texts are one for each picture; one alone may have lines of its own, or be a table.
        texts = "\n".join(lines) if len(lines) < 2 else "\n".join(" ".join(line.split()) for line in lines)
        cut = meaning("crop on Score", crop, CROPS)
        named = from_path(evaluator, cut) if evaluator.strip() else None
        wired = from_clip_vision(clip_vision, cut) if clip_vision is not None else None
        seer = wired or named or built_in()
        known = collect_references(references, dataset)
        found = score(images, describe_pictures(texts, sum(map(len, images)), known), known, seer, named)
        report, panels = describe_scores(found), panels_of(found)
        if not panels:
            raise MixOfShowError(
                "Score has nothing to measure: connect `references` or `dataset` for likeness, and name a CLIP folder "
                "in `evaluator` with `texts` for the text. Texts must name the concept that a picture shows, and that "
                "one alone: pictures of several have no likeness."
            )
        facts = ["dot: mean; bar: 95 % interval over pictures; ticks: pictures"]
        facts += report.splitlines()[: 3 if found["text_evaluator"] else 2]
        plots = [to_image_batch([draw_scores(panels, "Scores", facts, theme)]) for theme in THEMES.values()]
        return io.NodeOutput(report, json.dumps(found, indent=1), *plots, ui=ui.PreviewText(report))


NODES = [MixOfShowCompare, MixOfShowScore]
