"""The small base model that ships with the pack: ComfyUI's own UNet and CLIP classes with a lean configuration,
and a small autoencoder with downscale 8. It draws flat avatars and emoji at 64 pixels; see `world/README.md`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import torch
from safetensors import safe_open

from ....mixofshow_core.errors import MixOfShowError
from ..host.files import PACK
from .rows import unpack
from .small_autoencoder import SmallAutoencoder, from_weights

logger = logging.getLogger("mixofshow")

WEIGHTS = PACK / "assets" / "demo" / "small_base.safetensors"
NATIVE_SIZE = 64
LATENT_CHANNELS = 24  # of the shipped bases; a file says its own
TEXT_WIDTH = 128
UNET = {
    "image_size": 8,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": TEXT_WIDTH,
    "use_linear_in_transformer": False,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "use_checkpoint": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
TEXT = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}


class SmallLatent(comfy.latent_formats.LatentFormat):
    """Latents standardised per channel, so that the sampler sees zero mean and unit deviation."""

    def __init__(self, channels: int = LATENT_CHANNELS) -> None:
        self.latent_channels = channels
        self.mean = torch.zeros(1, channels, 1, 1)
        self.std = torch.ones(1, channels, 1, 1)
        self.latent_rgb_factors = [[0.0, 0.0, 0.0] for _ in range(channels)]
        self.latent_rgb_factors_bias = [0.0, 0.0, 0.0]

    def process_in(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent - self.mean.to(latent)) / self.std.to(latent)

    def process_out(self, latent: torch.Tensor) -> torch.Tensor:
        return latent * self.std.to(latent) + self.mean.to(latent)


class SmallConfig(comfy.supported_models.SD15):
    """SD1.5's kind (one CLIP text tower, no label input), lean."""

    unet_config = UNET
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = SmallLatent
    memory_usage_factor = 0.5


class _RowWatch:
    """Forward pre-hook that says once that a word was never trained (its row is the mean of the trained rows)."""

    def __init__(self, trained: torch.Tensor) -> None:
        self.trained = trained
        self.warned = False

    def __call__(self, module: torch.nn.Module, inputs: tuple) -> None:
        if self.warned:
            return
        ids = inputs[0].detach().reshape(-1).long().cpu()
        strange = ids[~self.trained[ids]]
        if strange.numel():
            self.warned = True
            logger.warning(
                "The small base model does not know every word of the prompt (token ids %s): unknown words "
                "count as an average word. Its words are listed in world/README.md.",
                strange.unique().tolist()[:8],
            )


def build_unet(channels: int = LATENT_CHANNELS) -> comfy.model_base.BaseModel:
    """The base model with fresh weights, fp32, on the CPU."""
    return build_model(comfy.model_base.BaseModel, SmallConfig, channels)


def build_model(kind: type, config: type, channels: int) -> comfy.model_base.BaseModel:
    """A host model of ``kind`` by a small base's ``config``, with latents of ``channels``."""
    own = config(config.unet_config | {"in_channels": channels, "out_channels": channels})
    own.latent_format = SmallLatent(channels)
    own.set_inference_dtype(torch.float32, None)
    model = kind(own, model_type=comfy.model_base.ModelType.V_PREDICTION, device="cpu")
    model.native_size = NATIVE_SIZE
    return model


def build_clip() -> comfy.sd.CLIP:
    """The text side with uninitialised weights: the host's SD1 tokenizer and CLIP classes."""
    target = comfy.supported_models.SD15.clip_target(None)
    options = {"clip_l_model_config": dict(TEXT), "dtype": torch.float32}
    return comfy.sd.CLIP(target, embedding_directory=None, model_options=options)


