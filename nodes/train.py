"""MixOfShowTrain and its settings: a concept from pictures, saved as a file."""

from __future__ import annotations

import logging
from dataclasses import replace

from comfy_api.latest import io, ui

from ..mixofshow_core.formats.thumbnail import add_thumbnail
from ..mixofshow_core.training.settings import (
    ASPECTS,
    EMBEDDING_ROWS,
    LAYERS,
    MASKS,
    OPTIMIZERS,
    PRECISIONS,
    PRESETS,
    QUALITIES,
    SCHEDULES,
    SWITCH,
    WORD_STARTS,
    TrainSettings,
)
from .bridge import training_run, training_samples
from .types import CATEGORY, CONCEPTS, DATASET, SETTINGS

log = logging.getLogger("mixofshow")

FROM_PRESET = "from preset"
SWITCHED_OFF = ("prior_weight", "attention_weight")  # 0 keeps the preset's value, so -1 has to mean none


class MixOfShowTrainSettings(io.ComfyNode):
    """Changes to a preset: whatever stays at its default here is taken from the preset on the Train node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def number(name: str, tooltip: str, low: float, high: float, step: float, default: float = 0.0, **more):
            return io.Float.Input(
                name, default=default, min=low, max=high, step=step, round=False, tooltip=tooltip, **more
            )

        def choice(name: str, options: tuple[str, ...], tooltip: str, **more):
            return io.Combo.Input(
                name, options=[FROM_PRESET, *options], default=FROM_PRESET, tooltip=tooltip, **more
            )

        later = {"optional": True}  # inputs younger than workflows that people have saved

        return io.Schema(
            node_id="MixOfShowTrainSettings",
            display_name="Mix-of-Show Train Settings",
            category=CATEGORY,
            description="What the Train node does not show. 0 and 'from preset' keep the preset's value.",
            inputs=[
                io.Int.Input("rank", default=0, min=0, max=256, tooltip="LoRA rank; 0 = from preset (4)."),
                number("lr_embedding", "Learning rate of the concept words; 0 = auto.", 0, 1, 1e-5),
                number("lr_text", "Learning rate of the text encoder LoRA; 0 = auto.", 0, 1, 1e-6),
                number("lr_unet", "Learning rate of the UNet LoRA; 0 = auto.", 0, 1, 1e-5),
                io.Int.Input("batch", default=0, min=0, max=256, tooltip="Pictures per step; 0 = auto."),
                io.Int.Input("accumulation", default=1, min=1, max=256, tooltip=(
                    "Batches whose gradients are added up before one step: a larger batch in the same memory."
                )),
                choice("embedding_rows", EMBEDDING_ROWS[1:], (
                    "Embeddings per concept word: one (textual inversion), one per resolution, or one per "
                    "cross-attention layer (P+, ED-LoRA)."
                )),
                choice("schedule", SCHEDULES, "How the learning rates fall over the run."),
                io.Int.Input("warmup_steps", default=0, min=0, max=100_000, tooltip="Steps of rising learning rate."),
                number("noise_offset", "Noise offset; helps dark and light pictures.", 0, 1, 0.001, 0.01),
                number("min_snr", "Min-SNR gamma (5 is usual); 0 = off.", 0, 100, 0.5),
                number("clip_gradient", "Largest gradient norm; 0 = off.", 0, 1000, 0.1),
                number("norm_stop", "Words stop at this mean norm; 0 = auto, -1 = never.", -1, 100, 0.01),
                choice("loss_mask", MASKS, (
                    "valid: the loss counts wherever there is picture. object: only inside the masks."
                )),
                number("crop_chance", "How often a long picture is cropped square.", 0, 1, 0.05, 0.5),
                number("scale_min", "Smallest scale of a placed picture; 0 = auto (0.7).", 0, 1, 0.05),
                io.Boolean.Input("flip", default=False, tooltip="Mirror half of the placements."),
                io.Boolean.Input("shuffle_captions", default=True, tooltip="Shuffle comma-separated phrases."),
                number("dropout", "LoRA dropout.", 0, 0.9, 0.05),
                choice("checkpointing", SWITCH, "Less memory, about a third slower."),
                choice("precision", PRECISIONS, "Arithmetic of the UNet."),
                io.Int.Input("snapshot_every", default=100, min=1, max=1_000_000, tooltip=(
                    "Steps between snapshots; a run that was cut off continues from the last one."
                )),
                io.Int.Input("preview_every", default=25, min=0, max=1_000_000, tooltip=(
                    "Steps between preview pictures; 0 = off."
                )),
                choice("unet_layers", LAYERS, (
                    "Which layers of the UNet change. transformer adds feed-forward layers and projections, also in "
                    "the text encoder; everything is for full weights (DreamBooth)."
                ), **later),
                number("kv_drop", "How often a cross-attention K or V LoRA sits out a step.", 0, 0.9, 0.05, **later),
                choice("word_start", WORD_STARTS, "What the learned words start from.", **later),
                number("prior_weight", (
                    "Weight of pictures of the bare class, which keep the class as it was; 1 is usual, 0 = preset, "
                    "-1 = none."
                ), -1, 100, 0.1, **later),
                io.Int.Input("prior_pictures", default=0, min=0, max=10_000, tooltip=(
                    "How many class pictures; 0 = auto. They are drawn with the base once, and kept."
                ), **later),
                io.String.Input("prior_folder", default="", tooltip=(
                    "Your own class pictures instead, with x.txt beside x.png as caption; empty = they are drawn."
                ), **later),
                number("attention_weight", (
                    "Holds the words' attention inside the masks (0.0025 is Mix-of-Show's); 0 = from preset, -1 = off."
                ), -1, 10, 0.0005, **later),
                io.Boolean.Input("attention_identity", default=False, tooltip=(
                    "The last word has to cover the whole mask: for concepts whose clothes belong to them."
                ), **later),
                choice("aspect", ASPECTS, "square: one canvas. buckets: each picture keeps its shape.", **later),
                choice("optimizer", OPTIMIZERS, "adamw8bit needs bitsandbytes, prodigy needs prodigyopt.", **later),
                io.Int.Input("validate_every", default=0, min=0, max=1_000_000, tooltip=(
                    "Every so many steps, save the concept as it is then, with a sheet of pictures; 0 = off."
                ), **later),
                io.String.Input("validation_prompts", default="", multiline=True, tooltip=(
                    "One prompt per line for these sheets; empty: a photo of the concept, and one on a beach."
                ), **later),
            ],
            outputs=[SETTINGS.Output(display_name="settings")],
        )

    @classmethod
    def execute(cls, **values) -> io.NodeOutput:
        defaults = {"rank": 0, "batch": 0, "prior_weight": 0.0, "attention_weight": 0.0}
        plain = TrainSettings()
        changes = {
            name: 0.0 if value == -1 and name in SWITCHED_OFF else value
            for name, value in values.items()
            if value != FROM_PRESET and value != defaults.get(name, getattr(plain, name))
        }
        # A contradiction is reported here, at the node that holds it; what only a preset can tell, at Train.
        replace(plain, **{name: value for name, value in changes.items() if name != "unet_layers"})
        return io.NodeOutput(changes)


class MixOfShowTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowTrain",
            display_name="Mix-of-Show Train",
            category=CATEGORY,
            description="Learns a dataset's concept and saves it as a file. An identical run is loaded, not repeated.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The base to learn on, left as it was. LoRAs on it count as base."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model; it is left as it was."),
                io.Vae.Input("vae", tooltip="Encodes the pictures, once."),
                DATASET.Input("dataset", tooltip="From Mix-of-Show Dataset."),
                io.Combo.Input("preset", options=list(PRESETS), default="ED-LoRA", tooltip=(
                    "ED-LoRA: layered words and LoRA, made for fusing. P+: layered words only, a tiny file. "
                    "Textual Inversion: one embedding. LoRA: no learned words. Custom Diffusion: one word and whole "
                    "key and value matrices. DreamBooth: the whole UNet, a large file."
                )),
                io.Combo.Input("quality", options=list(QUALITIES), default="standard", tooltip=(
                    "Scales the automatic number of steps: draft 0.4, standard 1, high 2."
                )),
                io.Int.Input("steps", default=0, min=0, max=1_000_000, tooltip="0: chosen by the number of pictures."),
                io.Int.Input("seed", default=0, min=0, max=2**32 - 1, control_after_generate=False, tooltip=(
                    "The same seed and inputs give the same file."
                )),
                io.String.Input("save_as", default="", tooltip=(
                    "File name in models/loras/mixofshow; empty: the concept's name. Nothing is overwritten."
                )),
                SETTINGS.Input("settings", optional=True, tooltip="From Mix-of-Show Train Settings."),
                CONCEPTS.Input("concepts", optional=True, tooltip=(
                    "Concepts from another Train or Load Concept node; the new ones go behind them, ready for Fuse."
                )),
            ],
            outputs=[
                CONCEPTS.Output(display_name="concepts"),
                io.Image.Output(display_name="samples"),
                io.Custom("LOSS_MAP").Output(display_name="loss_map"),
                io.String.Output(display_name="path"),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, dataset, preset: str, quality: str, steps: int, seed: int, save_as: str, settings=None,
        concepts=(),
    ) -> io.NodeOutput:
        chosen = replace(PRESETS[preset], **(settings or {}))
        request, notes = training_run.prepare(model, clip, vae, dataset, chosen, quality, steps, seed, save_as)
        log.info("Training %s with %s, %d steps.", request.stem, chosen.method, request.settings.steps)
        for note in notes:
            log.info("auto: %s", note)
        result = training_run.run_training(request)
        trained = training_run.used_concepts(result)
        samples = training_samples.sample_strengths(model, clip, vae, trained[0], seed)
        add_thumbnail(result.path, samples[-1])
        losses = {"loss": list(result.losses)}
        chain = (*(concepts or ()), *trained)
        return io.NodeOutput(chain, samples, losses, str(result.path), ui=ui.PreviewImage(samples, cls=cls))


NODES = [MixOfShowTrainSettings, MixOfShowTrain]
