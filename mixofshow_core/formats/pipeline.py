"""A whole model as a diffusers folder: UNet, text encoders, autoencoder, scheduler, and Mix-of-Show's table of words.

Configurations are read off the live modules, so every net of the family's kind can be written, lean ones too. Layout
as Mix-of-Show's fused folders have it: the token table grows by one row per word and layer, `new_concept_cfg.json`
says which rows belong to which word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..concept import ConceptEntry
from ..errors import MixOfShowError
from ..families.family import UNetLayout
from ..families.known import CLIP_G, ENCODERS
from ..families.layers import UNET_PREFIX
from ..families.names import NameTable
from ..families.unet import transformer_blocks, unet_layout
from .checkpoint import CONCEPT_TABLE
from .native import save_safetensors

TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"
WRITTEN_BY = "0.20.0"  # the diffusers version whose configuration keys are used


@dataclass(frozen=True)
class Whole:
    """A model with everything merged: modules for the configuration, tensors by the host's own names.

    `texts` maps an encoder to its module (with `.transformer` below) and its state dict; `autoencoder` is the host's
    state dict of an AutoencoderKL or None; `prediction` is "epsilon" or "v_prediction".
    """

    unet: nn.Module
    unet_state: Mapping[str, Tensor]
    texts: Mapping[str, tuple[nn.Module, Mapping[str, Tensor]]]
    autoencoder: Mapping[str, Tensor] | None
    prediction: str
    latent_scale: float


def write_pipeline(folder: Path, whole: Whole, entries: tuple[ConceptEntry, ...]) -> list[str]:
    """Write the folder; answers with what it does not hold. Tokenizer files are the caller's to add."""
    folder = Path(folder)
    layout = unet_layout(whole.unet)
    names = NameTable(layout, {})
    save_safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors", _unet_state(whole.unet_state, names), _PT)
    _write_json(folder / "unet" / "config.json", unet_config(whole.unet, layout))
    lost, index = [], {"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    table = concept_tokens(entries, vocabulary(whole))
    for encoder, (module, state) in whole.texts.items():
        part, projected = ENCODERS[encoder].part, encoder == CLIP_G.name
        kind = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
        tensors = _text_state(state, entries, encoder, keep_projection=projected)
        save_safetensors(folder / part / "model.safetensors", tensors, _PT)
        _write_json(folder / part / "config.json", text_config(module, encoder, tensors, kind))
        index |= {part: ["transformers", kind]}
        index |= {part.replace("text_encoder", "tokenizer"): ["transformers", "CLIPTokenizer"]}
    if whole.autoencoder is None:
        lost.append("the autoencoder: none was connected, or it is not of Stable Diffusion's kind")
        index["vae"] = [None, None]
    else:
        state = autoencoder_state(whole.autoencoder)
        save_safetensors(folder / "vae" / "diffusion_pytorch_model.safetensors", state, _PT)
        _write_json(folder / "vae" / "config.json", autoencoder_config(state, whole.latent_scale))
        index["vae"] = ["diffusers", "AutoencoderKL"]
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "DDIMScheduler",
            "_diffusers_version": WRITTEN_BY,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "prediction_type": whole.prediction,
        },
    )
    if CLIP_G.part in index:
        index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
    else:
        index |= {
            "_class_name": "StableDiffusionPipeline",
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        }
    _write_json(folder / "model_index.json", index | {"_diffusers_version": WRITTEN_BY})
    _write_json(folder / CONCEPT_TABLE, table)
    return lost


_PT = {"format": "pt"}


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _unet_state(state: Mapping[str, Tensor], names: NameTable) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        path, _, kind = key.rpartition(".")
        renamed[f"{names.of(UNET_PREFIX + path, 'the model').path}.{kind}"] = tensor
    return renamed


def unet_config(unet: nn.Module, layout: UNetLayout) -> dict:
    """diffusers' configuration of a live UNet of the host's kind (SD1.5, SD2, SDXL, and lean nets like them)."""
    widths, heads, depths = [], [], []
    blocks = {path.rsplit(".transformer_blocks", 1)[0]: block for path, _, block in transformer_blocks(unet)}
    number = 1
    for level in layout.down:
        stage = unet.input_blocks[number]
        widths.append(stage[0].out_channels)
        block = blocks.get(f"input_blocks.{number}.1")
        heads.append(block.attn1.heads if block is not None else 0)
        depths.append(max(level))
        number += len(level) + 1
    middle = blocks.get("middle_block.1")
    heads = [count or (middle.attn1.heads if middle is not None else 1) for count in heads]
    context = next(block.attn2.to_k.in_features for block in blocks.values())
    projection = unet.get_submodule(next(iter(blocks))).proj_in
    config = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": WRITTEN_BY,
        "act_fn": "silu",
        "attention_head_dim": heads,  # diffusers means the number of heads by this name
        "block_out_channels": widths,
        "center_input_sample": False,
        "cross_attention_dim": context,
        "down_block_types": ["CrossAttnDownBlock2D" if max(d) else "DownBlock2D" for d in layout.down],
        "up_block_types": ["CrossAttnUpBlock2D" if max(d) else "UpBlock2D" for d in layout.up],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "layers_per_block": [len(level) for level in layout.down],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "sample_size": 128 if _has_label(unet) else 64,
        "in_channels": unet.input_blocks[0][0].in_channels,
        "out_channels": unet.out[-1].out_channels,
        "use_linear_projection": isinstance(projection, nn.Linear),
        "transformer_layers_per_block": [depth or 1 for depth in depths],
    }
    if _has_label(unet):
        label = unet.label_emb[0][0]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": label.in_features,
        }
    return config


