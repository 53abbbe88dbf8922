"""The node that loads the small base model shipped with the pack."""

from __future__ import annotations

from comfy_api.latest import io, ui

from .bridge.demo.small_base import load_small_base
from .bridge.demo.small_base_dit import load_small_base_dit
from .bridge.demo.small_base_xl import load_small_base_xl
from .bridge.host.model import describe_base, native_size
from .types import DEMO, found_by

BASES = {
    "SD1.5 kind": load_small_base,
    "SDXL kind": load_small_base_xl,
    "Cosmos kind": load_small_base_dit,
}
DEFAULT = "SD1.5 kind"


class MixOfShowDemoModel(io.ComfyNode):
    """MODEL, CLIP and VAE of a small base, so that the first workflow runs anywhere."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowDemoModel",
            display_name="Mix-of-Show Demo Model",
            category=DEMO,
            **found_by("MixOfShowDemoModel"),
            description="A very small model that ships with this pack and draws flat avatars and emoji at 64 pixels, "
            "in front of a colour or, when told 'in a background', of scenery. "
            "It exists to try training, fusion and regions in minutes without a download. "
            "For real pictures use a checkpoint loader in its place.",
            inputs=[
                io.Combo.Input(
                    "base",
                    options=list(BASES),
                    default=DEFAULT,
                    optional=True,
                    tooltip="What the small model is built like. SD1.5 kind: one text encoder, the fastest. SDXL kind: "
                    "two text encoders, size conditioning and more layers. Cosmos kind: a transformer as "
                    "Cosmos-Predict2 and Anima are, the text encoder and VAE of the first kind. A concept fits the "
                    "kind that it was trained on.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The small UNet. Made for 64 pixels per subject: use "
                    "64x64 for one and 128x64 for two side by side.",
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="Its text encoder. It knows a few hundred words about people, clothes, colours and emoji.",
                ),
                io.Vae.Output(display_name="VAE", tooltip="Its autoencoder, eight pixels per latent position."),
            ],
        )

    @classmethod
    def execute(cls, base: str = DEFAULT) -> io.NodeOutput:
        loaded = BASES[base]()
        told = f"{base}: {describe_base(loaded[0]).family} family, learned at {native_size(loaded[0])} pixels"
        return io.NodeOutput(*loaded, ui=ui.PreviewText(told))


NODES = [MixOfShowDemoModel]
