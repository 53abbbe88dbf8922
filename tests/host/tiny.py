"""Tiny random bases built from the host's own classes: the structure of SD1.5 and SDXL, none of the meaning.

Also a ComfyUI node file: the test server links it into custom_nodes, where it adds `MosTestTinyBase`, so that graphs
can start from the same models.

Layer counts are the real ones (16 and 70 cross-attention layers); widths are small. With `real_width=True` the text
towers have their real widths (768, 1280), which costs about 150 MB and 400 MB.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import torch

FAMILIES = ("sd15", "sdxl", "sd2", "cosmos", "anima")


def there(family: str) -> bool:
    """Whether this host has the family: Anima came with 0.10.0."""
    import comfy.supported_models

    return family != "anima" or hasattr(comfy.supported_models, "Anima")


@dataclass(frozen=True)
class TinyBase:
    model: Any  # comfy.model_patcher.ModelPatcher
    clip: Any  # comfy.sd.CLIP
    vae: Any  # comfy.sd.VAE


def unet_config(family: str, real_width: bool = False) -> dict:
    common = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_checkpoint": False,
        "dtype": torch.float32,
    }
    if family == "sd15":
        return common | {
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1] * 9 + [0] * 3,
            "num_heads": 4,
            "num_head_channels": -1,
            "use_linear_in_transformer": False,
            "context_dim": 768 if real_width else 64,
            "adm_in_channels": None,
        }
    if family == "sd2":
        return unet_config("sd15") | {"use_linear_in_transformer": True, "model_channels": 64}  # heads of 64
    if family == "sdxl":
        return common | {
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "num_heads": -1,
            "num_head_channels": 16,
            "use_linear_in_transformer": True,
            "context_dim": 2048 if real_width else 128,
            "adm_in_channels": 2816 if real_width else 64 + 6 * 256,
            "num_classes": "sequential",
        }
    if family in ("cosmos", "anima"):
        return {
            "image_model": "anima" if family == "anima" else "cosmos_predict2",
            "max_img_h": 240,
            "max_img_w": 240,
            "max_frames": 128,
            "in_channels": 16,
            "out_channels": 16,
            "patch_spatial": 2,
            "patch_temporal": 1,
            "model_channels": 2048 if real_width else 64,
            "concat_padding_mask": True,
            "crossattn_emb_channels": 1024 if real_width else 64,
            "pos_emb_cls": "rope3d",
            "pos_emb_learnable": True,
            "pos_emb_interpolation": "crop",
            "min_fps": 1,
            "max_fps": 30,
            "use_adaln_lora": True,
            "adaln_lora_dim": 256 if real_width else 16,
            "num_blocks": 28 if real_width else 3,
            "num_heads": 16 if real_width else 4,
            "extra_per_block_abs_pos_emb": False,
            "rope_h_extrapolation_ratio": 4.0,
            "rope_w_extrapolation_ratio": 4.0,
            "rope_t_extrapolation_ratio": 1.0,
        } | ({"rope_enable_fps_modulation": False} if family == "anima" else {})
    raise ValueError(f"unknown family {family!r}: use one of {', '.join(FAMILIES)}")


def randomise(module: torch.nn.Module, seed: int, std: float = 0.05) -> None:
    """Every matrix gets small normal noise, every norm weight 1, every bias 0: zero-initialised layers come alive."""
    generator = torch.Generator().manual_seed(seed)
    norms = {
        id(child.weight)
        for child in module.modules()
        if "Norm" in type(child).__name__ and getattr(child, "weight", None) is not None
    }
    with torch.no_grad():
        for parameter in module.parameters():
            if id(parameter) in norms:
                parameter.fill_(1.0)
            elif parameter.dim() > 1:
                parameter.normal_(0.0, std, generator=generator)
            else:
                parameter.zero_()


def tiny_model(family: str = "sd15", seed: int = 0, real_width: bool = False, prediction: str = "eps"):
    """ModelPatcher on a random UNet. prediction: "eps" or "v"."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    kind = comfy.model_base.ModelType.V_PREDICTION if prediction == "v" else comfy.model_base.ModelType.EPS
    classes = {
        "sd15": ("SD15", "BaseModel", kind),
        "sdxl": ("SDXL", "SDXL", kind),
        "sd2": ("SD20", "BaseModel", kind),
        "cosmos": ("CosmosT2IPredict2", "CosmosPredict2", None),
        "anima": ("Anima", "Anima", None),
    }
    config_class, model_class, kind = classes[family]
    config = getattr(comfy.supported_models, config_class)(unet_config(family, real_width))
    config.set_inference_dtype(torch.float32, None)
    named = {} if kind is None else {"model_type": kind}
    model = getattr(comfy.model_base, model_class)(config, device="cpu", **named)
    if family == "anima" and not real_width:
        _shrink_adapter(model.diffusion_model)
    randomise(model.diffusion_model, seed, std=0.1 if family in ("cosmos", "anima") else 0.05)
    model.diffusion_model.eval().requires_grad_(False)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def _shrink_adapter(net: torch.nn.Module) -> None:
    """The host's own adapter with small sides: its class takes them, Anima's does not hand them on."""
    import comfy.ops

    sides = {"source_dim": 64, "target_dim": 64, "model_dim": 64, "num_layers": 1, "num_heads": 4}
    net.llm_adapter = type(net.llm_adapter)(**sides, operations=comfy.ops.disable_weight_init)


