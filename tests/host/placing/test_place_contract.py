"""Regions beside other features of the host, run with the host's own nodes.

One rule tests them all: a region that covers everything is that prompt, whatever else is switched on. And the feature
must show in the picture, or the test would say nothing. docs/host-features.md lists what is tested here.
"""

import comfy.hooks
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_freelunch, nodes_model_downscale, nodes_pag, nodes_perpneg, nodes_sag
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_pack.nodes.place import MixOfShowPlace
from mos_pack.nodes.region_tools import MixOfShowPickRegion
from mos_tests.host.placing import test_routing as routing
from mos_tests.host.placing.test_regions import NEAR, Case, gap, rect, tiled

NEVER_ENOUGH = 1e30  # bytes: a host that thinks so runs positive and negative apart


@pytest.fixture
def sd15(tiny_sd15):
    return Case("sd15", tiny_sd15.model)


@pytest.fixture(params=("sd15", "cosmos", "anima"))
def kind(request):
    """A UNet, and nets that predict flow and know time."""
    return Case(request.param, request.getfixturevalue(f"tiny_{request.param}").model)


def full(case, **more):
    """Base prompt A, one region over everything with prompt B."""
    return case.cond(case.a, texts=[case.b], placed=case.map(rect()), **more)


def freeu(model):
    return nodes_freelunch.FreeU().patch(model, 1.2, 1.4, 0.9, 0.2)[0]


def freeu_v2(model):
    return nodes_freelunch.FreeU_V2().patch(model, 1.3, 1.4, 0.9, 0.2)[0]


def perturbed_attention(model):
    return nodes_pag.PerturbedAttentionGuidance.execute(model, 3.0).result[0]


def self_attention_guidance(model):
    return nodes_sag.SelfAttentionGuidance.execute(model, 0.5, 2.0).result[0]


def deep_shrink(model):
    chosen = nodes_model_downscale.PatchModelAddDownscale
    return chosen.execute(model, 3, 2.0, 0.0, 0.9, True, "bicubic", "bicubic").result[0]


def self_attention_patch(model):
    model = model.clone()
    model.set_model_attn1_patch(lambda q, k, v, options: (q, k * 0.5, v))
    return model


def output_patch(model):
    model = model.clone()
    model.set_model_attn2_output_patch(lambda out, options: out * 1.1)
    return model


FEATURES = (
    freeu,
    freeu_v2,
    perturbed_attention,
    self_attention_guidance,
    deep_shrink,
    self_attention_patch,
    output_patch,
)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.__name__)
def test_regions_beside_a_model_patch(sd15, feature):
    wanted = sd15.sample(feature(sd15.model), sd15.cond(sd15.b))
    assert gap(sd15.sample(feature(sd15.patched), full(sd15)), wanted) < 4 * NEAR
    assert gap(sd15.sample(sd15.model, sd15.cond(sd15.b)), wanted) > 20 * NEAR


def test_positive_and_negative_in_separate_passes(kind, monkeypatch):
    """A host short of memory runs them one after the other: the same picture."""
    half = kind.cond(kind.a, texts=[kind.b], placed=kind.map(rect(width=0.4)))
    negative = kind.cond(kind.n, texts=[kind.c], placed=kind.map(rect(x=0.5, width=0.5)))
    together = kind.sample(kind.patched, half, negative, batch=2)
    sizes = []
    hook = kind.model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(kind.model.model, "memory_required", lambda *args, **kwargs: NEVER_ENOUGH)
    try:
        apart = kind.sample(kind.patched, half, negative, batch=2)
    finally:
        hook.remove()
    assert set(sizes) == {2} and len(sizes) == 4
    assert gap(apart, together) < NEAR


def test_without_guidance_only_the_positive_runs(kind):
    half = kind.cond(kind.a, texts=[kind.b], placed=kind.map(rect()))
    negative = kind.cond(kind.n, texts=[kind.c], placed=kind.map(rect()))
    wanted = kind.sample(kind.model, kind.cond(kind.b), cfg=1.0)
    assert gap(kind.sample(kind.patched, half, negative, cfg=1.0), wanted) < NEAR


