"""The shipped base A has seen more than flat colours: told so, it puts something behind a subject."""

import comfy.sample
import torch
from mos_pack.nodes.bridge.demo.small_base import LATENT_CHANNELS, load_small_base
from mos_pack.nodes.bridge.placing.place import place


def corners(prompt, count=6, steps=8):
    """How much the upper corners of pictures vary inside: deviation per picture, mean over colours."""
    model, clip, vae = load_small_base()
    model, positive, negative = place(model, clip, prompt, "", None)
    latent = torch.zeros(count, LATENT_CHANNELS, 8, 8)
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
    scenery = corners(f"{prompt} in a background").mean()
    flat = corners(f"{prompt}, green background").median()
    assert scenery > 2 * flat, (scenery, flat)
