"""Regional and layered sampling on tiny random models of both families, through the host's own sampler."""

import json

import comfy.sample
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.regional.raster import make_map
from mos_pack.mixofshow_core.regional.schema import parse_regions
from mos_pack.nodes.bridge.host.model import context_width
from mos_pack.nodes.bridge.placing.payload import KEY, Payload
from mos_pack.nodes.bridge.placing.wrappers import patch_model, with_payload

FAMILIES = ("sd15", "sdxl", "cosmos", "anima")
# Latent rows and columns, odd on purpose.
SIZE = {"sd15": (9, 13), "sd2": (9, 13), "sdxl": (8, 10), "cosmos": (8, 12), "anima": (9, 13)}
LAYERS = {"sd15": 16, "sdxl": 70, "cosmos": 3, "anima": 3}
NEAR = 5e-5  # float error after two sampling steps, relative


@pytest.fixture(params=FAMILIES)
def case(request):
    return Case(request.param, request.getfixturevalue(f"tiny_{request.param}").model)


@pytest.fixture(params=("sd15", "sd2", "cosmos", "anima"))
def each(request):
    """One of every kind of net."""
    return Case(request.param, request.getfixturevalue(f"tiny_{request.param}").model)


@pytest.fixture(params=("sd15", "cosmos", "anima"))
def kind(request):
    """A UNet, and nets that predict flow and know time."""
    return Case(request.param, request.getfixturevalue(f"tiny_{request.param}").model)


@pytest.fixture
def sd15(tiny_sd15):
    return Case("sd15", tiny_sd15.model)


class Case:
    """One tiny model with random texts A, B, C, negative N, and a sampler call."""

    def __init__(self, family, model):
        self.family, self.model, self.patched = family, model, patch_model(model)
        self.rows, self.columns = SIZE[family]
        width = context_width(model)
        generator = torch.Generator().manual_seed(5)
        self.a, self.b, self.c, self.n = (torch.randn(1, 77, width, generator=generator) for _ in range(4))
        pooled = 1280 if family == "sdxl" and width == 2048 else 64
        self.extras = {"pooled_output": torch.randn(1, pooled, generator=generator)}
        self.shape = (16, 1) if family in ("cosmos", "anima") else (4,)  # a latent's channels, and frames where it has
        self.ids = {}
        if family == "anima":  # what its adapter reads beside a text
            for text in (self.a, self.b, self.c, self.n):
                self.ids[id(text)] = {"t5xxl_ids": torch.randint(0, 32000, (9,), generator=generator)}
                self.ids[id(text)]["t5xxl_weights"] = torch.linspace(0.5, 1.5, 9)

    def map(self, *regions, **top):
        entries = [{"id": f"r{n}", **region} for n, region in enumerate(regions)]
        document = {"version": 1, "regions": entries, **top}
        return make_map(parse_regions(json.dumps(document), 8 * self.columns, 8 * self.rows))

    def cond(self, text, layers=None, texts=(), placed=None, **extras):
        payload = None
        own = self.ids.get(id(text), {})
        if layers is not None or texts:
            read = (own, *(self.ids[id(one)] for one in texts)) if own else ()
            payload = Payload(text.shape[1], layers, tuple(texts), placed, extras=read)
        return with_payload(text, {**self.extras, **own, **extras}, payload)

    def sample(self, model, positive, negative=None, batch=1, steps=2, cfg=5.0, sampler="euler", noise_mask=None):
        latent = torch.zeros(batch, *self.shape, self.rows, self.columns)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
        negative = negative or self.cond(self.n)
        with torch.inference_mode():
            return comfy.sample.sample(
                model,
                noise,
                steps,
                cfg,
                sampler,
                "normal",
                positive,
                negative,
                latent,
                seed=1,
                noise_mask=noise_mask,
                disable_pbar=True,
            )


def rect(x=0.0, y=0.0, width=1.0, height=1.0, **more):
    return {"shape": {"type": "rect", "x": x, "y": y, "width": width, "height": height}, **more}


def gap(one, other):
    """Largest difference, relative to the largest value."""
    assert torch.isfinite(one).all()
    return ((one - other).abs().max() / other.abs().max()).item()


def test_no_regions_is_vanilla_bit_for_bit(case):
    plain = case.sample(case.model, case.cond(case.a), batch=2)
    assert torch.equal(case.sample(case.patched, case.cond(case.a), batch=2), plain)


