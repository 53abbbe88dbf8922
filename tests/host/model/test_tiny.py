"""The tiny bases are real enough: layer counts, shapes, one stock sampling step."""

import pytest
import torch


@pytest.mark.parametrize("family, layers", [("sd15", 16), ("sdxl", 70)])
def test_tiny_base_samples_with_the_stock_sampler(family, layers, request):
    import comfy.sample

    base = request.getfixturevalue(f"tiny_{family}")
    network = base.model.model.diffusion_model
    attention = [name for name, _ in network.named_modules() if name.endswith(".attn2")]
    assert len(attention) == layers

    positive = base.clip.encode_from_tokens_scheduled(base.clip.tokenize("a cat on a red field"))
    negative = base.clip.encode_from_tokens_scheduled(base.clip.tokenize(""))
    noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 0)
    latent = comfy.sample.sample(
        base.model, noise, 1, 2.0, "euler", "normal", positive, negative, torch.zeros(1, 4, 8, 8), seed=0
    )
    picture = base.vae.decode(latent)
    assert picture.shape == (1, 64, 64, 3)
    assert torch.isfinite(picture).all()
    assert base.vae.encode(picture).shape == (1, 4, 8, 8)
