"""SDXL's second text encoder out of a single-file checkpoint, where queries, keys and values are one matrix."""

import torch
from mos_pack.mixofshow_core.formats import read_any
from mos_pack.mixofshow_core.formats.checkpoint import CheckpointWeights
from safetensors.torch import save_file

SINGLE = "conditioner.embedders.1.model.transformer.resblocks.0."
LAYER = "text_encoders.clip_g.transformer.text_model.encoder.layers.0."
TOKENS = "text_model.embeddings.token_embedding.weight"


def test_the_fused_matrix_is_cut_into_its_layers(tmp_path):
    whole = torch.randn(12, 4)
    parts = {
        "mlp.c_fc.weight": torch.randn(16, 4),
        "attn.out_proj.weight": torch.randn(4, 4),
        "attn.in_proj_weight": whole,
        "attn.in_proj_bias": torch.randn(12),
    }
    save_file({SINGLE + key: value for key, value in parts.items()}, tmp_path / "base.safetensors")
    base = CheckpointWeights(tmp_path / "base.safetensors")
    cut = [f"self_attn.{name}_proj" for name in "qkv"]
    biases = [f"{name}.bias" for name in cut]
    assert set(base) == {LAYER + name for name in (*cut, *biases, "self_attn.out_proj", "mlp.fc1")}
    for third, name in enumerate(cut):
        rows = slice(4 * third, 4 * third + 4)
        assert torch.equal(base[LAYER + name], whole[rows])
        assert torch.equal(base[f"{LAYER}{name}.bias"], parts["attn.in_proj_bias"][rows])
    assert torch.equal(base[f"{LAYER}mlp.fc1"], parts["mlp.c_fc.weight"])


def test_a_fused_folder_with_two_text_encoders(tmp_path):
    """Deltas of both encoders, and word rows of both widths, against a base given by layer name."""
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    unet, text, tables = {key: torch.ones(8, 20)}, {}, {"text_encoder": 8, "text_encoder_2": 12}
    base = {"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k": torch.zeros(8, 20)}
    for (part, width), encoder in zip(tables.items(), ("clip_l", "clip_g"), strict=True):
        name = "text_model.encoder.layers.0.self_attn.q_proj"
        text[part] = {f"{name}.weight": torch.ones(width, width), TOKENS: torch.randn(6, width)}
        base[f"text_encoders.{encoder}.transformer.{name}"] = torch.full((width, width), 0.5)
        (tmp_path / part).mkdir()
        save_file(text[part], tmp_path / part / "model.safetensors")
    (tmp_path / "unet").mkdir()
    save_file(unet, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "new_concept_cfg.json").write_text('{"<lea-1>": {"concept_token_ids": [5]}}')
    concept = read_any(tmp_path, base).concept
    assert set(concept.deltas) == set(base)
    assert all(bool((delta.diff > 0.4).all()) for delta in concept.deltas.values())
    rows = concept.entries[0].embeddings[0].rows
    assert set(rows) == {"clip_l", "clip_g"}
    assert torch.equal(rows["clip_l"][0], text["text_encoder"][TOKENS][5])
    assert torch.equal(rows["clip_g"][0], text["text_encoder_2"][TOKENS][5])
