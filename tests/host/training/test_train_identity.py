"""What a run is taught, and what everything else paints with, is what sampling would use."""

import functools
from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.layers import ROLE_SPATIAL
from mos_pack.mixofshow_core.families.nets import layer_groups
from mos_pack.mixofshow_core.fusion.plan import preset
from mos_pack.nodes.bridge.fusing import calibration
from mos_pack.nodes.bridge.host.frames import as_frames
from mos_pack.nodes.bridge.host.model import family, net_of
from mos_pack.nodes.bridge.placing.place import place
from mos_pack.nodes.bridge.training import run as training_run
from mos_pack.nodes.bridge.training import samples
from mos_pack.nodes.bridge.training.rule import check_rule, schedule_of
from mos_tests.host.placing.test_routing import regions, sample
from mos_tests.host.tiny import TinyBase
from mos_tests.host.training.test_train import ask, lean_base, opened
from safetensors.torch import load_file

# What ModelSamplingDiscrete is set to: prediction, zsnr. The first is the small base's own.
CHOICES = (("v_prediction", False), ("v_prediction", True), ("eps", False), ("eps", True))
STRANGE = "training for the sd-64 family knows eps and v prediction"


def sampled(base, kind, zsnr=False):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(base.model.clone(), kind, zsnr)[0]


@pytest.fixture(scope="module")
def lean():
    with torch.inference_mode():
        base = lean_base()
    base.model.model.native_size = 64
    return base


def behind(base, kind, zsnr=False):
    """The base as it comes out of the host's ModelSamplingDiscrete."""
    return TinyBase(sampled(base, kind, zsnr), base.clip, base.vae)


def trained(base):
    """The tensors of a file."""
    with torch.inference_mode():  # as the executor runs nodes
        return load_file(training_run.run_training(ask(base, steps=2)).path)


