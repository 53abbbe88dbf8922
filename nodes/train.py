"""MixOfShowTrain and its settings: a concept from pictures, saved as a file."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from comfy_api.latest import io, ui

from ..mixofshow_core.bounds import bounds_of
from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.formats.thumbnail import add_thumbnail
from ..mixofshow_core.training.curve import loss_curve
from ..mixofshow_core.training.settings import PRESETS, QUALITIES, TrainSettings
from .bridge.host.files import step_folder
from .bridge.host.images import to_image_batch
from .bridge.host.progress import Progress
from .bridge.host.show import show_progress
from .bridge.training import data as training_data
from .bridge.training import run as training_run
from .bridge.training import samples as training_samples
from .types import CONCEPTS, DATASET, SETTINGS, TRAIN, found_by, in_groups

log = logging.getLogger("mixofshow")

FROM_PRESET = "from preset"
SWITCH_VALUES = {"on": True, "off": False}
SWITCHES = ("flip", "shuffle_captions", "attention_identity")
GROUPS = {
    "layers": "rank unet_layers dropout kv_drop",
    "rates": "lr_embedding lr_text lr_unet schedule warmup_steps optimizer clip_gradient",
    "words": "embedding_rows word_start norm_stop",
    "batch": "batch accumulation checkpointing precision",
    "noise": "noise_offset min_snr",
    "pictures": "crop_chance scale_min flip aspect shuffle_captions",
    "masks": "loss_mask attention_weight attention_identity",
    "class pictures": "prior_weight prior_pictures prior_folder",
    "looking": "preview_every validate_every validation_prompts",
    "snapshots": "snapshot_every snapshots_kept",
}
RARE = (
    "dropout kv_drop schedule warmup_steps clip_gradient embedding_rows word_start norm_stop accumulation "
    "checkpointing precision noise_offset min_snr crop_chance scale_min shuffle_captions attention_identity "
    "prior_pictures prior_folder snapshot_every snapshots_kept"
)


class MixOfShowTrainSettings(io.ComfyNode):
    """Changes to a preset: a widget at its default takes the preset's value, so -1 is one where 0 says something.

    A word ("preset") in place of that number would need text inputs, to which wires and saved numbers no longer fit
    (docs/decisions/008); the label says what the number means.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        plain, bounds = TrainSettings(), bounds_of(TrainSettings)

        def number(name: str, tooltip: str, step: float, **more):
            """Its lowest value, 0 or below, means "from preset"."""
            low, high = bounds[name].below, bounds[name].high
            label = more.pop("label", f"{name} ({low}: preset)")
            return io.Float.Input(
                name, label, default=low, min=low, max=high, step=step, round=False, tooltip=tooltip, **more
            )

        def count(name: str, tooltip: str, **more):
            """Its default is every preset's value; where presets differ, `from_preset`, 0 means "from preset"."""
            low, default = bounds[name].low, getattr(plain, name)
            if more.pop("from_preset", False):
                low = default = bounds[name].below
            label = more.pop("label", None)
            return io.Int.Input(name, label, default=default, min=low, max=bounds[name].high, tooltip=tooltip, **more)

        def choice(name: str, tooltip: str, leave_out: str = "", **more):
            known = SWITCH_VALUES if name in SWITCHES else bounds[name].choices
            options = [FROM_PRESET, *(word for word in known if word != leave_out)]
            return io.Combo.Input(name, options=options, default=FROM_PRESET, tooltip=tooltip, **more)

        later = {"optional": True}  # inputs younger than workflows that people have saved

        return io.Schema(
            node_id="MixOfShowTrainSettings",
            display_name="Mix-of-Show Train Settings",
            category=TRAIN,
            **found_by("MixOfShowTrainSettings"),
            description="What the Train node does not show. Whatever is left as it is comes from the preset.",
            inputs=in_groups(
                [
                    count("rank", "LoRA rank; 0 = from preset (4).", from_preset=True, label="rank (0: preset)"),
                    number("lr_embedding", "Learning rate of the concept words; 0 = from preset, mostly auto.", 1e-5),
                    number("lr_text", "Learning rate of the text encoder LoRA; 0 = from preset, mostly auto.", 1e-6),
                    number("lr_unet", "Learning rate of the UNet LoRA; 0 = from preset, mostly auto.", 1e-5),
                    count(
                        "batch",
                        ("Pictures per step; 0 = from preset, mostly auto."),
                        from_preset=True,
                        label="batch (0: preset)",
                    ),
                    count(
                        "accumulation",
                        ("Batches whose gradients are added up before one step: a larger batch in the same memory."),
                    ),
                    choice(
                        "embedding_rows",
                        (
                            "Embeddings per concept word: one (textual inversion), one per resolution, or one per "
                            "cross-attention layer (P+, ED-LoRA)."
                        ),
                        leave_out="none",
                    ),
                    choice("schedule", "How the learning rates fall over the run."),
                    count("warmup_steps", "Steps of rising learning rate."),
                    number(
                        "noise_offset",
                        ("Noise offset, which helps dark and light pictures; -1 = from preset (0.01), 0 = off."),
                        0.001,
                    ),
                    number("min_snr", "Min-SNR gamma (5 is usual); -1 = from preset, 0 = off.", 0.5),
                    number("clip_gradient", "Largest gradient norm; -1 = from preset, 0 = off.", 0.1),
                    number(
                        "norm_stop",
                        (
                            "Words stop at this mean norm; -2 = from preset, -1 = never, 0 = auto (1.45 x ordinary "
                            "words)."
                        ),
                        0.01,
                        label="norm_stop (-2: preset, -1: never, 0: auto)",
                    ),
                    choice(
                        "loss_mask",
                        ("valid: the loss counts wherever there is picture. object: only inside the masks."),
                    ),
                    number("crop_chance", "How often a long picture is cropped square; -1 = from preset.", 0.05),
                    number("scale_min", "Smallest scale of a placed picture; 0 = from preset, mostly auto.", 0.05),
                    choice("flip", "Mirror half of the placements."),
                    choice("shuffle_captions", "Shuffle comma-separated phrases."),
                    number("dropout", "LoRA dropout; -1 = from preset, 0 = off.", 0.05),
                    choice("checkpointing", "Less memory, about a third slower."),
                    choice(
                        "precision",
                        ("Arithmetic of the UNet. auto: fp32 on a CPU, bf16 on a GPU that has it, else fp16."),
                    ),
                    count(
                        "snapshot_every",
                        ("Steps between snapshots; a run that was cut off continues from the last one."),
                    ),
                    count("preview_every", "Steps between preview pictures; 0 = off."),
                    choice(
                        "unet_layers",
                        (
                            "Which layers of the UNet change. transformer adds feed-forward layers and projections, "
                            "also in the text encoder; everything is for full weights (DreamBooth)."
                        ),
                        **later,
                    ),
                    number(
                        "kv_drop",
                        ("How often a cross-attention K or V LoRA sits out a step; -1 = from preset, 0 = never."),
                        0.05,
                        **later,
                    ),
                    choice("word_start", "What the learned words start from.", **later),
                    number(
                        "prior_weight",
                        (
                            "Weight of pictures of the bare class, which keep the class as it was; 1 is usual, -1 = "
                            "from preset, 0 = none."
                        ),
                        0.1,
                        **later,
                    ),
                    count(
                        "prior_pictures",
                        ("How many class pictures; 0 = auto. They are drawn with the base once, and kept."),
                        label="prior_pictures (0: auto)",
                        **later,
                    ),
                    io.String.Input(
                        "prior_folder",
                        default="",
                        tooltip=(
                            "Your own class pictures instead, with x.txt beside x.png as caption; empty = they are "
                            "drawn."
                        ),
                        **later,
                    ),
                    number(
                        "attention_weight",
                        (
                            "Holds the words' attention inside the masks (0.0025 is Mix-of-Show's); -1 = from preset, "
                            "0 = off."
                        ),
                        0.0005,
                        **later,
                    ),
                    choice(
                        "attention_identity",
                        ("The last word has to cover the whole mask: for concepts whose clothes belong to them."),
                        **later,
                    ),
                    choice("aspect", "square: one canvas. buckets: each picture keeps its shape.", **later),
                    choice("optimizer", "adamw8bit needs bitsandbytes, prodigy needs prodigyopt.", **later),
                    count(
                        "validate_every",
                        (
                            "Every so many steps, save the concept as it is then, with a sheet of pictures, in "
                            "output/mixofshow/steps; 0 = off."
                        ),
                        **later,
                    ),
                    io.String.Input(
                        "validation_prompts",
                        default="",
                        multiline=True,
                        tooltip=(
                            "One prompt per line for these sheets; empty: a photo of the concept, and one on a beach. "
                            "Dynamic prompts are not chosen from here."
                        ),
                        **later,
                    ),
                    count(
                        "snapshots_kept",
                        (
                            "How many of the last snapshots stay on disk; if the newest is damaged, the one before is "
                            "used."
                        ),
                        **later,
                    ),
                ],
                GROUPS,
                RARE,
            ),
            outputs=[SETTINGS.Output(display_name="settings", tooltip="For Train.")],
        )

    @classmethod
    def fingerprint_inputs(cls, prior_folder: str = "", **_) -> str:
        """Class pictures that change are other settings, though the folder's name is the same."""
        return training_data.fingerprint(prior_folder) if (prior_folder or "").strip() else ""

    @classmethod
    def execute(cls, **values) -> io.NodeOutput:
        defaults = {item.id: item.default for item in cls.define_schema().inputs}
        changes = {
            name: SWITCH_VALUES[value] if name in SWITCHES else value
            for name, value in values.items()
            if value != defaults[name]
        }
        # A contradiction is reported here, at the node that holds it; what only a preset can tell, at Train.
        replace(TrainSettings(), **{name: value for name, value in changes.items() if name != "unet_layers"})
        told = [f"{name}: {value}" for name, value in changes.items()]
        return io.NodeOutput(changes, ui=ui.PreviewText("\n".join(told or ["Everything comes from the preset."])))


class MixOfShowTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowTrain",
            display_name="Mix-of-Show Train",
            category=TRAIN,
            **found_by("MixOfShowTrain"),
            description="Learns a dataset's concept and saves it as a file. An identical run is loaded, not repeated.",
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The base to learn on, left as it was. LoRAs on it count as base. Anima: "
                        "with the presets LoRA and DreamBooth."
                    ),
                ),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model; it is left as it was."),
                io.Vae.Input("vae", tooltip="Encodes the pictures, once."),
                DATASET.Input("dataset", tooltip="From Mix-of-Show Dataset."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="ED-LoRA",
                    tooltip=(
                        "ED-LoRA: layered words and LoRA, made for fusing. P+: layered words only, a tiny file. "
                        "Textual Inversion: one embedding. LoRA: no learned words. Custom Diffusion: one word and "
                        "whole key and value matrices. DreamBooth: the whole UNet, a large file."
                    ),
                ),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="standard",
                    tooltip=("Scales the automatic number of steps: draft 0.4, standard 1, high 2."),
                ),
                io.Int.Input("steps", default=0, min=0, max=1_000_000, tooltip="0: chosen by the number of pictures."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=False,
                    tooltip=("The same seed and inputs give the same file."),
                ),
                io.String.Input(
                    "save_as",
                    default="",
                    tooltip=("File name in models/loras/mixofshow; empty: the concept's name. Nothing is overwritten."),
                ),
                SETTINGS.Input("settings", optional=True, tooltip="From Mix-of-Show Train Settings."),
                CONCEPTS.Input(
                    "concepts",
                    optional=True,
                    tooltip=(
                        "Concepts from another Train or Load Concept node; the new ones go behind them, ready for Fuse."
                    ),
                ),
            ],
            outputs=[
                CONCEPTS.Output(display_name="concepts", tooltip="For Fuse, Place, Export, Compare or Load Concept."),
                io.Image.Output(display_name="samples"),
                io.Custom("LOSS_MAP").Output(display_name="loss_map"),
                io.String.Output(display_name="path"),
                io.Image.Output(display_name="loss_plot"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        dataset,
        preset: str,
        quality: str,
        steps: int,
        seed: int,
        save_as: str,
        settings=None,
        concepts=(),
    ) -> io.NodeOutput:
        request, notes = prepare(model, clip, vae, dataset, preset, quality, steps, seed, save_as, settings)
        log.info("Training %s with %s, %d steps.", request.stem, request.settings.method, request.settings.steps)
        memory = next(note for note in notes if note.startswith("memory"))
        show_progress(f"preparing {request.settings.steps} steps with {request.settings.method}, {memory}")
        for note in notes:
            log.info("auto: %s", note)
        result = training_run.run_training(request)
        trained = training_run.used_concepts(result)
        show_progress("saved; drawing the samples")
        samples = training_samples.sample_strengths(model, clip, vae, trained[0], seed)
        add_thumbnail(result.path, samples[-1])
        losses = {"loss": list(result.losses)}
        chain = (*(concepts or ()), *trained)
        plot = torch.from_numpy(loss_curve(result.losses, request.settings.steps).copy())[None]
        labelled = training_samples.label_strengths(samples)
        Progress(1).step(1, labelled)  # the last live picture stays on the node in Nodes 2.0: let it be the result
        sheet = to_image_batch([labelled])
        seen = ui.PreviewImage(sheet, cls=cls).as_dict() | {"text": (_describe_run(result, request, notes),)}
        return io.NodeOutput(chain, samples, losses, str(result.path), plot, ui=seen)


def prepare(model, clip, vae, dataset, preset: str, quality: str, steps: int, seed: int, save_as: str, settings=None):
    """What Train would do with these inputs, checked, and notes about what was chosen: also for the command line."""
    if settings is not None and not isinstance(settings, dict):
        raise MixOfShowError("`settings` on Train needs Train Settings; what is connected belongs to another node.")
    chosen = replace(PRESETS[preset], **(settings or {}))
    return training_run.prepare(model, clip, vae, dataset, chosen, quality, steps, seed, save_as)


def _describe_run(result, request, notes) -> str:
    """What a person wants to know after a run: where the file is, how it went, what was chosen for them."""
    tail = result.losses[-max(1, len(result.losses) // 10) :]
    loss = tail and f"loss {sum(tail) / len(tail):.4f} over the last tenth"
    looks = request.settings.validate_every and f"every {request.settings.validate_every} steps: {step_folder()}"
    lines = [f"saved: {result.path}", f"{request.settings.steps} steps with {request.settings.method}", loss, looks]
    return "\n".join([*(line for line in lines if line), *result.notes, *(f"auto: {note}" for note in notes)])


NODES = [MixOfShowTrainSettings, MixOfShowTrain]
