"""The small base: built from the shipped weights, sampled by the host's own functions."""

import logging

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.nets import cross_attention_layers
from mos_pack.nodes.bridge.demo import small_base
from mos_world.training import latents

PROMPT = "a person with red hair on the left"


def ids_of_prompt() -> torch.Tensor:
    """Token ids of a small table of words: those of PROMPT and some more."""
    return torch.cat([latents.tokenize([PROMPT, ""]).flatten(), torch.arange(300, 340)]).unique()


def fill_zeros(net: torch.nn.Module) -> None:
    """Nothing may hide behind a weight that begins at zero."""
    for parameter in net.requires_grad_(False).parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)


@pytest.fixture(scope="module")
def base():
    return small_base.load_small_base()


def sample(model, clip, vae, prompt: str, width: int, height: int, steps: int = 2) -> torch.Tensor:
    """Stock nodes only: encode, empty latent, KSampler, decode. Returns pixels [1, H, W, 3]."""
    import nodes

    encode = nodes.CLIPTextEncode()
    positive, negative = encode.encode(clip, prompt)[0], encode.encode(clip, "")[0]
    latent = nodes.EmptyLatentImage().generate(width, height)[0]
    latent = nodes.KSampler().sample(model, 1, steps, 3.0, "euler", "normal", positive, negative, latent)[0]
    return nodes.VAEDecode().decode(vae, latent)[0]


def test_empty_latent_of_128_gives_a_picture_of_128(base) -> None:
    picture = sample(*base, "a person", 128, 128)
    assert picture.shape == (1, 128, 128, 3)
    assert torch.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1


def test_seven_cross_attention_layers(base) -> None:
    assert len(cross_attention_layers(base[0].model.diffusion_model)) == 7
    assert base[0].model.native_size == 64


def test_vae_keeps_flat_colour(base) -> None:
    colour = torch.tensor([0.40, 0.62, 0.90])
    pixels = colour.expand(1, 64, 128, 3).clone()
    latent = base[2].encode(pixels)
    assert latent.shape == (1, small_base.LATENT_CHANNELS, 8, 16)
    assert (base[2].decode(latent) - pixels).abs().mean() < 0.03


def test_latents_are_standardised_and_back(base) -> None:
    fmt = base[0].model.latent_format
    raw = torch.randn(2, small_base.LATENT_CHANNELS, 4, 4)
    assert torch.allclose(fmt.process_out(fmt.process_in(raw)), raw, atol=1e-5)
    assert fmt.std.min() > 0 and not torch.allclose(fmt.std, torch.ones_like(fmt.std))
    assert len(fmt.latent_rgb_factors) == small_base.LATENT_CHANNELS


def test_words_reach_the_picture(base) -> None:
    model, clip, _ = base
    words = [clip.encode_from_tokens(clip.tokenize(text)) for text in ("red background", "blue background")]
    assert words[0].shape == (1, 77, small_base.TEXT_WIDTH)
    assert (words[0] - words[1]).abs().max() > 0.05


def told(caplog) -> list[str]:
    """What was said of words; the host may say other things meanwhile."""
    return [record.message for record in caplog.records if "does not know" in record.message]


def test_unknown_words_warn_once(caplog) -> None:
    _, clip, _ = small_base.load_small_base()
    with caplog.at_level(logging.WARNING, logger="mixofshow"):
        clip.encode_from_tokens(clip.tokenize("a person, blue background"))
        assert not told(caplog)
        for _ in range(2):
            clip.encode_from_tokens(clip.tokenize("a zeppelin over Antananarivo"))
    assert len(told(caplog)) == 1


def test_survives_clone_and_stock_lora(base) -> None:
    import comfy.sd

    model, clip, _ = base
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
    weight = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_k.weight
    lora = {
        f"{key}.lora_up.weight": torch.randn(weight.shape[0], 2),
        f"{key}.lora_down.weight": torch.randn(2, weight.shape[1]),
    }
    patched, patched_clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
    assert f"{key}.weight" in patched.patches and not model.patches
    assert patched.model.native_size == 64
    assert len(patched_clip.tokenize("a person")["l"][0]) == 77


def test_a_cut_off_file_is_named(tmp_path) -> None:
    broken = tmp_path / "small_base.safetensors"
    broken.write_bytes(small_base.WEIGHTS.read_bytes()[:100_000])
    with pytest.raises(MixOfShowError, match="small_base.safetensors"):
        small_base.load_small_base(broken)
    with pytest.raises(MixOfShowError, match="missing"):
        small_base.load_small_base(tmp_path / "nothing.safetensors")
