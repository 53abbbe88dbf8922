"""Files of other tools, spelled out key by key from their published layouts (docs/formats.md); nothing of ours is used.

Two sizes: SD1.5's layer names with tiny widths for reading, and any real widths for running.
"""

import torch

# Cross-attention layers in the order of Mix-of-Show's 16 embedding rows: down, middle, up.
SD15_BLOCKS = (
    [f"down_blocks.{b}.attentions.{i}" for b in (0, 1, 2) for i in (0, 1)]
    + ["mid_block.attentions.0"]
    + [f"up_blocks.{b}.attentions.{i}" for b in (1, 2, 3) for i in (0, 1, 2)]
)
# Channels of each of these blocks for a net whose levels have 1, 2, 4, 4 times `base` channels.
SD15_CHANNELS = [1, 1, 2, 2, 4, 4, 4, 4, 4, 4, 2, 2, 2, 1, 1, 1]
TEXT_LINEARS = ("k_proj", "v_proj", "q_proj", "out_proj")


def random(generator, *shape, std=0.02):
    return torch.randn(*shape, generator=generator) * std


def attention_linears(base, context):
    """{diffusers path: (out, in)} of the 128 attention linears of an SD1.5-shaped UNet."""
    found = {}
    for block, times in zip(SD15_BLOCKS, SD15_CHANNELS, strict=True):
        width = base * times
        for attention, key_width in (("attn1", width), ("attn2", context)):
            prefix = f"{block}.transformer_blocks.0.{attention}"
            found |= {
                f"{prefix}.to_q": (width, width),
                f"{prefix}.to_k": (width, key_width),
                f"{prefix}.to_v": (width, key_width),
                f"{prefix}.to_out.0": (width, width),
            }
    return found


def edlora(
    words=("<potter1>", "<potter2>"),
    base=8,
    context=12,
    text_layers=2,
    rank=2,
    style="main",
    seed=0,
    embeddings="new_concept_embedding",
    wrap=True,
    text_width=None,
):
    """An ED-LoRA tree as Mix-of-Show's trainer saves it (both dialects)."""
    generator = torch.Generator().manual_seed(seed)
    text_width = text_width or context
    down_key, up_key = (
        (".lora_down.weight", ".lora_up.weight") if style == "main" else ("_lora.down.weight", "_lora.up.weight")
    )
    unet, text = {}, {}
    for path, (out_width, in_width) in attention_linears(base, context).items():
        unet[path + down_key] = random(generator, rank, in_width)
        unet[path + up_key] = random(generator, out_width, rank)
    for layer in range(text_layers):
        for name in TEXT_LINEARS:
            path = f"text_model.encoder.layers.{layer}.self_attn.{name}"
            text[path + down_key] = random(generator, rank, text_width)
            text[path + up_key] = random(generator, text_width, rank)
    rows = {word: random(generator, 16, text_width) for word in words}
    tree = {embeddings: rows, "text_encoder": text, "unet": unet}
    return {"params": tree} if wrap else tree


def ldm_path(diffusers_path):
    """The LDM path of an SD1.5 attention path, by the mapping rules of the layer table (input n//3, n%3 - 1)."""
    parts = diffusers_path.split(".")
    if parts[0] == "mid_block":
        return ".".join(["middle_block.1", *parts[3:]])
    level, index, rest = int(parts[1]), int(parts[3]), ".".join(parts[4:])
    if parts[0] == "down_blocks":
        return f"input_blocks.{3 * level + index + 1}.1.{rest}"
    return f"output_blocks.{3 * level + index}.1.{rest}"


