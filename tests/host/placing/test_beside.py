"""Regions and routed concepts beside the host's samplers, schedulers, guiders and model patches, each by its own node.

One rule: a region that covers everything, with its concept routed, is that prompt with that concept in the model. For
patches also: the patch must show. docs/host-features.md counts what is here.
"""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras import (
    nodes_apg,
    nodes_attention_multiply,
    nodes_cfg,
    nodes_custom_sampler,
    nodes_eps,
    nodes_freelunch,
    nodes_fresca,
    nodes_mahiro,
    nodes_model_advanced,
    nodes_model_downscale,
    nodes_pag,
    nodes_sag,
    nodes_tcfg,
)
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.placing import test_routing as routing
from mos_tests.host.placing.test_regions import NEAR

QUICK = {
    "euler_ancestral",
    "dpmpp_2m_sde",
    "karras",
    "dual cfg",
    "RescaleCFG",
    "SAG",
    "Deep Shrink",
}  # the others: slow
SAMPLERS = ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "uni_pc", "lcm"]
SCHEDULERS = ["normal", "karras", "exponential", "sgm_uniform", "simple", "beta"]
GUIDERS = {
    "basic": lambda node, model, positive, negative: node.BasicGuider.execute(model, positive),
    "cfg": lambda node, model, positive, negative: node.CFGGuider.execute(model, positive, negative, 4.0),
    "dual cfg": lambda node, model, positive, negative: node.DualCFGGuider.execute(
        model, positive, negative, negative, 4.0, 2.0, "regular"
    ),
}
PATCHES = {
    "RescaleCFG": lambda model: nodes_model_advanced.RescaleCFG().patch(model, 0.7)[0],
    "ModelSamplingDiscrete": lambda model: nodes_model_advanced.ModelSamplingDiscrete().patch(model, "eps", True)[0],
    "ContinuousEDM": lambda model: nodes_model_advanced.ModelSamplingContinuousEDM().patch(model, "eps", 20.0, 0.02)[0],
    "APG": lambda model: nodes_apg.APG.execute(model, 0.5, 5.0, 0.0)[0],
    "CFGZeroStar": lambda model: nodes_cfg.CFGZeroStar.execute(model)[0],
    "CFGNorm": lambda model: nodes_cfg.CFGNorm.execute(model, 0.8)[0],
    "TCFG": lambda model: nodes_tcfg.TCFG.execute(model)[0],
    "Mahiro": lambda model: nodes_mahiro.Mahiro.execute(model)[0],
    "EpsilonScaling": lambda model: nodes_eps.EpsilonScaling.execute(model, 1.1)[0],
    "FreSca": lambda model: nodes_fresca.FreSca.execute(model, 1.0, 1.5, 2)[0],
    "FreeU": lambda model: nodes_freelunch.FreeU().patch(model, 1.2, 1.4, 0.9, 0.2)[0],
    "FreeU V2": lambda model: nodes_freelunch.FreeU_V2().patch(model, 1.3, 1.4, 0.9, 0.2)[0],
    "PAG": lambda model: nodes_pag.PerturbedAttentionGuidance.execute(model, 3.0)[0],
    "SAG": lambda model: nodes_sag.SelfAttentionGuidance.execute(model, 0.5, 2.0)[0],
    "Deep Shrink": lambda model: nodes_model_downscale.PatchModelAddDownscale.execute(
        model, 3, 2.0, 0.0, 0.9, True, "bicubic", "bicubic"
    )[0],
    "TemporalScoreRescaling": lambda model: nodes_eps.TemporalScoreRescaling.execute(model, 0.8, 0.5)[0],
}


# Of these, those that ask nothing of a UNet and show in a flow's picture; and the node that sets a flow's shift.
FLOW = {name: PATCHES[name] for name in ("APG", "CFGNorm", "TCFG", "EpsilonScaling", "FreSca")} | {
    "ModelSamplingSD3": lambda model: nodes_model_advanced.ModelSamplingSD3().patch(model, 2.0, 1.0)[0]
}