def test_full_region_is_that_prompt(case):
    plain = case.sample(case.model, case.cond(case.b), batch=2)
    full = case.cond(case.a, texts=[case.b], placed=case.map(rect()))
    assert gap(case.sample(case.patched, full, batch=2), plain) < NEAR
    assert gap(case.sample(case.model, case.cond(case.a), batch=2), plain) > 100 * NEAR


def test_full_region_with_the_same_prompt_changes_nothing(case):
    full = case.cond(case.a, texts=[case.a], placed=case.map(rect()))
    assert gap(case.sample(case.patched, full), case.sample(case.model, case.cond(case.a))) < NEAR


def test_constant_layers_are_the_plain_prompt(case):
    plain = case.sample(case.model, case.cond(case.b))
    text = case.b if case.ids else case.a  # Anima's adapter reads more than the text, which layers share
    constant = case.cond(text, layers=case.b.expand(LAYERS[case.family], -1, -1))
    assert gap(case.sample(case.patched, constant), plain) < NEAR


def test_every_layer_reads_its_own_context(sd15):
    plain = sd15.sample(sd15.patched, sd15.cond(sd15.a, layers=sd15.a.repeat(16, 1, 1)))
    for layer in (0, 6, 15):
        texts = sd15.a.repeat(16, 1, 1)
        texts[layer] = sd15.b[0]
        assert gap(sd15.sample(sd15.patched, sd15.cond(sd15.a, layers=texts)), plain) > NEAR


def test_layers_are_told_apart_from_their_neighbours(sd15):
    """Record the context that each attention module receives: layer k reads text k, in execution order."""
    from mos_pack.mixofshow_core.families.nets import cross_attention_layers

    layers = sd15.a.repeat(16, 1, 1)
    layers[:, 0, 0] = torch.arange(16.0)
    seen = []
    modules = [layer.module for layer in cross_attention_layers(sd15.model.model.diffusion_model)]
    hooks = [
        module.to_k.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0, 0].max().item()))
        for module in modules
    ]
    try:
        sd15.sample(sd15.patched, sd15.cond(torch.full_like(sd15.a, -9), layers=layers), steps=1, cfg=1.0)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == [float(n) for n in range(16)]


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_longer_layered_prompt_beside_short_negative(sd15, cfg, batch):
    plain = sd15.sample(sd15.model, sd15.cond(sd15.b), cfg=cfg, batch=batch)
    double = sd15.b.repeat(16, 2, 1)
    layered = sd15.cond(sd15.a.repeat(1, 2, 1), layers=double)
    assert gap(sd15.sample(sd15.patched, layered, cfg=cfg, batch=batch), plain) < NEAR


def test_cfg_rows_are_batched_together(each):
    """Payloads must not cost the host its joint pass of positive and negative."""
    sizes = []
    hook = each.model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        each.sample(each.patched, each.cond(each.a, texts=[each.b], placed=each.map(rect(width=0.5))), steps=1)
    finally:
        hook.remove()
    assert sizes == [2]


def test_negative_regions(case):
    placed = case.map(rect(), rect(width=0.5))
    plain = case.sample(case.model, case.cond(case.a), case.cond(case.c))
    region = case.cond(case.n, texts=[case.c, case.c], placed=placed)
    assert gap(case.sample(case.patched, case.cond(case.a), region), plain) < NEAR


def test_positive_and_negative_regions_in_one_pass(each):
    placed = each.map(rect())
    plain = each.sample(each.model, each.cond(each.b), each.cond(each.c), batch=2)
    positive = each.cond(each.a, texts=[each.b], placed=placed)
    negative = each.cond(each.n, texts=[each.c if each.ids else each.c.repeat(1, 2, 1)], placed=placed)
    assert gap(each.sample(each.patched, positive, negative, batch=2), plain) < NEAR


def test_two_halves_of_the_same_text_are_that_text(case):
    plain = case.sample(case.model, case.cond(case.b), batch=2)
    halves = case.map(rect(width=0.4, feather=0.2), rect(x=0.4, width=0.6, feather=0.2))
    found = case.sample(case.patched, case.cond(case.a, texts=[case.b, case.b], placed=halves), batch=2)
    assert gap(found, plain) < 1e-2  # feathered seams round to eight bits, so the sum of weights is 1 - 1/255 at worst