def _other_clip(family: str, seed: int):
    """OpenCLIP H of SD2, T5 of Cosmos, or Qwen3 of Anima, with the real tokenizers."""
    import comfy.sd
    import comfy.text_encoders.cosmos
    import comfy.text_encoders.sd2_clip

    encoders = {
        "sd2": (comfy.text_encoders.sd2_clip.SD2ClipModel, comfy.text_encoders.sd2_clip.SD2Tokenizer),
        "cosmos": (comfy.text_encoders.cosmos.te(), comfy.text_encoders.cosmos.CosmosT5Tokenizer),
    }
    if family == "anima":
        import comfy.text_encoders.anima

        encoders["anima"] = comfy.text_encoders.anima.te(), comfy.text_encoders.anima.AnimaTokenizer

    class Target:
        params: dict = {}
        clip, tokenizer = encoders[family]

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    options = {
        "qwen3_06b_model_config": sizes | {"num_key_value_heads": 2},
        "t5xxl_model_config": {"d_model": 64, "d_ff": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2},
        "clip_h_model_config": sizes | {"num_hidden_layers": 3, "projection_dim": 64},
        "dtype": torch.float32,
    }
    clip = comfy.sd.CLIP(Target, embedding_directory=None, model_options=options)
    randomise(clip.cond_stage_model, seed, std=0.3)
    clip.cond_stage_model.requires_grad_(False)
    return clip


def tiny_clip(family: str = "sd15", seed: int = 3, real_width: bool = False, layers: int = 3):
    """comfy.sd.CLIP with random text towers and the real CLIP vocabulary and tokenizer."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip

    if family in ("sd2", "cosmos", "anima"):
        return _other_clip(family, seed)

    class Target:
        params: dict = {}
        clip = comfy.sdxl_clip.SDXLClipModel if family == "sdxl" else comfy.sd1_clip.SD1ClipModel
        tokenizer = comfy.sdxl_clip.SDXLTokenizer if family == "sdxl" else comfy.sd1_clip.SD1Tokenizer

    small = {"num_hidden_layers": layers, "intermediate_size": 64}
    if not real_width:
        small |= {"hidden_size": 64, "num_attention_heads": 4, "projection_dim": 64}
    options = {
        "clip_l_model_config": dict(small),
        "clip_g_model_config": dict(small),
        "dtype": torch.float32,
    }
    clip = comfy.sd.CLIP(Target, embedding_directory=None, model_options=options)
    randomise(clip.cond_stage_model, seed)
    clip.cond_stage_model.requires_grad_(False)
    return clip


def tiny_vae(seed: int = 5):
    """comfy.sd.VAE: random autoencoder, 4 latent channels, downscale 8."""
    import comfy.ldm.models.autoencoder
    import comfy.sd

    parameters = {
        "embed_dim": 4,
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 64,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }
    network = comfy.ldm.models.autoencoder.AutoencoderKL(**parameters)
    randomise(network, seed)
    return comfy.sd.VAE(sd=network.state_dict(), config={"params": parameters}, dtype=torch.float32)


def tiny_video_vae(seed: int = 5):
    """comfy.sd.VAE of Cosmos-Predict2 and Anima (Wan 2.1's), random and narrow: 16 channels, one frame a picture."""
    import comfy.ldm.wan.vae
    import comfy.sd

    sides = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0}
    network = comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True], **sides)
    randomise(network, seed, std=0.3)
    return comfy.sd.VAE(sd=network.state_dict(), dtype=torch.float32)


def in_eight_bits(model) -> None:
    """Store the matrices of MODEL's net as fp8, cast when a layer runs, as the host has them from an fp8 checkpoint."""
    for module in model.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights") and getattr(module, "weight", None) is not None:
            module.comfy_cast_weights = True
            if module.weight.dim() > 1:
                module.weight.data = module.weight.data.to(torch.float8_e4m3fn)


