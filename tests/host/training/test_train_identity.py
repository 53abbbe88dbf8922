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
from mos_pack.nodes.bridge.host.model import family, net_of
from mos_pack.nodes.bridge.placing.place import place
from mos_pack.nodes.bridge.training import run as training_run
from mos_pack.nodes.bridge.training import samples
from mos_pack.nodes.bridge.training.denoiser import prediction_of
from mos_tests.host.placing.test_routing import regions, sample
from mos_tests.host.tiny import TinyBase
from mos_tests.host.training.test_train import ask, lean_base, opened
from safetensors.torch import load_file

# What ModelSamplingDiscrete is set to: prediction, zsnr. The first is the small base's own.
CHOICES = (("v_prediction", False), ("v_prediction", True), ("eps", False), ("eps", True))
STRANGE = "training knows eps and v"


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


def test_prediction_is_what_sampling_would_use(tiny_sd15):
    plain = family(tiny_sd15.model)
    assert prediction_of(tiny_sd15.model) == "eps" and not plain.endswith("-v")
    swapped = sampled(tiny_sd15, "v_prediction")
    assert prediction_of(swapped) == "v" and family(swapped) == plain + "-v"
    for kind in ("x0", "lcm", "img_to_img"):
        with pytest.raises(MixOfShowError, match=STRANGE):
            prediction_of(sampled(tiny_sd15, kind))
    assert prediction_of(sampled(tiny_sd15, "eps")) == "eps"  # the remedy that the message names


def test_a_continuous_schedule_is_taken_as_it_is_and_edm_is_refused_by_name(tiny_sd15):
    """`sigma_data` other than 1 scales what the net is shown and says; Playground v2.5 is such a model."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    patch = functools.partial(ModelSamplingContinuousEDM().patch, tiny_sd15.model, sigma_max=120.0, sigma_min=0.002)
    assert prediction_of(patch(sampling="v_prediction")[0]) == "v" and prediction_of(patch(sampling="eps")[0]) == "eps"
    for kind in ("edm", "edm_playground_v2.5"):
        with pytest.raises(MixOfShowError, match=f"predicts EDM; {STRANGE}"):
            prediction_of(patch(sampling=kind)[0])
    odd = patch(sampling="v_prediction")[0]
    odd.get_model_object("model_sampling").sigma_data = 0.5  # as no node of the host does, but a pack may
    with pytest.raises(MixOfShowError, match="sigma_data 0.5; training knows 1"):
        prediction_of(odd)


@pytest.mark.parametrize(("kind", "zsnr"), CHOICES)
def test_the_loss_asks_for_what_sampling_would_make_of_the_output(lean, kind, zsnr):
    """At every timestep: the net is shown what the sampler shows it, and a perfect output is the picture itself."""
    base = behind(lean, kind, zsnr)
    theirs = base.model.get_model_object("model_sampling")
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(1000, 4, 2, 2, generator=generator) for _ in range(2))
    steps = torch.arange(1000)
    with opened(base) as (host, *_):
        schedule, sigma = host.schedule, theirs.sigmas.view(-1, 1, 1, 1)
        assert torch.equal(schedule.sigmas, theirs.sigmas.float())
        shown = theirs.calculate_input(theirs.sigmas, x0 + sigma * noise)
        torch.testing.assert_close(schedule.noisy(x0, noise, steps), shown, rtol=1e-5, atol=1e-5)
        wanted = schedule.target(x0, noise, steps)
        told = theirs.calculate_denoised(theirs.sigmas, wanted, x0 + sigma * noise)
        output = torch.randn(x0.shape, generator=generator)
        painted = theirs.calculate_denoised(theirs.sigmas, output, x0 + sigma * noise)
        torch.testing.assert_close(schedule.clean(shown, output, steps), painted, rtol=1e-3, atol=1e-3)  # live preview
        # The last steps of zsnr go up to sigma 4500: there the picture is a difference of numbers as large.
        rows = steps[theirs.sigmas < 200]
        torch.testing.assert_close(told[rows], x0[rows], rtol=1e-3, atol=2e-4)
        assert len(rows) > 980


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