def test_strength_zero_is_the_background(each):
    plain = each.sample(each.model, each.cond(each.a))
    off = each.cond(each.a, texts=[each.b], placed=each.map(rect(strength=0)))
    assert torch.equal(each.sample(each.patched, off), plain)


def test_priority_gives_the_pixel_to_the_upper_region(each):
    plain = each.sample(each.model, each.cond(each.c))
    both = each.map(rect(), rect(), overlap="priority")
    found = each.sample(each.patched, each.cond(each.a, texts=[each.b, each.c], placed=both))
    assert gap(found, plain) < NEAR


def test_start_and_end(sd15):
    first, second = sd15.map(rect(end=0.5)), sd15.map(rect(start=0.5))
    always = sd15.sample(sd15.model, sd15.cond(sd15.b), steps=4)
    never = sd15.sample(sd15.model, sd15.cond(sd15.a), steps=4)
    early = sd15.sample(sd15.patched, sd15.cond(sd15.a, texts=[sd15.b], placed=first), steps=4)
    assert min(gap(early, always), gap(early, never)) > NEAR
    swapped = sd15.sample(sd15.patched, sd15.cond(sd15.b, texts=[sd15.a], placed=second), steps=4)
    assert gap(early, swapped) < NEAR


def test_uncovered_tokens_keep_the_output_of_attention(sd15):
    """Compare inside the first cross-attention: beyond the region every bit of its output is the unpatched one."""
    seen = {}

    def spy(name):
        def remember(out, options):
            if options["block"] == ("input", 1):
                seen[name] = out.clone()
            return out

        return remember

    regions = sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect(width=0.4)))
    for name, model, text in (("plain", sd15.model, sd15.cond(sd15.a)), ("ours", sd15.patched, regions)):
        model = model.clone()
        model.set_model_attn2_output_patch(spy(name))
        sd15.sample(model, text, steps=1)
    plain, ours = (seen[name].view(2, sd15.rows, sd15.columns, -1) for name in ("plain", "ours"))
    edge = round(0.4 * sd15.columns) + 1
    assert torch.equal(plain[:, :, edge:], ours[:, :, edge:])
    assert not torch.equal(plain[:, :, : edge - 2], ours[:, :, : edge - 2])


def test_second_queue_is_the_first_and_leaves_nothing(case):
    regions = case.cond(case.a, texts=[case.b], placed=case.map(rect(width=0.5)))
    before = case.sample(case.patched, case.cond(case.a))
    first = case.sample(case.patched, regions)
    assert torch.equal(case.sample(case.patched, regions), first)
    assert torch.equal(case.sample(case.patched, case.cond(case.a)), before)
    kept = set(case.patched.model_options["transformer_options"])
    assert kept <= {"patches", "patches_replace", "wrappers", "callbacks"}


def test_patching_twice_is_patching_once(sd15):
    again = patch_model(sd15.patched)
    assert again is sd15.patched
    assert (
        patch_model(sd15.patched.clone()).model_options["transformer_options"]["patches"]["attn2_patch"]
        == (sd15.patched.model_options["transformer_options"]["patches"]["attn2_patch"])
    )
    assert KEY not in sd15.model.attachments


def test_area_conditioning(sd15):
    area = {"area": (6, 8, 2, 3), "strength": 1.0}
    plain = sd15.sample(sd15.model, sd15.cond(sd15.b, **area))
    full = sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect()), **area)
    assert gap(sd15.sample(sd15.patched, full), plain) < NEAR


def test_mask_conditioning(kind):
    mask = torch.zeros(1, 8 * kind.rows, 8 * kind.columns)
    mask[..., :50] = 1
    more = {"mask": mask, "mask_strength": 1.0}
    plain = kind.sample(kind.model, [*kind.cond(kind.b, **more), *kind.cond(kind.c)])
    full = [*kind.cond(kind.a, texts=[kind.b], placed=kind.map(rect()), **more), *kind.cond(kind.c)]
    assert gap(kind.sample(kind.patched, full), plain) < NEAR


