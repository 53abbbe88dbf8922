"""What a base's file says of its latents, and weights that move to other latents."""

import torch
from mos_pack.nodes.bridge.demo import small_base
from mos_pack.nodes.bridge.demo.small_autoencoder import SmallAutoencoder
from mos_tests.host.demo.test_demo_model import sample
from mos_world.training import base, carry, latents
from mos_world.training.export import net_tensors, vae_tensors
from safetensors.torch import save_file

CHANNELS = 20  # not those of the shipped bases


def test_a_file_says_how_many_channels_its_latents_have(tmp_path):
    torch.manual_seed(0)
    ids = torch.cat([latents.tokenize(["a cat", ""]).flatten(), torch.arange(300, 310)]).unique()
    net = base.Net(ids, CHANNELS).requires_grad_(False)
    vae = SmallAutoencoder(CHANNELS)
    stats = {"mean": torch.zeros(CHANNELS), "std": torch.ones(CHANNELS)}
    stats |= {"rgb": torch.zeros(CHANNELS, 3), "rgb_bias": torch.zeros(3)}
    tensors = net_tensors(net, ids) | vae_tensors(vae)
    path = tmp_path / "base.safetensors"
    save_file({k: v.contiguous() for k, v in (tensors | {f"latent.{k}": v for k, v in stats.items()}).items()}, path)
    with torch.inference_mode():
        model, clip, loaded = small_base.load_small_base(path)
    pixels = torch.rand(1, 64, 128, 3)
    assert loaded.encode(pixels).shape == (1, CHANNELS, 8, 16) and model.model.latent_format.latent_channels == CHANNELS
    wanted = vae.decode(torch.ones(1, CHANNELS, 8, 8)).clamp(-1, 1).add(1).div(2).movedim(1, -1)
    assert (loaded.decode(torch.ones(1, CHANNELS, 8, 8)) - wanted).abs().max() < 0.02
    picture = sample(model, clip, loaded, "a cat", 64, 64)
    assert picture.shape == (1, 64, 64, 3) and torch.isfinite(picture).all()


def test_a_base_that_changes_its_latents_does_what_it_did():
    """New latents that hold the old ones and more: the same answer, in the new ones."""
    torch.manual_seed(0)
    old, new = 4, 6
    change = torch.linalg.qr(torch.randn(new, new))[0][:old]
    weights = {carry.ENTRANCE: torch.randn(8, old, 3, 3), f"{carry.EXIT}.weight": torch.randn(old, 8, 3, 3)}
    weights[f"{carry.EXIT}.bias"] = torch.randn(old)
    z = torch.randn(50, new, 5, 5)
    older = torch.einsum("cd,ndhw->nchw", change, z)
    assert torch.allclose(carry.fit_map(z, older), change, atol=1e-4)

    def run(weights, x):
        h = torch.nn.functional.conv2d(x, weights[carry.ENTRANCE], padding=1).relu()
        return torch.nn.functional.conv2d(h, weights[f"{carry.EXIT}.weight"], weights[f"{carry.EXIT}.bias"], padding=1)

    wanted, found = run(weights, older), run(carry.change_latents(weights, change), z)
    assert torch.allclose(torch.einsum("cd,ndhw->nchw", change, found), wanted, atol=1e-3)
