"""The small base of Cosmos-Predict2's and Anima's kind: its recipe, its file, and the pack's whole way on it. Random
weights, true shapes, base A's text tower and autoencoder."""

import json

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.nets import cross_attention_layers
from mos_pack.nodes.bridge.demo import small_base, small_base_dit
from mos_pack.nodes.bridge.host import model as bridge_model
from mos_pack.nodes.fuse import MixOfShowFuse
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.builders import tiny_plan
from mos_tests.host.demo.test_demo_model import PROMPT, fill_zeros, ids_of_prompt, sample
from mos_tests.host.placing.test_place import regions
from mos_tests.host.tiny import TinyBase
from mos_world.training import base as recipe_a
from mos_world.training import base_c as recipe
from mos_world.training import latents
from mos_world.training.export import net_tensors
from safetensors.torch import save_file

CHANNELS = small_base.LATENT_CHANNELS


@pytest.fixture(scope="module")
def ids():
    return ids_of_prompt()


@pytest.fixture(scope="module")
def net(ids):
    torch.manual_seed(0)
    net = recipe.NetC(ids, CHANNELS)
    recipe.start_from(net, ids, small_base.WEIGHTS)
    fill_zeros(net.unet)
    return net


@pytest.fixture(scope="module")
def path(net, ids, tmp_path_factory):
    file = tmp_path_factory.mktemp("base") / "small_base_dit.safetensors"
    save_file({k: v.contiguous() for k, v in net_tensors(net, ids).items()}, file)
    return file


@pytest.fixture(scope="module")
def base(path):
    with torch.inference_mode():  # as the executor loads models
        return TinyBase(*small_base_dit.load_small_base_dit(path))


def shown(net, ids, steps):
    torch.manual_seed(1)
    x, noise = torch.randn(2, 2, CHANNELS, 8, 16)
    rows = torch.searchsorted(ids, latents.tokenize([PROMPT, ""]))
    return x, noise, rows, net.schedule.noisy(x, noise, steps)


def test_its_file_is_its_net_alone_and_small_enough_to_ship(path, net, ids):
    assert all(name.startswith("unet.") for name in net_tensors(net, ids)) and path.stat().st_size < 3.2e6


def test_the_recipe_asks_the_host_what_it_shows_and_what_an_answer_means(net, ids, base):
    """What the sampler makes of an answer of training's is the picture that the answer stands for."""
    steps = torch.tensor([300, 700])
    x, noise, rows, seen = shown(net, ids, steps)
    encoded = base.clip.encode_from_tokens(base.clip.tokenize(PROMPT), return_pooled=True)[0]
    context = torch.cat([encoded, base.clip.encode_from_tokens(base.clip.tokenize(""), return_pooled=True)[0]])
    assert (context - net.conditions(rows, 8, 16)["context"]).abs().max() < 0.02
    sampling = base.model.model.model_sampling
    sigmas = sampling.sigmas[steps]
    noisy = sampling.noise_scaling(sigmas, noise.unsqueeze(2), x.unsqueeze(2))
    with torch.inference_mode():
        found = base.model.model.apply_model(noisy, sigmas, c_crossattn=context).squeeze(2)
        wanted = net.schedule.clean(seen, net.answer(seen, steps, net.conditions(rows, 8, 16)), steps)
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    assert torch.allclose(net.schedule.clean(seen, net.schedule.target(x, noise, steps), steps), x, atol=1e-4)


def test_base_a_teaches_what_the_host_makes_of_it(net, ids):
    """Its picture in the same noise, by the host's sampling; beyond its own noisiest step, what is true."""
    steps = torch.tensor([300, 700])
    x, noise, rows, seen = shown(net, ids, steps)
    context = net.conditions(rows, 8, 16)["context"]
    sigmas = (net.schedule.noise / net.schedule.signal)[steps].float()
    with torch.inference_mode():
        model = small_base.load_small_base()[0].model
        wanted = model.apply_model(x + sigmas.view(-1, 1, 1, 1) * noise, sigmas, c_crossattn=context)
        found, left = net.teacher(seen.float(), x, noise, steps, context)
        shown_again = net.schedule.noisy(found, left, steps)
    assert (found - wanted).norm() < 0.02 * wanted.norm(), "base A's own steps are whole numbers"
    assert torch.allclose(shown_again, seen, atol=1e-4)
    last = torch.tensor([len(net.times) - 1] * 2)
    assert torch.equal(net.teacher(net.schedule.noisy(x, noise, last), x, noise, last, context)[0], x)


