"""The node that loads the small base model shipped with the pack."""
from __future__ import annotations

from comfy_api.latest import io

from .bridge.small_base import load_small_base


class MixOfShowDemoModel(io.ComfyNode):
    """MODEL, CLIP and VAE of the small base, so that the first workflow runs anywhere."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MixOfShowDemoModel",
            display_name="Mix-of-Show Demo Model",
            category="Mix-of-Show",
            description="A very small model that ships with this pack and draws flat avatars and emoji at 64 pixels. "
                        "It exists to try training, fusion and regions in minutes without a download. "
                        "For real pictures use a checkpoint loader in its place.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The small UNet. Made for 64 pixels per subject: use "
                                                              "64x64 for one and 128x64 for two side by side."),
                io.Clip.Output(display_name="CLIP", tooltip="Its text encoder. It knows a few hundred words about "
                                                            "people, clothes, colours and emoji."),
                io.Vae.Output(display_name="VAE", tooltip="Its autoencoder, eight pixels per latent position."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_small_base())


NODES = [MixOfShowDemoModel]