def test_inpainting_mask(each):
    noise_mask = torch.zeros(1, 1, each.rows, each.columns)
    noise_mask[..., 4:] = 1
    plain = each.sample(each.model, each.cond(each.b), noise_mask=noise_mask)
    full = each.cond(each.a, texts=[each.b], placed=each.map(rect()))
    assert gap(each.sample(each.patched, full, noise_mask=noise_mask), plain) < NEAR


def tiled(apply, args):
    """A TiledDiffusion-like wrapper: two overlapping tiles, tile-major rows, every 4-d argument cut like the latent."""
    x, given = args["input"], dict(args["c"])
    slices = [slice(0, 7), slice(6, 13)]
    for key, value in given.items():
        if isinstance(value, torch.Tensor):
            cut = torch.cat([value[..., s] for s in slices]) if value.ndim == 4 else torch.cat([value] * 2)
            given[key] = cut
    rows = torch.cat([x[..., s] for s in slices])
    left, right = apply(rows, torch.cat([args["timestep"]] * 2), **given).chunk(2)
    return torch.cat([left[..., :6], (left[..., 6:] + right[..., :1]) / 2, right[..., 1:]], -1)


def test_tiles(sd15):
    def with_tiles(model):
        model = model.clone()
        model.set_model_unet_function_wrapper(tiled)
        return model

    plain = sd15.sample(with_tiles(sd15.model), sd15.cond(sd15.b))
    full = sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect()))
    assert gap(sd15.sample(with_tiles(sd15.patched), full), plain) < NEAR
    half = sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect(width=6 / 13)))
    assert gap(sd15.sample(with_tiles(sd15.patched), half, steps=1), plain) > NEAR


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_sde", "uni_pc"])
def test_other_samplers(kind, sampler):
    plain = kind.sample(kind.model, kind.cond(kind.b), sampler=sampler)
    full = kind.cond(kind.a, texts=[kind.b], placed=kind.map(rect()))
    assert gap(kind.sample(kind.patched, full, sampler=sampler), plain) < 10 * NEAR


def test_composes_with_an_attn2_replace_patch(sd15):
    """Beside an IPAdapter-like patch our region is a difference: what the other one added stays."""

    def replace(model, scale):
        def attend(q, k, v, options):
            from comfy.ldm.modules.attention import optimized_attention

            return optimized_attention(q, k, v, options["n_heads"]) + scale * q

        model = model.clone()
        for block in (("input", 1), ("middle", 0), ("output", 5)):
            model.set_model_attn2_replace(attend, *block)
        return model

    full = sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect()))
    plain = sd15.sample(replace(sd15.model, 0.5), sd15.cond(sd15.b))
    assert gap(sd15.sample(replace(sd15.patched, 0.5), full), plain) < NEAR
    assert gap(sd15.sample(replace(sd15.model, 0.0), sd15.cond(sd15.b)), plain) > NEAR


def test_a_patch_that_rebatches_attention_is_named(sd15, caplog):
    def couple(n, context, value, options):
        return n.repeat(2, 1, 1), context.repeat(2, 1, 1), value.repeat(2, 1, 1)

    model = sd15.model.clone()
    model.set_model_attn2_patch(couple)
    model = patch_model(model)
    model.set_model_attn2_output_patch(lambda out, options: out.chunk(2)[0])
    with caplog.at_level("WARNING", logger="mixofshow"):
        sd15.sample(model, sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect())), steps=1)
    assert sum("changed the attention batch" in message for message in caplog.messages) == 1


def test_attention_that_another_node_computes_is_named(sd15, caplog, monkeypatch):
    from mos_pack.mixofshow_core.families.nets import cross_attention_layers

    module = cross_attention_layers(sd15.model.model.diffusion_model)[3].module
    monkeypatch.setattr(module, "forward", lambda n, **_: torch.zeros_like(n))
    with caplog.at_level("WARNING", logger="mixofshow"):
        sd15.sample(sd15.patched, sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect())), steps=1)
    assert sum("computes cross-attention by itself" in message for message in caplog.messages) == 1


def test_another_nodes_output_patch_acts_after_the_regions(sd15):
    def halved(model):
        model = model.clone()
        model.set_model_attn2_output_patch(lambda out, options: out / 2)
        return model

    full = sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect()))
    plain = sd15.sample(halved(sd15.model), sd15.cond(sd15.b))
    assert gap(sd15.sample(halved(sd15.patched), full), plain) < NEAR
    assert gap(sd15.sample(sd15.model, sd15.cond(sd15.b)), plain) > NEAR


