"""Today's diffusers and PEFT names, as kohya's."""

import pytest
import torch
from mos_pack.mixofshow_core.formats.diffusers_names import configs_in, peft_alphas, to_kohya_name, to_kohya_names

BLOCK = "down_blocks.0.attentions.1.transformer_blocks.0.attn1"
UNET = "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1"
TEXT = "text_model_encoder_layers_3_self_attn_k_proj"


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        (f"unet.{BLOCK}.to_k.lora.down.weight", f"{UNET}_to_k.lora.down.weight"),
        (f"unet.{BLOCK}.to_out.0.lora_A.weight", f"{UNET}_to_out_0.lora_A.weight"),
        (f"base_model.model.{BLOCK}.to_k.lora_B.default.weight", f"{UNET}_to_k.lora_B.weight"),
        (f"base_model.model.{BLOCK}.to_k.lokr_w1", f"{UNET}_to_k.lokr_w1"),
        (f"unet.base_model.model.{BLOCK}.to_k.lora_A.weight", f"{UNET}_to_k.lora_A.weight"),
        (f"base_model.model.{BLOCK}.to_k.lora_A.my-adapter.weight", f"{UNET}_to_k.lora_A.weight"),
        (f"unet.{BLOCK}.to_k.alpha", f"{UNET}_to_k.alpha"),
        ("unet.mid_block.resnets.0.conv1.lora_A.weight", "lora_unet_mid_block_resnets_0_conv1.lora_A.weight"),
        ("text_encoder.encoder.layers.3.self_attn.k_proj.lora_A.weight", f"lora_te1_{TEXT}.lora_A.weight"),
        (
            "text_encoder.text_model.encoder.layers.3.self_attn.k_proj.lora_linear_layer.up.weight",
            f"lora_te1_{TEXT}.lora_linear_layer.up.weight",
        ),
        ("text_encoder_2.encoder.layers.3.self_attn.k_proj.lora_B.weight", f"lora_te2_{TEXT}.lora_B.weight"),
        (
            "base_model.model.text_model.encoder.layers.3.self_attn.k_proj.lora_A.weight",
            f"lora_te1_{TEXT}.lora_A.weight",
        ),
        ("text_encoder_2.text_projection.lora_A.weight", "lora_te2_text_projection.lora_A.weight"),
        ("text_encoder.text_model.final_layer_norm.diff_b", "lora_te1_text_model_final_layer_norm.diff_b"),
    ],
)
def test_names_of_today_become_kohyas(key, wanted):
    assert to_kohya_name(key) == wanted


@pytest.mark.parametrize(
    "key",
    [
        f"unet.{BLOCK}.processor.to_k_lora.down.weight",  # the spelling of 2023: the host knows it
        f"{UNET}_to_k.lora_down.weight",
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_k.lora_A.weight",
        "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight",
        "unet.down_blocks.0.weight",
        "",
    ],
)
def test_other_names_stay(key):
    assert to_kohya_name(key) == key


def test_what_stands_twice_counts_once_unless_it_differs():
    one, two = (
        "base_model.model.text_model.encoder.layers.3.self_attn.k_proj.lora_A.weight",
        ("base_model.model.encoder.layers.3.self_attn.k_proj.lora_A.weight"),
    )
    same = to_kohya_names({one: torch.ones(2, 2), two: torch.ones(2, 2)})
    assert same == {f"lora_te1_{TEXT}.lora_A.weight": one}  # the name in the file is kept
    assert list(to_kohya_names({one: torch.ones(2, 2)}, second=True)) == [f"lora_te2_{TEXT}.lora_A.weight"]
    assert list(to_kohya_names({one: torch.ones(2, 2), two: torch.zeros(2, 2)})) == [*same, two]


def test_alpha_comes_from_the_config_beside_a_peft_file():
    key, other = f"base_model.model.{BLOCK}.to_k.lora_A.weight", f"base_model.model.{BLOCK}.to_v.lora_A.weight"
    ranks = {f"{UNET}_to_k": 4, f"{UNET}_to_v": 4}
    config = {"lora_alpha": 8, "alpha_pattern": {"attn1.to_v": 2}}
    named = to_kohya_names({key: torch.ones(4, 2), other: torch.ones(4, 2)})
    assert {k: float(v) for k, v in peft_alphas(config, named, ranks).items()} == {
        f"{UNET}_to_k.alpha": 8,
        f"{UNET}_to_v.alpha": 2,
    }
    assert float(peft_alphas({"lora_alpha": 8, "use_rslora": True}, named, ranks)[f"{UNET}_to_k.alpha"]) == 16
    odd_ones = [{}, *({"lora_alpha": value} for value in ("8", float("nan"), 10**400, True))]
    for odd in (*odd_ones, {"lora_alpha": 1, "alpha_pattern": 3}):
        assert len(peft_alphas(odd, named, ranks)) == 2 * ("alpha_pattern" in odd)


def test_alpha_comes_from_the_header_of_a_diffusers_file():
    header = {"lora_adapter_metadata": '{"unet.lora_alpha": 8, "unet.r": 4, "text_encoder.lora_alpha": 2}'}
    assert configs_in(header) == {"unet": {"lora_alpha": 8, "r": 4}, "text_encoder": {"lora_alpha": 2}}
    for odd in ("{", "[]", "3", '{"unet": 5}', "[" * 5000):
        assert configs_in({"lora_adapter_metadata": odd}) in ({}, {"unet": {"": 5}})