def test_a_hook_lora(kind):
    """The host's weight hooks change weights between passes; projected texts must not outlive them."""
    generator = torch.Generator().manual_seed(6)
    lora = {}
    for name, module in kind.model.model.diffusion_model.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v", "attn1.to_q", "cross_attn.v_proj", "self_attn.q_proj")):
            out, width = module.weight.shape
            key = "lora_unet_" + name.replace(".", "_")
            lora[f"{key}.lora_up.weight"] = torch.randn(out, 2, generator=generator) * 0.3
            lora[f"{key}.lora_down.weight"] = torch.randn(2, width, generator=generator) / width**0.5

    def hooked(conditioning):
        hooks = comfy.hooks.create_hook_lora(dict(lora), 1.0, 0.0)
        return comfy.hooks.set_hooks_for_conditioning(conditioning, hooks)

    def prepared(model):
        known = {
            "lora_unet_" + name.replace(".", "_"): f"diffusion_model.{name}.weight"
            for name, _ in model.model.diffusion_model.named_modules()
        }
        assert all(key.rsplit(".", 2)[0] in known for key in lora)
        return model

    wanted = kind.sample(prepared(kind.model), hooked(kind.cond(kind.b)))
    found = kind.sample(prepared(kind.patched), hooked(full(kind)))
    assert gap(found, wanted) < NEAR
    assert gap(kind.sample(kind.model, kind.cond(kind.b)), wanted) > 20 * NEAR


def test_perp_neg_runs_three_conditionings_at_once(kind):
    def run(model, positive):
        guider = nodes_perpneg.PerpNegGuider.execute(
            model, positive, kind.cond(kind.n), kind.cond(kind.c), 5.0, 1.0
        ).result[0]
        noise = torch.randn(1, *kind.shape, kind.rows, kind.columns, generator=torch.Generator().manual_seed(1))
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
        euler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=1)

    wanted = run(kind.model, kind.cond(kind.b))
    assert gap(run(kind.patched, full(kind)), wanted) < NEAR


def test_a_second_pass_at_another_size(kind):
    """Hires fix: the same conditioning and MODEL, a larger latent, less noise."""

    def run(model, positive):
        first = kind.sample(model, positive)
        large = torch.nn.functional.interpolate(first.flatten(1, -3), size=(14, 18), mode="bilinear")
        large = large.unflatten(1, kind.shape)
        noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            return comfy.sample.sample(
                model,
                noise,
                2,
                5.0,
                "euler",
                "normal",
                positive,
                kind.cond(kind.n),
                large,
                denoise=0.5,
                seed=2,
                disable_pbar=True,
            )

    assert gap(run(kind.patched, full(kind)), run(kind.model, kind.cond(kind.b))) < 2 * NEAR


def test_sampling_in_two_parts(kind):
    """KSampler (Advanced): the schedule of a region counts the whole schedule, not the part."""
    placed = kind.map(rect(width=0.5, end=0.5), rect(x=0.5, width=0.5, start=0.5))
    positive = kind.cond(kind.a, texts=[kind.b, kind.c], placed=placed)

    def run(latent, noise, start, last, finish):
        with torch.inference_mode():
            return comfy.sample.sample(
                kind.patched,
                noise,
                4,
                5.0,
                "euler",
                "normal",
                positive,
                kind.cond(kind.n),
                latent,
                start_step=start,
                last_step=last,
                force_full_denoise=finish,
                disable_noise=start > 0,
                seed=1,
                disable_pbar=True,
            )

    noise = torch.randn(1, *kind.shape, kind.rows, kind.columns, generator=torch.Generator().manual_seed(1))
    whole = run(torch.zeros_like(noise), noise, 0, 4, True)
    middle = run(torch.zeros_like(noise), noise, 0, 2, False)
    assert gap(run(middle, torch.zeros_like(noise), 2, 4, True), whole) < NEAR


@pytest.mark.parametrize("more", [{"start_percent": 0.0, "end_percent": 0.5}, {"strength": 0.5}], ids=("time", "share"))
def test_combined_conditionings(kind, more):
    plain = [*kind.cond(kind.b, **more), *kind.cond(kind.c)]
    wanted = kind.sample(kind.model, plain, steps=4)
    assert gap(kind.sample(kind.patched, [*full(kind, **more), *kind.cond(kind.c)], steps=4), wanted) < 2 * NEAR


