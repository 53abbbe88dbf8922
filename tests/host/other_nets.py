"""Small random nets of the host's other kinds, and a LoRA for each in a dialect that people have for it."""

from __future__ import annotations

import torch
from mos_tests.host.tiny import randomise

TEXT = 64  # width of the texts that they read: what the tiny CLIP writes
NETS = {
    # name: (the host's configuration, its model, sides, start of the names of one dialect)
    "flux": (
        "Flux",
        "Flux",
        {
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": TEXT,
            "context_in_dim": TEXT,
            "hidden_size": 64,
            "mlp_ratio": 4.0,
            "num_heads": 4,
            "depth": 1,
            "depth_single_blocks": 1,
            "axes_dim": [4, 6, 6],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": False,
        },
        "transformer.",
    ),
    "sd3": (
        "SD3",
        "SD3",
        {
            "in_channels": 16,
            "patch_size": 2,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": TEXT,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": TEXT, "out_features": 128},
            },
            "num_patches": 1024,
            "pos_embed_max_size": 32,
            "pos_embed_scaling_factor": None,
        },
        "transformer.",
    ),
    "lumina2": (
        "Lumina2",
        "Lumina2",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 256,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 8,
            "n_kv_heads": 8,
            "qk_norm": True,
            "cap_feat_dim": TEXT,
            "axes_dims": [8, 12, 12],
            "axes_lens": [600, 64, 64],
        },
        "diffusion_model.",
    ),
    "qwen_image": (
        "QwenImage",
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 1,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": TEXT,
            "axes_dims_rope": [8, 12, 12],
        },
        "transformer_blocks.",
    ),
}


def tiny_net(name: str, seed: int = 0):
    """ModelPatcher on a random small net."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    from comfy.ldm.flux import model as flux

    config_class, model_class, sides, _ = NETS[name]
    newer = {"txt_ids_dims": []} if name == "flux" and hasattr(flux.FluxParams, "yak_mlp") else {}
    config = getattr(comfy.supported_models, config_class)(sides | newer)
    config.set_inference_dtype(torch.float32, None)
    model = getattr(comfy.model_base, model_class)(config, device="cpu")
    randomise(model.diffusion_model, seed, std=0.1)
    for name, table in model.diffusion_model.named_buffers():
        if name == "pos_embed":
            table.zero_()  # the host leaves it as it finds the memory
    model.diffusion_model.eval().requires_grad_(False)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def random_lora(model, start: str, seed: int, every: int = 1) -> dict[str, torch.Tensor]:
    """A LoRA of rank 2 on every linear that the host knows under names that begin with `start`."""
    import comfy.lora

    weights = model.model.state_dict()
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    chosen, seen = [], set()
    for name, target in names.items():
        weight, part = (target, None) if isinstance(target, str) else (target[0], target[1])
        plain = isinstance(target, str) or len(target) == 2
        if not (name.startswith(start) and plain and weight in weights and weights[weight].dim() == 2):
            continue  # the host's tables also name layers that a net lacks
        if (weight, part) not in seen:
            seen.add((weight, part))
            chosen.append((name, weights[weight] if part is None else weights[weight].narrow(*part)))
    for name, weight in chosen[::every]:
        out, width = weight.shape
        found[f"{name}.lora_up.weight"] = torch.randn(out, 2, generator=generator) * 0.2
        found[f"{name}.lora_down.weight"] = torch.randn(2, width, generator=generator) / width**0.5
        found[f"{name}.alpha"] = torch.tensor(1.0)
    return found