def _has_label(unet: nn.Module) -> bool:
    return getattr(unet, "num_classes", None) is not None


def text_config(module: nn.Module, encoder: str, state: Mapping[str, Tensor], kind: str) -> dict:
    """transformers' configuration of one of the host's CLIP text encoders."""
    model = module.transformer.text_model
    layers = model.encoder.layers
    vocabulary_size, width = state[TOKEN_TABLE].shape
    projection = state.get("text_projection.weight")
    return {
        "architectures": [kind],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary_size,
        "hidden_size": width,
        "intermediate_size": layers[0].mlp.fc1.out_features,
        "num_hidden_layers": len(layers),
        "num_attention_heads": layers[0].self_attn.heads,
        "hidden_act": ENCODERS[encoder].activation,
        "max_position_embeddings": state["text_model.embeddings.position_embedding.weight"].shape[0],
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
        "projection_dim": projection.shape[0] if projection is not None else width,
    }


def _text_state(
    state: Mapping[str, Tensor], entries: tuple[ConceptEntry, ...], encoder: str, keep_projection: bool
) -> dict[str, Tensor]:
    wanted = ("transformer.text_model.", *(("transformer.text_projection.",) if keep_projection else ()))
    tensors = {key.removeprefix("transformer."): tensor for key, tensor in state.items() if key.startswith(wanted)}
    rows = [tensors[TOKEN_TABLE]]
    for entry in entries:
        for embedding in entry.embeddings:
            if encoder not in embedding.rows:
                raise MixOfShowError(f"Concept {entry.name!r} has no rows for {encoder}; it is of another family.")
            rows.append(embedding.per_layer(encoder).to(rows[0]))
    return tensors | {TOKEN_TABLE: torch.cat(rows)}


def vocabulary(whole: Whole) -> int:
    """Rows of the token table before concept words are added."""
    _, state = next(iter(whole.texts.values()))
    return state[f"transformer.{TOKEN_TABLE}"].shape[0]


def concept_tokens(entries: tuple[ConceptEntry, ...], first: int) -> dict[str, dict]:
    """Mix-of-Show's table: {word: {concept_token_ids, concept_token_names}}, ids counted from `first`."""
    table, number = {}, 0
    for entry in entries:
        for word, embedding in zip(entry.words, entry.embeddings, strict=True):
            ids = range(number, number + embedding.layers)
            table[word.text] = {
                "concept_token_ids": [first + n for n in ids],
                "concept_token_names": [f"<new{n}>" for n in ids],
            }
            number += embedding.layers
    return table


def autoencoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stable Diffusion's autoencoder in diffusers' names; its attention convolutions become linears."""
    levels = 1 + max(int(match[1]) for key in state if (match := re.match(r"decoder\.up\.(\d+)\.", key)))

    def rename(key: str) -> str:
        key = re.sub(r"^encoder\.down\.(\d+)\.block\.(\d+)", r"encoder.down_blocks.\1.resnets.\2", key)
        key = re.sub(r"^encoder\.down\.(\d+)\.downsample", r"encoder.down_blocks.\1.downsamplers.0", key)
        key = re.sub(
            r"^decoder\.up\.(\d+)\.block\.(\d+)",
            lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}.resnets.{m[2]}",
            key,
        )
        key = re.sub(
            r"^decoder\.up\.(\d+)\.upsample", lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}.upsamplers.0", key
        )
        key = re.sub(r"\.mid\.block_(\d)", lambda m: f".mid_block.resnets.{int(m[1]) - 1}", key)
        key = re.sub(r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1.", key)
        key = key.replace(".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0.")
        key = key.replace(".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm.")
        return key.replace(".nin_shortcut.", ".conv_shortcut.").replace(".norm_out.", ".conv_norm_out.")

    renamed = {rename(key): tensor for key, tensor in state.items()}
    linear = re.compile(r".*\.attentions\.0\.to_(q|k|v|out\.0)\.weight")
    return {key: tensor.flatten(1) if linear.fullmatch(key) else tensor for key, tensor in renamed.items()}


def autoencoder_config(state: Mapping[str, Tensor], latent_scale: float) -> dict:
    """diffusers' configuration, from shapes: the widths of the encoder's levels and its blocks per level."""
    levels: dict[int, int] = {}
    blocks = 0
    for key, tensor in state.items():
        match = re.match(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight", key)
        if match:
            levels[int(match[1])] = tensor.shape[0]
            blocks = max(blocks, int(match[2]) + 1)
    widths = [levels[n] for n in sorted(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": WRITTEN_BY,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        "out_channels": state["decoder.conv_out.weight"].shape[0],
        "block_out_channels": widths,
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "layers_per_block": blocks,
        "sample_size": 512,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "scaling_factor": latent_scale,
    }