def base_weights(base=8, context=12, text_layers=2, seed=50):
    """{layer name: weight} of a base, in our names, for files that hold whole weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        f"diffusion_model.{ldm_path(path)}": random(generator, *shape)
        for path, shape in attention_linears(base, context).items()
    }
    for layer in range(text_layers):
        for name in TEXT_LINEARS:
            key = f"text_encoders.clip_l.transformer.text_model.encoder.layers.{layer}.self_attn.{name}"
            weights[key] = random(generator, context, context)
    return weights


def custom_diffusion(dialect="diffusers", base=8, context=12, seed=1):
    """Custom Diffusion's files: whole keys and values, or compressed differences (`dialect="compressed"`)."""
    generator = torch.Generator().manual_seed(seed)
    linears = {k: v for k, v in attention_linears(base, context).items() if k.endswith(("attn2.to_k", "attn2.to_v"))}
    if dialect == "compvis":
        prefix = "model.diffusion_model."
        state = {f"{prefix}{ldm_path(p)}.weight": random(generator, *s) for p, s in linears.items()}
        return {"state_dict": state | {"embed": random(generator, 2, context)}}
    if dialect == "processor":
        return {
            p.replace(".attn2.", ".attn2.processor.") + "_custom_diffusion.weight": random(generator, *s)
            for p, s in linears.items()
        }
    if dialect == "compressed":
        unet = {
            f"{p}.weight": {"u": random(generator, o, 2), "v": random(generator, 2, i)} for p, (o, i) in linears.items()
        }
    else:
        unet = {f"{p}.weight": random(generator, *s) for p, s in linears.items()}
    return {"unet": unet, "modifier_token": {"<new1>": random(generator, context)}}


def fused_weights(base=8, context=12, seed=2):
    """The research branch's fused file: every attention weight of UNet and text encoder, and all words."""
    generator = torch.Generator().manual_seed(seed)
    weights = base_weights(base, context)
    unet = {
        f"{path}.weight": weights[f"diffusion_model.{ldm_path(path)}"] + random(generator, *shape, std=0.01)
        for path, shape in attention_linears(base, context).items()
    }
    text = {
        key.removeprefix("text_encoders.clip_l.transformer.") + ".weight": weight + 0.01
        for key, weight in weights.items()
        if key.startswith("text_encoders")
    }
    words = {word: random(generator, 16, context) for word in ("<potter1>", "<potter2>", "<thanos1>", "<thanos2>")}
    return {"params": {"unet": unet, "text_encoder": text, "new_concept_embedding": words}}


def textual_inversion(dialect="a1111", width=768, vectors=2, seed=3):
    generator = torch.Generator().manual_seed(seed)
    rows = random(generator, vectors, width)
    if dialect == "a1111":
        return {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": rows},
            "name": "mara",
            "step": 500,
            "sd_checkpoint": None,
            "sd_checkpoint_name": None,
        }
    if dialect == "emb_params":
        return {"emb_params": rows}
    if dialect == "diffusers":
        return {"<mara>": rows[0]}
    if dialect == "sdxl":
        return {"clip_l": rows, "clip_g": random(generator, vectors, 1280)}
    raise ValueError(dialect)


def pivotal_order(base=8, context=12, feed_forward=True):
    """[(diffusers path, (out, in))] as cloneofsimo's program numbered them: down blocks, up blocks, the middle last."""
    sizes = attention_linears(base, context)
    blocks = sorted(SD15_BLOCKS, key=lambda block: ("down", "up_b", "mid_").index(block[:4]))
    found = []
    for block in blocks:
        for attention in ("attn1", "attn2"):
            prefix = f"{block}.transformer_blocks.0"
            paths = [f"{prefix}.{attention}.{slot}" for slot in ("to_q", "to_k", "to_v", "to_out.0")]
            found += [(path, sizes[path]) for path in paths]
            if attention == "attn1" and feed_forward:
                width = sizes[paths[0]][0]
                found.append((f"{prefix}.ff.net.0.proj", (8 * width, width)))
    return found


def pivotal(base=8, context=12, feed_forward=True, rank=1, seed=5):
    """`unet:N:up|down`, `text_encoder:N:up|down`, and two words of one vector each."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    linears = [shape for _, shape in pivotal_order(base, context, feed_forward)]
    for part, shapes in (("unet", linears), ("text_encoder", [(context, context)] * 4 * 12)):
        for number, (out, width) in enumerate(shapes):
            tensors[f"{part}:{number}:up"] = random(generator, out, rank)
            tensors[f"{part}:{number}:down"] = random(generator, rank, width)
    return tensors | {word: random(generator, context) for word in ("<s1>", "<s2>")}


def kohya_lora_with_bundle(width=768, seed=4):
    generator = torch.Generator().manual_seed(seed)
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    return {
        f"{key}.lora_up.weight": random(generator, 8, 2),
        f"{key}.lora_down.weight": random(generator, 2, width),
        f"{key}.alpha": torch.tensor(2.0),
        "bundle_emb.mara.string_to_param.*": random(generator, 2, width),
    }