def build_vae(autoencoder: SmallAutoencoder) -> comfy.sd.VAE:
    """A host VAE object around our autoencoder. The host builds a tiny stand-in first, as it knows no other way in."""
    stand_in = {
        "embed_dim": 4,
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 8,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }
    weights = comfy.ldm.models.autoencoder.AutoencoderKL(**stand_in).state_dict()
    vae = comfy.sd.VAE(sd=weights, config={"params": stand_in}, dtype=torch.float32)
    vae.first_stage_model = autoencoder.eval()
    vae.latent_channels = autoencoder.channels
    vae.working_dtypes = [torch.float32]
    vae.memory_used_encode = lambda shape, dtype: 600 * shape[-2] * shape[-1]
    vae.memory_used_decode = lambda shape, dtype: 600 * shape[-2] * shape[-1] * 64
    vae.patcher = comfy.model_patcher.ModelPatcher(
        autoencoder, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.size = None
    vae.model_size()
    return vae


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise MixOfShowError(
            f"The small base model's weights are missing: {path}. Reinstall the pack or fetch its "
            "complete archive; the folder assets/demo belongs to it."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = dict(file.metadata() or {})
    except Exception as error:
        raise MixOfShowError(
            f"The small base model's file {path} cannot be read ({error}). It may be cut off: reinstall the pack."
        ) from error
    return unpack(tensors), metadata


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def load_text(transformer: torch.nn.Module, own: dict[str, torch.Tensor]) -> torch.Tensor:
    """Fill a text tower and return which tokens it was trained on [vocabulary], bool.

    Only the rows of trained tokens are stored; all others become their mean.
    """
    ids, rows = own.pop("vocabulary.ids").long(), own.pop("vocabulary.rows")
    table = transformer.get_input_embeddings().weight
    trained = torch.zeros(table.shape[0], dtype=torch.bool)
    trained[ids] = True
    with torch.no_grad():
        table.copy_(rows.mean(0, keepdim=True).expand_as(table))
        table[ids] = rows.to(table)
        # Without a stored projection nothing reads the pooled output (SD1.5's kind).
        transformer.text_projection.weight.copy_(torch.eye(table.shape[1]))
    missing, extra = transformer.load_state_dict(own, strict=False)
    missing = [m for m in missing if not m.startswith(("text_projection", "text_model.embeddings.token_embedding"))]
    if missing or extra:
        raise MixOfShowError(f"The small base model's text weights do not fit: missing {missing}, unknown {extra}.")
    return trained


def load_small_base(path: Path | str = WEIGHTS) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of the small base, from one file of fp16 weights. Raises MixOfShowError on a bad file."""
    clip = build_clip()
    return assemble(Path(path), build_unet, clip, {"text.": clip.cond_stage_model.clip_l.transformer})


def assemble(
    path: Path,
    build: Callable[[int], comfy.model_base.BaseModel],
    clip: comfy.sd.CLIP,
    towers: dict[str, torch.nn.Module],
    beside: Path | None = None,
    wrap: Callable[[SmallAutoencoder], comfy.sd.VAE] = build_vae,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """A model, its text towers (by their prefix in the file) and an autoencoder from ``path``, which says how many
    channels its latents have. The net itself is in the file ``beside``, where there is one."""
    tensors, metadata = _read(path)
    if beside:
        own, metadata = _read(beside)
        tensors = {name: t for name, t in tensors.items() if not name.startswith("unet.")} | own
    try:
        autoencoder = from_weights(_part(tensors, "vae."))
        model = build(autoencoder.channels)
        model.diffusion_model.load_state_dict(_part(tensors, "unet."))
    except RuntimeError as error:
        raise MixOfShowError(
            f"The small base model's file {beside or path} does not fit this version of the pack: {error}. "
            "Reinstall the pack."
        ) from error
    trained = [load_text(transformer, _part(tensors, prefix)) for prefix, transformer in towers.items()]
    first = next(iter(towers.values()))  # one tower is enough to notice a word that none of them knows
    first.get_input_embeddings().register_forward_pre_hook(_RowWatch(trained[0]))
    latent = model.latent_format
    latent.mean = tensors["latent.mean"].reshape(latent.mean.shape)
    latent.std = tensors["latent.std"].reshape(latent.std.shape)
    latent.latent_rgb_factors = tensors["latent.rgb"].tolist()
    latent.latent_rgb_factors_bias = tensors["latent.rgb_bias"].tolist()
    model.requires_grad_(False)
    model.model_loaded_weight_memory = 0
    logger.info("Small base model: %s", json.loads(metadata.get("mixofshow.small_base", "{}")))
    device = comfy.model_management.get_torch_device()
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )
    return patcher, clip, wrap(autoencoder)