def made(base, use=None):
    """(concept in the model, concept routed into a region over everything), each (MODEL, positive, negative)."""
    use = use or routing.make_use(base, "mara", 1)
    wanted = routing.alone(base, use, "mara", "bad")
    placed = routing.regions({"prompt": "mara"})
    return wanted, MixOfShowPlace.one(base.model, base.clip, "a street", "bad", placed, [use]).result


@pytest.fixture(scope="module")
def pair(request):
    return made(request.getfixturevalue("tiny_sd15"))


@pytest.fixture(scope="module", params=("cosmos", "anima"))
def flow(request):
    base = request.getfixturevalue(f"tiny_{request.param}")
    return made(base, routing.community_use(base, "mara", 1))


def noise(model=None):
    frames = model is not None and model.model.latent_format.latent_dimensions == 3
    shape = (16, 1, routing.ROWS - 1) if frames else (4, routing.ROWS)
    return torch.randn(1, *shape, routing.COLUMNS, generator=torch.Generator().manual_seed(3))


def sample(placed, sampler="euler", scheduler="normal", steps=3):
    model, positive, negative = placed
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise(model),
            steps,
            4.0,
            sampler,
            scheduler,
            positive,
            negative,
            torch.zeros_like(noise(model)),
            seed=3,
            disable_pbar=True,
        )


def some(names):
    """All of them, those that are not QUICK marked slow."""
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("sampler", some(SAMPLERS))
def test_samplers(pair, sampler):
    wanted, found = (sample(placed, sampler) for placed in pair)
    assert routing.gap(found, wanted) < 10 * NEAR


@pytest.mark.parametrize("scheduler", some(SCHEDULERS))
def test_schedulers(pair, scheduler):
    wanted, found = (sample(placed, scheduler=scheduler) for placed in pair)
    assert routing.gap(found, wanted) < 10 * NEAR


@pytest.mark.parametrize("kind", some(GUIDERS))
def test_guiders(pair, kind):
    def run(model, positive, negative):
        guider = GUIDERS[kind](nodes_custom_sampler, model, positive, negative)[0]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
        euler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            return guider.sample(noise(), torch.zeros_like(noise()), euler, sigmas, disable_pbar=True, seed=3)

    wanted, found = (run(*placed) for placed in pair)
    assert routing.gap(found, wanted) < 10 * NEAR


@pytest.mark.parametrize("patch", some(PATCHES))
def test_model_patches(pair, patch):
    wanted, found = (sample((PATCHES[patch](placed[0]), *placed[1:])) for placed in pair)
    assert routing.gap(found, wanted) < 10 * NEAR
    assert routing.gap(sample(pair[0]), wanted) > 20 * NEAR, "the patch does nothing here"


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "er_sde"])
def test_samplers_of_a_flow(flow, sampler):
    wanted, found = (sample(placed, sampler) for placed in flow)
    assert routing.gap(found, wanted) < 10 * NEAR


@pytest.mark.parametrize("patch", FLOW)
def test_model_patches_of_a_flow(flow, patch):
    wanted, found = (sample((FLOW[patch](placed[0]), *placed[1:])) for placed in flow)
    assert routing.gap(found, wanted) < 10 * NEAR
    assert routing.gap(sample(flow[0]), wanted) > 20 * NEAR, "the patch does nothing here"


def test_weights_multiplied_before_place(tiny_sd15):
    """Behind Place such a node multiplies the base's weights, and not what is routed; before it, all is one order."""
    multiplied = nodes_attention_multiply.UNetSelfAttentionMultiply.execute(tiny_sd15.model, 1.0, 0.5, 1.0, 1.2)[0]
    wanted, found = made(type(tiny_sd15)(multiplied, tiny_sd15.clip, tiny_sd15.vae))
    assert routing.gap(sample(found), sample(wanted)) < 10 * NEAR
    assert routing.gap(sample(made(tiny_sd15)[0]), sample(wanted)) > 20 * NEAR