def test_text_joined_by_another_node_drops_the_layers_and_says_so(sd15, caplog):
    joined = sd15.cond(sd15.a, layers=sd15.b.repeat(16, 1, 1))
    joined = [[torch.cat([joined[0][0], sd15.c], 1), joined[0][1]]]
    with caplog.at_level("WARNING", logger="mixofshow"):
        found = sd15.sample(sd15.patched, joined, steps=1)
    assert "joined with another text" in caplog.text
    plain = sd15.sample(sd15.model, [[joined[0][0], dict(sd15.extras)]], steps=1)
    assert torch.equal(found, plain)


def test_wrong_number_of_layers_is_an_error(sd15):
    with pytest.raises(MixOfShowError, match="encoded for 70 cross-attention layers, this MODEL has 16"):
        sd15.sample(sd15.patched, sd15.cond(sd15.a, layers=sd15.a.repeat(70, 1, 1)), steps=1)


def test_projections_are_made_once_per_sampling(sd15):
    from mos_pack.mixofshow_core.families.nets import cross_attention_layers

    module = cross_attention_layers(sd15.model.model.diffusion_model)[3].module
    calls = []
    hook = module.to_v.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        placed = sd15.map(rect(width=0.5), rect(x=0.5, width=0.5), rect(y=0.5, height=0.5))
        sd15.sample(sd15.patched, sd15.cond(sd15.a, texts=[sd15.b, sd15.c, sd15.b], placed=placed), steps=3)
    finally:
        hook.remove()
    assert sorted(calls) == [2, 2, 2, 3]


def test_what_is_kept_of_texts_is_bounded_and_changes_nothing(sd15, monkeypatch):
    from mos_pack.nodes.bridge.placing import wrappers as regions

    width = sd15.model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2.to_k.out_features
    layer = 2 * 2 * 77 * width * 4  # bytes: K and V of two texts, fp32, at the narrowest layers
    placed = sd15.map(rect(width=0.5), rect(x=0.5, width=0.5))
    positive = sd15.cond(sd15.a, texts=[sd15.b, sd15.c], placed=placed)
    kept, pictures = [], []
    keep = regions.Sampling.keep

    def watch(sampling, key, projected):
        keep(sampling, key, projected)
        kept[-1] = sum(part.nbytes for pair in sampling.projections.values() for part in pair)

    monkeypatch.setattr(regions.Sampling, "keep", watch)
    monkeypatch.setattr(regions, "KEPT_SHARE", 0.0)
    for least in (0, layer, 3 * layer, 2**30):
        monkeypatch.setattr(regions, "KEPT_LEAST", least)
        kept.append(0)
        pictures.append(sd15.sample(sd15.patched, positive, steps=2))
    assert kept[0] == 0 and 0 < kept[1] <= layer < kept[2] <= 3 * layer < kept[3]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)


def test_a_larger_picture_may_keep_more(sd15):
    from mos_pack.nodes.bridge.placing.wrappers import KEPT_LEAST, room_for_projections

    small, large = (room_for_projections(sd15.model, (1, 4, side, side)) for side in (8, 1024))
    step = sd15.model.model.memory_required([2, 4, 1024, 1024])
    assert small == KEPT_LEAST < large and abs(large / step - 0.08) < 1e-6


def test_weights_of_eight_bits(tiny_cosmos):
    """A checkpoint in fp8: the host casts at every layer, and so do the layers that regions call."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    from mos_tests.host.tiny import unet_config

    config = comfy.supported_models.CosmosT2IPredict2(unet_config("cosmos"))
    config.set_inference_dtype(torch.float8_e4m3fn, torch.float32)
    model = comfy.model_base.CosmosPredict2(config, device="cpu")
    net, weights = model.diffusion_model, tiny_cosmos.model.model.diffusion_model.state_dict()
    net.load_state_dict({key: weights[key].to(own.dtype) for key, own in net.state_dict().items()})
    device = torch.device("cpu")
    case = Case("cosmos", comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device))
    plain = case.sample(case.model, case.cond(case.b))
    assert gap(case.sample(case.patched, case.cond(case.a, texts=[case.b], placed=case.map(rect()))), plain) < NEAR
    assert gap(case.sample(case.model, case.cond(case.a)), plain) > 100 * NEAR