def target_of(model):
    """What the loss asks for where x0 is 1 and the noise 0, and the other way round, at the middle step."""
    rule = schedule_of(model.get_model_object("model_sampling"))
    one, none, t = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([len(rule) // 2])
    return float(rule.target(one, none, t)), float(rule.target(none, one, t))


def test_prediction_is_what_sampling_would_use(tiny_sd15, tiny_cosmos):
    plain = family(tiny_sd15.model)
    assert target_of(tiny_sd15.model) == pytest.approx((0.0, 1.0)) and not plain.endswith("-v")
    swapped = sampled(tiny_sd15, "v_prediction")
    of_picture, of_noise = target_of(swapped)
    assert of_picture**2 + of_noise**2 == pytest.approx(1.0) and of_picture < 0 < of_noise
    assert family(swapped) == plain + "-v"
    assert target_of(tiny_cosmos.model) == pytest.approx((-1.0, 1.0))
    for kind in ("x0", "lcm", "img_to_img"):
        with pytest.raises(MixOfShowError, match=STRANGE):
            check_rule(sampled(tiny_sd15, kind))
    check_rule(tiny_sd15.model)  # the remedy that the message names
    check_rule(tiny_cosmos.model)
    with pytest.raises(
        MixOfShowError, match="predicts EPS; training for Anima or Cosmos-Predict2 knows flow prediction"
    ):
        check_rule(sampled(tiny_cosmos, "eps"))


def test_a_continuous_schedule_is_taken_as_it_is_and_edm_is_refused_by_name(tiny_sd15):
    """A file says nothing of EDM (Playground v2.5), so what was learned there would fit SDXL without a word."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    patch = functools.partial(ModelSamplingContinuousEDM().patch, tiny_sd15.model, sigma_max=120.0, sigma_min=0.002)
    for kind in ("v_prediction", "eps"):
        check_rule(patch(sampling=kind)[0])
    for kind in ("edm", "edm_playground_v2.5"):
        with pytest.raises(MixOfShowError, match=f"predicts EDM; {STRANGE}"):
            check_rule(patch(sampling=kind)[0])


def rules(base, cosmos):
    """Sampling objects of every kind that is trained on, by name; the last as no node of the host makes them."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingSD3

    found = {f"{kind} {zsnr}": behind(base, kind, zsnr).model for kind, zsnr in CHOICES}
    wide = functools.partial(ModelSamplingContinuousEDM().patch, sigma_max=120.0, sigma_min=0.002)
    found["continuous v"] = wide(base.model, sampling="v_prediction")[0]
    found["Cosmos-Predict2's flow"] = cosmos.model
    found["Anima's flow"] = ModelSamplingSD3().patch(cosmos.model, 3.0, multiplier=1.0)[0]
    found["latents half as wide"] = wide(base.model, sampling="v_prediction")[0]
    found = {name: model.get_model_object("model_sampling") for name, model in found.items()}
    found["latents half as wide"].sigma_data = 0.5
    return found


def test_the_loss_asks_for_what_sampling_would_make_of_the_output(lean, tiny_cosmos):
    """At every timestep: the net is shown what the sampler shows it, and a perfect output is the picture itself."""
    generator = torch.Generator().manual_seed(0)
    x0, noise, output = (torch.randn(1000, 4, 2, 2, generator=generator) for _ in range(3))
    steps = torch.arange(1000)
    for name, theirs in rules(lean, tiny_cosmos).items():
        rule, sigmas = schedule_of(theirs), theirs.sigmas
        assert len(rule) == len(sigmas) == 1000, name
        noised = theirs.noise_scaling(sigmas, noise.clone(), x0)
        shown = theirs.calculate_input(sigmas, noised)
        torch.testing.assert_close(rule.noisy(x0, noise, steps), shown, rtol=1e-5, atol=1e-5, msg=name)
        told = theirs.calculate_denoised(sigmas, rule.target(x0, noise, steps), noised)
        painted = theirs.calculate_denoised(sigmas, output, noised)
        torch.testing.assert_close(rule.clean(shown, output, steps), painted, rtol=1e-3, atol=1e-3, msg=name)  # preview
        # The last steps of zsnr go up to sigma 4500: there the picture is a difference of numbers as large.
        rows = steps[sigmas < 200]
        torch.testing.assert_close(told[rows], x0[rows], rtol=1e-3, atol=2e-4, msg=name)
        assert len(rows) > 980, name


@pytest.mark.parametrize("family", ["lean", "cosmos", "anima"])
def test_the_net_is_asked_as_sampling_asks_it(request, lean, family, monkeypatch):
    """Same picture, same step, same text: what training reads off the net is what the host's sampler reads off it."""
    base = lean if family == "lean" else request.getfixturevalue(f"tiny_{family}")
    monkeypatch.setattr(base.model.model, "native_size", 64, raising=False)
    with opened(base, preset="LoRA") as (host, trainables, samples, _), torch.no_grad():
        text = host.encode(["a photo of zorbo person"], trainables.vectors())
        x0, steps = samples[0].latents[:1].repeat(3, 1, 1, 1), torch.tensor([20, 500, 980])
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
        shown = host.schedule.noisy(x0, noise, steps)
        answer = host.predict(shown, steps, text, torch.zeros(3, dtype=torch.long))
        told = as_frames(host.model, host.schedule.clean(shown, answer, steps))
    theirs, sigmas = host.sampling, host.sigmas[steps]
    attached = trainables.attached(training_run.trained_modules(base.model, base.clip))
    with torch.inference_mode(), attached:  # the net as sampling runs it, with what newer hosts have no gradient for
        noised = theirs.noise_scaling(sigmas, *(as_frames(host.model, one.clone()) for one in (noise, x0)))
        painted = host.model.apply_model(noised, sigmas, c_crossattn=text.layers[0].expand(3, -1, -1))
    torch.testing.assert_close(told, painted, rtol=1e-3, atol=1e-3)


def test_training_behind_a_sampling_node_gives_a_file_of_its_own(lean):
    """The loss once came from the checkpoint: whatever stood before Train, the file was the same to the bit."""
    own, *others = (trained(behind(lean, *choice)) for choice in CHOICES)
    untouched = trained(lean)
    assert untouched.keys() == own.keys() and all(torch.equal(untouched[key], own[key]) for key in own)
    for n, found in enumerate(others):
        for other in (own, *others[:n]):
            assert any(not torch.equal(found[key], other[key]) for key in own)


@pytest.mark.parametrize("kind", ["v_prediction", "x0"])
def test_calibration_preview_and_place_sample_with_the_nodes_own_rule(tiny_sd15, kind, monkeypatch):
    """x0 cannot be trained on, but be fused, painted and routed on: each asks the object that the node has put in."""
    base, seen = behind(tiny_sd15, kind, True), []
    theirs = base.model.get_model_object("model_sampling")
    rule = type(theirs).calculate_denoised
    monkeypatch.setattr(type(theirs), "calculate_denoised", lambda self, *a: seen.append(self) or rule(self, *a))
    monkeypatch.setattr(samples, "STEPS", 1)
    monkeypatch.setattr(base.model.model, "native_size", 64, raising=False)
    plan = replace(preset("quick"), steps=1, width=64, height=64)
    groups = [group for group in layer_groups(net_of(base.model)) if group.role == ROLE_SPATIAL][:1]
    pair = base.model, base.clip
    ways = {
        "calibration": lambda: calibration.collect_spatial(*pair, groups, ["a cat"], plan, lambda sort: None),
        "preview": lambda: samples.sample_latents(*pair, "a cat", 0, 1),
        "place": lambda: sample(place(*pair, "a cat", "", regions({"prompt": "a dog"})), steps=1),
    }
    for way, paint in ways.items():
        seen.clear()
        with torch.inference_mode():
            paint()
        assert seen and all(used is theirs for used in seen), way