class TestRouted:
    """The same rule for unfused concepts: a concept that covers everything is the concept patched into the model."""

    @pytest.fixture
    def use(self, tiny_sd15):
        return routing.make_use(tiny_sd15, "mara", 1)

    def both(self, base, use):
        wanted = routing.alone(base, use, "mara", "bad")
        placed = routing.regions({"prompt": "mara"})
        found = MixOfShowPlace.one(base.model, base.clip, "a street", "bad", placed, [use]).result
        return wanted, found

    @pytest.mark.parametrize("feature", [freeu_v2, perturbed_attention, deep_shrink], ids=lambda f: f.__name__)
    def test_beside_a_model_patch(self, tiny_sd15, use, feature):
        wanted, found = self.both(tiny_sd15, use)
        wanted, found = (routing.sample((feature(placed[0]), *placed[1:])) for placed in (wanted, found))
        assert routing.gap(found, wanted) < 4 * NEAR

    def test_in_tiles_and_apart(self, tiny_sd15, use, monkeypatch):
        wanted, found = self.both(tiny_sd15, use)
        whole = routing.sample(found)
        monkeypatch.setattr(tiny_sd15.model.model, "memory_required", lambda *args, **kwargs: NEVER_ENOUGH)
        assert routing.gap(routing.sample(found), whole) < NEAR
        for placed in (wanted, found):
            placed[0].set_model_unet_function_wrapper(narrow_tiles)
        assert routing.gap(routing.sample(found), routing.sample(wanted)) < NEAR

    def test_on_top_of_a_lora_in_the_model(self, tiny_sd15, use):
        """What MODEL already carries is the base of everything."""
        other = routing.make_use(tiny_sd15, "tom", 7, text=False)
        model, _ = apply_deltas(tiny_sd15.model, None, other.concept.deltas, 0.5)
        base = type(tiny_sd15)(model, tiny_sd15.clip, tiny_sd15.vae)
        wanted, found = self.both(base, use)
        assert routing.gap(routing.sample(found), routing.sample(wanted)) < NEAR


def narrow_tiles(apply, args):
    """`tiled` for the 12 columns of the routing tests: pads to 13, cuts, and drops the padding again."""
    padded = dict(args, input=torch.nn.functional.pad(args["input"], (0, 1)), c=dict(args["c"]))
    for key, value in args["c"].items():
        if isinstance(value, torch.Tensor) and value.ndim == 4:
            padded["c"][key] = torch.cat([value, value[..., -1:]], -1)
    return tiled(apply, padded)[..., :-1]


class TestDetailPass:
    def test_a_crop_with_the_picked_region_is_that_prompt(self, tiny_sd15, caplog):
        """A crop of any proportions: no warning, and the region's text everywhere."""
        base = tiny_sd15
        placed = routing.regions(
            {"name": "hat", "prompt": "a red hat", "shape": routing.box(0.1, 0.3), "end": 0.5},
            {"prompt": "a dog", "shape": routing.box(0.5, 1)},
        )
        picked, mask, *box = MixOfShowPickRegion.execute(placed, "hat").result
        assert box == [8, 0, 24, 72], "0.1 to 0.3 of 96 pixels, outwards to whole cells"
        enlarged = torch.zeros(1, 108, 144, 3)
        assert MixOfShowPickRegion.execute(placed, "hat", enlarged).result[2:] == (8, 0, 40, 108)
        assert mask.shape == (1, 72, 96) and 0.1 < mask.mean() < 0.3
        with caplog.at_level("WARNING", logger="mixofshow"):
            found = square(MixOfShowPlace.one(base.model, base.clip, "a street", "bad", picked).result)
        assert not [record for record in caplog.records if record.name == "mixofshow"]
        wanted = square(MixOfShowPlace.one(base.model, base.clip, "a red hat", "bad").result)
        assert routing.gap(found, wanted) < NEAR

    def test_a_crop_with_all_regions_warns(self, tiny_sd15, caplog):
        placed = routing.regions({"prompt": "a red hat", "shape": routing.box(0.1, 0.3)})
        with caplog.at_level("WARNING", logger="mixofshow"):
            square(MixOfShowPlace.one(tiny_sd15.model, tiny_sd15.clip, "a street", "bad", placed).result)
        assert "squeezed to fit" in caplog.text and "Pick Region" in caplog.text


def square(placed):
    model, positive, negative = placed
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            1,
            4.0,
            "euler",
            "normal",
            positive,
            negative,
            torch.zeros_like(noise),
            seed=3,
            disable_pbar=True,
        )