def scaled_pair(model, way: str):
    """(MODEL with its linears as fp8 with a scale each, one with the same values in fp32). way: "scaled" for the files
    with `scaled_fp8` in them, "quantised" for those whose metadata names every layer's format."""
    import comfy.model_patcher

    state = {name: weight.clone() for name, weight in model.model.diffusion_model.state_dict().items()}
    linears = {name for name, m in model.model.diffusion_model.named_modules() if isinstance(m, torch.nn.Linear)}
    same = dict(state)
    for name in linears:
        weight = state[f"{name}.weight"]
        scale = weight.abs().amax() / torch.finfo(torch.float8_e4m3fn).max
        state[f"{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
        state[f"{name}.{'scale_weight' if way == 'scaled' else 'weight_scale'}"] = scale
        same[f"{name}.weight"] = state[f"{name}.weight"].float() * scale
    state, settings = _scales_as_read(state, way, {name: {"format": "float8_e4m3fn"} for name in sorted(linears)})
    return with_weights(model, state, comfy.model_patcher.ModelPatcher, **settings), with_weights(
        model, same, comfy.model_patcher.ModelPatcher
    )


def _scales_as_read(state: dict, way: str, layers: dict) -> tuple[dict, dict]:
    """(weights, settings of the configuration) as this host has them from such a file. Newer hosts rename the scales
    and put each layer's format among the weights."""
    import comfy.utils

    if not hasattr(comfy.utils, "convert_old_quants"):
        both = {"scaled": {"scaled_fp8": torch.float8_e4m3fn}, "quantised": {"layer_quant_config": layers}}
        return state, both[way]
    metadata = {}
    if way == "scaled":
        state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)  # two numbers: products in full precision
    else:
        metadata["_quantization_metadata"] = json.dumps({"layers": layers})
    state, _ = comfy.utils.convert_old_quants(state, "", metadata)
    return state, {"quant_config": comfy.utils.detect_layer_quantization(state, "")}


def with_weights(model, weights: dict, patcher: type, **settings):
    """MODEL's like with other weights in the host's ``patcher``; ``settings`` are set on the host's configuration."""
    config = type(model.model.model_config)(dict(model.model.model_config.unet_config))
    config.set_inference_dtype(torch.float32, torch.float32)
    for name, value in settings.items():
        setattr(config, name, value)
    net = type(model.model)(config, model_type=model.model.model_type, device="cpu")
    net.diffusion_model.load_state_dict(dict(weights))
    net.diffusion_model.eval().requires_grad_(False)
    return patcher(net, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def tiny_base(family: str = "sd15", seed: int = 0, real_width: bool = False) -> TinyBase:
    vae = tiny_video_vae if family in ("cosmos", "anima") else tiny_vae
    return TinyBase(tiny_model(family, seed, real_width), tiny_clip(family, seed + 3, real_width), vae(seed + 5))


async def comfy_entrypoint():
    """Lets the server load this file as a node pack with two nodes."""
    from comfy_api.latest import ComfyExtension, io

    class MosTestTinyBase(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="MosTestTinyBase",
                category="tests",
                inputs=[
                    io.Combo.Input("family", options=list(FAMILIES)),
                    io.Int.Input("seed", default=0),
                    io.Int.Input("native_size", default=0, optional=True),  # 0: the family's own
                ],
                outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
            )

        @classmethod
        def execute(cls, family: str, seed: int, native_size: int = 0) -> io.NodeOutput:
            base = tiny_base(family, seed)
            if native_size:
                base.model.model.native_size = native_size
            base.model.model.native_size = 64  # graphs train and calibrate at this size
            return io.NodeOutput(base.model, base.clip, base.vae)

    class MosTestPainter(io.ComfyNode):
        """Shows a red preview while it works, and makes a green picture."""

        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="MosTestPainter",
                category="tests",
                inputs=[io.AnyType.Input("after"), io.Float.Input("seconds", default=1.0)],
                outputs=[io.Image.Output()],
            )

        @classmethod
        def execute(cls, after, seconds: float) -> io.NodeOutput:
            import comfy.utils
            from PIL import Image

            preview = ("JPEG", Image.new("RGB", (64, 48), "red"), 64)
            comfy.utils.ProgressBar(2).update_absolute(1, 2, preview)
            time.sleep(seconds)
            return io.NodeOutput(torch.tensor([0.0, 0.8, 0.0]).expand(1, 48, 64, 3))

    class Extension(ComfyExtension):
        async def get_node_list(self):
            return [MosTestTinyBase, MosTestPainter]

    return Extension()