def test_the_recipe_learns_and_leaves_base_as_text_alone(ids):
    torch.manual_seed(0)
    net = recipe.NetC(ids, CHANNELS)
    recipe.start_from(net, ids, small_base.WEIGHTS)
    before = {name: tensor.clone() for name, tensor in net.text.state_dict().items()}
    parameters = recipe_a.trained(net)
    assert {id(p) for p in parameters} == {id(p) for p in net.unet.parameters()}
    optimiser = torch.optim.AdamW(parameters, lr=2e-3)
    x, losses = torch.randn(1, CHANNELS, 8, 8).expand(8, -1, -1, -1), []
    rows = torch.searchsorted(ids, latents.tokenize([PROMPT])).expand(8, -1)
    for _ in range(30):
        loss = recipe.loss_of(net, x, rows, None)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.text.state_dict().items())


def test_it_is_of_its_kind_and_paints_films_of_one_frame(base):
    info = bridge_model.describe_base(base.model)
    layers = cross_attention_layers(base.model.model.diffusion_model)
    assert info.family == "cosmos2" and info.layers == len(layers) == small_base_dit.NET["num_blocks"]
    assert bridge_model.native_size(base.model) == 64
    picture = sample(base.model, base.clip, base.vae, PROMPT, 128, 64)
    assert picture.shape == (1, 64, 128, 3) and torch.isfinite(picture).all()


def test_a_picture_survives_the_autoencoder_as_on_base_a(base):
    torch.manual_seed(0)
    pixels = torch.rand(1, 64, 128, 3)
    wanted = small_base.load_small_base()[2].encode(pixels)
    latent = base.vae.encode(pixels)
    assert latent.shape == (1, CHANNELS, 1, 8, 16) and torch.allclose(latent.squeeze(2), wanted, atol=1e-5)
    assert base.vae.decode(latent).shape == (1, 1, 64, 128, 3)
    fmt = base.model.model.latent_format
    assert torch.allclose(fmt.process_out(fmt.process_in(latent)), latent, atol=1e-5)


def test_train_fuse_and_place(base, monkeypatch):
    from mos_pack.nodes import fuse
    from mos_pack.nodes.train import MixOfShowTrain
    from mos_tests.host.training.test_train import pictures

    import nodes

    settings = {"batch": 2, "rank": 2, "preview_every": 0, "slots": 1, "variants": 2}
    uses = ()
    for seed, name in enumerate(("zorbo", "mimba")):
        uses, *_ = MixOfShowTrain.execute(
            base.model, base.clip, base.vae, pictures(name), "LoRA", "draft", 2, seed, name, settings, uses
        ).result
    assert all(use.concept.base.family == "cosmos2" and use.concept.deltas for use in uses)
    monkeypatch.setattr(fuse, "preset", lambda name: tiny_plan())
    model, clip, _, report, _ = MixOfShowFuse.execute(base.model, base.clip, uses, "exact", "quick").result
    assert "zorbo" in report and "mimba" in report
    placed = regions({"id": "left", "prompt": "zorbo"}, {"id": "right", "prompt": "mimba"})
    patched, positive, negative = MixOfShowPlace.one(model, clip, PROMPT, "", placed, None).result
    latent = nodes.EmptyLatentImage().generate(104, 72)[0]
    latent = nodes.KSampler().sample(patched, 1, 2, 3.0, "euler", "normal", positive, negative, latent)[0]
    assert torch.isfinite(latent["samples"]).all()


def test_a_file_of_another_net_is_refused_by_its_name(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"unet.x_embedder.proj.1.weight": torch.zeros(8, 25)}, file, metadata={"note": json.dumps({})})
    with pytest.raises(MixOfShowError, match="other.safetensors does not fit"):
        small_base_dit.load_small_base_dit(file)


def test_the_one_that_ships_paints_what_it_is_told():
    """A person, before the background that is named."""
    with torch.inference_mode():
        model, clip, vae = small_base_dit.load_small_base_dit()
    green, blue = (
        sample(model, clip, vae, f"a person with red hair, {colour} background", 64, 64, steps=12)[0]
        for colour in ("green", "blue")
    )
    corners = [picture[:8, :6].flatten(0, 1).median(0).values for picture in (green, blue)]
    assert corners[0].argmax() == 1 and corners[1].argmax() == 2
    assert (green[20:44, 20:44].std((0, 1)) > 0.1).all(), "somebody is there"
