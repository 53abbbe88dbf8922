"""The scenery add-on that ships: the host's own loader reads it, and a subject gets something behind it."""

import comfy.sample
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.demo.scenery import load_small_base_with_scenery
from mos_pack.nodes.bridge.demo.small_base import load_small_base
from mos_pack.nodes.bridge.placing.place import place
from mos_pack.nodes.demo_model import MixOfShowDemoModel
from safetensors.torch import save_file


def corners(load, prompt, count=6, steps=8):
    """How much the upper corners of pictures vary inside: deviation per picture, mean over colours."""
    model, clip, vae = load()
    model, positive, negative = place(model, clip, prompt, "", None)
    latent = torch.zeros(count, 16, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 5)
    with torch.inference_mode():
        made = comfy.sample.sample(
            model, noise, steps, 3.0, "dpmpp_2m", "normal", positive, negative, latent, seed=5, disable_pbar=True
        )
        pictures = vae.decode(made)[..., :3].clamp(0, 1).float()
    both = torch.cat([pictures[:, :24, :10], pictures[:, :24, -10:]], 2).flatten(1, 2)
    return both.std(1).mean(1)


def test_a_background_is_more_than_a_colour_and_a_colour_stays_one():
    prompt = "a person with short black hair, wearing a red shirt"
    plain = corners(load_small_base, f"{prompt}, green background").mean()
    scenery = corners(load_small_base_with_scenery, f"{prompt} in a background").mean()
    flat = corners(load_small_base_with_scenery, f"{prompt}, green background").median()
    assert scenery > 2 * plain, (scenery, plain)
    assert flat < 0.7 * scenery, (flat, scenery)


def test_demo_model_offers_it():
    model, *_ = MixOfShowDemoModel.execute("SD1.5 kind with scenery").result
    assert len(model.patches) > 100
    assert not MixOfShowDemoModel.execute("SD1.5 kind").result[0].patches


def test_a_missing_and_a_strange_file_are_named(tmp_path):
    with pytest.raises(MixOfShowError, match="gone.safetensors cannot be read: .* Reinstall"):
        load_small_base_with_scenery(tmp_path / "gone.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08")
    with pytest.raises(MixOfShowError, match="torn.safetensors cannot be read"):
        load_small_base_with_scenery(tmp_path / "torn.safetensors")
    save_file({"lora_unet_elsewhere.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(MixOfShowError, match="does not fit the small base: 0 of 1 layers"):
        load_small_base_with_scenery(tmp_path / "other.safetensors")
