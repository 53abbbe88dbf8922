"""Unfused concepts, each acting in its own regions only."""

import gc
import json
import re
from dataclasses import replace

import comfy.sample
import pytest
import torch
from mos_pack.mixofshow_core.concept import COMMUNITY, BaseInfo, Concept, ConceptEntry, ConceptUse
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.nets import has_places
from mos_pack.nodes.bridge.host.model import apply_deltas, family, named_linears
from mos_pack.nodes.bridge.host.text import register_concepts
from mos_pack.nodes.bridge.placing.attention import Batch
from mos_pack.nodes.bridge.placing.payload import KEY
from mos_pack.nodes.place import MixOfShowPlace
from mos_pack.nodes.regions import MixOfShowRegions
from mos_tests.host.model.test_text import widths_of
from mos_tests.unit.builders import make_entry

ROWS, COLUMNS = 9, 12


def make_use(base, name, seed, layers=16, strength=1.0, text=True, family="sd-64"):
    """A concept with a random LoRA on every attention linear, projection and feed-forward of UNet and text encoder."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for layer, module in named_linears(base.model, base.clip).items():
        in_unet = ".transformer_blocks." in layer or layer.endswith((".proj_in", ".proj_out"))
        if in_unet or (text and ".self_attn." in layer):
            out, width = module.weight.shape[:2]
            up, down = (torch.randn(*shape, generator=generator) for shape in ((out, 2), (2, width)))
            deltas[layer] = LowRank(up * 0.3, down / width**0.5, 2.0)
    entry = make_entry(name, layers=layers, widths=widths_of(base.clip), seed=seed)
    return ConceptUse(Concept((entry,), deltas, BaseInfo(family, None, layers), {}), strength)


@pytest.fixture
def base(tiny_sd15):
    return tiny_sd15


@pytest.fixture(params=("sd15", "sd2", "cosmos", "anima"))
def each(request):
    """One base of every kind of net."""
    return request.getfixturevalue(f"tiny_{request.param}")


def community_use(base, name, seed):
    """What a LoRA file of any family becomes: a name, no learned words, a change of every linear with places."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for layer, module in named_linears(base.model, None).items():
        if has_places(layer):
            out, width = module.weight.shape[:2]
            up, down = (torch.randn(*shape, generator=generator) for shape in ((out, 2), (2, width)))
            deltas[layer] = LowRank(up * 0.3, down / width**0.5, 2.0)
    base_info = BaseInfo(family(base.model))
    return ConceptUse(Concept((ConceptEntry(f"{name}-id", name),), deltas, base_info, {"source": COMMUNITY}), 0.8)


@pytest.fixture
def uses(base):
    return make_use(base, "mara", 1, strength=0.8), make_use(base, "tom", 2)


def regions(*entries, **top):
    filled = [{"id": f"r{n}", "shape": box(0, 1), **entry} for n, entry in enumerate(entries)]
    return MixOfShowRegions.execute(json.dumps({"version": 1, "regions": filled, **top}), 8 * COLUMNS, 8 * ROWS)[0]


def box(left, right):
    return {"type": "rect", "x": left, "y": 0, "width": right - left, "height": 1}


def sample(placed, steps=2, cfg=4.0):
    model, positive, negative = placed
    channels = model.model.latent_format.latent_channels
    latent = torch.zeros(2, 4, ROWS, COLUMNS) if channels == 4 else torch.zeros(2, channels, 1, ROWS - 1, COLUMNS)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, "euler", "normal", positive, negative, latent, seed=3, disable_pbar=True
        )


def two_routed(base):
    """One step of two people, each in a half."""
    placed = regions({"prompt": "mara", "shape": box(0, 0.5)}, {"prompt": "tom", "shape": box(0.5, 1)})
    uses = make_use(base, "mara", 1), make_use(base, "tom", 2)
    return sample(MixOfShowPlace.one(base.model, base.clip, "a street", "bad", placed, uses).result, steps=1)


def gap(one, other):
    assert torch.isfinite(one).all()
    return ((one - other).abs().max() / other.abs().max()).item()


def alone(base, use, prompt, negative):
    """The concept patched into MODEL and CLIP, nothing regional about it."""
    clip = register_concepts(base.clip, [use])
    model, clip = apply_deltas(base.model, clip, use.concept.deltas, use.strength)
    return MixOfShowPlace.one(model, clip, prompt, negative).result


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_region_that_covers_everything_is_the_single_concept_model(base, uses, cfg):
    wanted = sample(alone(base, uses[0], "mara in a hat", "bad"), cfg=cfg)
    full = regions({"prompt": "mara in a hat"})
    found = sample(MixOfShowPlace.one(base.model, base.clip, "a street", "bad", full, uses[:1]).result, cfg=cfg)
    assert gap(found, wanted) < 5e-5
    plain = sample(MixOfShowPlace.one(base.model, base.clip, "mara in a hat", "bad").result, cfg=cfg)
    assert gap(plain, wanted) > 0.01


def test_every_kind_of_net_routes(each):
    """A LoRA routed to a region over everything is the LoRA patched in, and stays in its half in the first block."""
    use = community_use(each, "mara", 1)
    wanted = sample(alone(each, use, "mara in a hat", "bad"))
    full = regions({"prompt": "mara in a hat"})
    placed = MixOfShowPlace.one(each.model, each.clip, "mara in a hat", "bad", full, [use]).result
    found = sample(placed)
    assert gap(found, wanted) < 5e-5
    assert torch.equal(sample(placed), found) and not hooks_left(each)
    plain = sample(MixOfShowPlace.one(each.model, each.clip, "mara in a hat", "bad").result)
    assert gap(plain, wanted) > 0.01
    half = regions({"prompt": "mara in a hat", "shape": box(0, 0.5)})
    left = sample(MixOfShowPlace.one(each.model, each.clip, "mara in a hat", "bad", half, [use]).result)
    change = (left - plain).abs().flatten(0, -2).mean(0)
    assert change[:6].mean() > 1.2 * change[6:].mean()


def test_modulation_is_listed_and_left_out(tiny_cosmos):
    use, layer = community_use(tiny_cosmos, "mara", 1), "diffusion_model.blocks.0.adaln_modulation_mlp.1"
    out, width = named_linears(tiny_cosmos.model, None)[layer].weight.shape
    more = dict(use.concept.deltas) | {layer: LowRank(torch.ones(out, 1), torch.ones(1, width))}
    use = replace(use, concept=replace(use.concept, deltas=more))
    full = regions({"prompt": "mara"})
    placed = MixOfShowPlace.one(tiny_cosmos.model, tiny_cosmos.clip, "a street", "bad", full, [use])
    assert "1 layers of mara have no places (time, label and modulation layers)" in str(placed.ui.as_dict())
    assert layer in str(placed.ui.as_dict())


def test_changes_that_are_no_products_are_routed_too(base, uses):
    """LoHa, LoKr, DoRA and full weights arrive as whole matrices and kernels."""
    deltas = dict(uses[0].concept.deltas) | dict(kernel_use(base, "mara", 5).concept.deltas)
    modules = dict(base.model.model.diffusion_model.named_modules())
    prefix = "diffusion_model."
    own = {name: modules[name.removeprefix(prefix)] for name in deltas if name.startswith(prefix)}
    shapes = {name: module.weight.shape for name, module in own.items()}
    deltas = {
        name: Dense(d.dense().view(shapes.get(name, d.shape))) for name, d in deltas.items() if "time_" not in name
    }
    use = ConceptUse(Concept(uses[0].concept.entries, deltas, uses[0].concept.base, {}), 0.8)
    wanted = sample(alone(base, use, "mara in a hat", "bad"))
    full = regions({"prompt": "mara in a hat"})
    found = sample(MixOfShowPlace.one(base.model, base.clip, "a street", "bad", full, [use]).result)
    assert gap(found, wanted) < 5e-5


def test_full_coverage_on_sdxl(tiny_sdxl):
    """Same prompt inside and outside, so that the pooled text is the same as well."""
    use = make_use(tiny_sdxl, "mara", 1, layers=70, text=False, family="sdxl")
    wanted = sample(alone(tiny_sdxl, use, "mara in a hat", "bad"), steps=1)
    full = regions({"prompt": "mara in a hat"})
    placed = MixOfShowPlace.one(tiny_sdxl.model, tiny_sdxl.clip, "mara in a hat", "bad", full, [use]).result
    assert gap(sample(placed, steps=1), wanted) < 5e-5


def test_styles_and_add_ons_act_on_the_whole_picture(base, uses):
    style = ConceptUse(uses[1].concept, 0.5, role="add-on")
    model, clip = apply_deltas(base.model, base.clip, style.concept.deltas, 0.5)
    wanted = sample(MixOfShowPlace.one(model, clip, "a street", "bad").result)
    found = sample(MixOfShowPlace.one(base.model, base.clip, "a street", "bad", None, [style]).result)
    assert torch.equal(found, wanted)


def test_without_regions_the_only_concept_is_everywhere(base, uses):
    wanted = sample(alone(base, uses[1], "tom at a lake", "bad"))
    found = sample(MixOfShowPlace.one(base.model, base.clip, "tom at a lake", "bad", None, uses[1:]).result)
    assert gap(found, wanted) < 5e-5


def test_a_scene_in_the_background(base, uses):
    wanted = sample(alone(base, uses[0], "mara, a lake", "bad"))
    nowhere = regions({"prompt": "x", "strength": 0}, background={"concept": "mara"})
    found = sample(MixOfShowPlace.one(base.model, base.clip, "a lake", "bad", nowhere, uses[:1]).result)
    assert gap(found, wanted) < 5e-5


def test_a_region_may_name_the_scene_beside_its_own_concept(base, uses):
    both = regions({"prompt": "tom in mara", "shape": box(0, 0.5)}, background={"concept": "mara"})
    placed = MixOfShowPlace.one(base.model, base.clip, "a lake", "bad", both, uses).result
    routes = payload(placed[1]).routes
    assert routes.owners == (1,) and routes.background == 0


def test_two_concepts_do_not_touch_each_other_in_the_first_layers(base, uses):
    """Before any token mixes with another (first proj_in and its block's query), each half is its own model's."""
    seen = {}
    block = base.model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0]

    def record(name, placed):
        model = placed[0].clone()

        def spy(n, context, value, options):
            if options["block"] == ("input", 1):
                seen.setdefault(name, block.attn1.to_q(n).view(-1, ROWS, COLUMNS, n.shape[-1]))
            return n, context, value

        model.set_model_attn1_patch(spy)
        sample((model, *placed[1:]), steps=1)

    both = regions(
        {"concept": "mara", "prompt": "x", "shape": box(0, 0.5)},
        {"concept": "tom", "prompt": "x", "shape": box(0.5, 1)},
    )
    record("both", MixOfShowPlace.one(base.model, base.clip, "people", "bad", both, uses).result)
    for use, half in ((uses[0], slice(0, 6)), (uses[1], slice(6, 12))):
        name = use.concept.name
        record(name, alone(base, use, "people", "bad"))
        assert gap(seen["both"][:, :, half], seen[name][:, :, half]) < 1e-5
        assert gap(seen["both"], seen[name]) > 1e-3


def hooks_left(base):
    modules = base.model.model.diffusion_model.modules()
    return [module for module in modules if module._forward_hooks or module._forward_pre_hooks]


def test_nothing_is_left_on_the_model(base, uses):
    before = sample(MixOfShowPlace.one(base.model, base.clip, "a street", "bad").result)
    placed = MixOfShowPlace.one(base.model, base.clip, "a street", "bad", regions({"concept": "tom"}), uses).result
    first = sample(placed)
    assert torch.equal(sample(placed), first)
    assert not hooks_left(base)
    assert torch.equal(sample(MixOfShowPlace.one(base.model, base.clip, "a street", "bad").result), before)


def test_hooks_go_away_when_sampling_is_interrupted(base, uses):
    placed = MixOfShowPlace.one(base.model, base.clip, "a street", "bad", regions({"concept": "tom"}), uses).result
    model = placed[0].clone()

    def stop(out, options):
        raise KeyboardInterrupt

    model.set_model_attn2_output_patch(stop)
    with pytest.raises(KeyboardInterrupt):
        sample((model, *placed[1:]))
    assert not hooks_left(base)


def test_ranks_that_layers_share_are_given_up_with_the_last_of_them(base, uses):
    """q, k and v read one product, which held memory through attention and feed-forward."""
    placed = MixOfShowPlace.one(base.model, base.clip, "a street", "bad", regions({"concept": "tom"}), uses).result
    held = []

    def look(module, inputs):
        held.extend(batch.read for batch in gc.get_objects() if isinstance(batch, Batch))

    block = base.model.model.diffusion_model.get_submodule("middle_block.1.transformer_blocks.0")
    hooks = [layer.register_forward_pre_hook(look) for layer in (block.attn1.to_out, block.attn2.to_out, block.ff)]
    try:
        sample(placed, steps=1)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(held) >= 3 and set(held) == {None}


def test_every_region_has_its_own_text_encoder(base, uses):
    both = regions({"concept": "mara", "shape": box(0, 0.5)}, {"concept": "tom", "shape": box(0.5, 1)})
    _, positive, negative = MixOfShowPlace.one(base.model, base.clip, "people", "bad", both, uses).result
    for use, mine, theirs in zip(uses, payload(positive).texts, payload(negative).texts, strict=True):
        _, wanted, unwanted = alone(base, use, use.concept.name, "bad")
        assert torch.allclose(mine, payload(wanted).layers, atol=1e-5)
        assert torch.allclose(theirs, unwanted[0][0], atol=1e-5)


def payload(conditioning):
    return conditioning[0][1]["model_conds"][KEY].cond


def test_composes_with_another_attention_patch(base, uses):
    def with_other(placed):
        model = placed[0].clone()
        model.set_model_attn2_output_patch(lambda out, options: out * 1.1)
        return (model, *placed[1:])

    wanted = sample(with_other(alone(base, uses[0], "mara", "bad")))
    full = regions({"prompt": "mara"})
    found = sample(with_other(MixOfShowPlace.one(base.model, base.clip, "a street", "bad", full, uses[:1]).result))
    assert gap(found, wanted) < 5e-5


def kernel_use(base, name, seed):
    """A concept on every convolution larger than one cell, and on the time layers."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for path, module in base.model.model.diffusion_model.named_modules():
        large = isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1)
        if large or path == "time_embed.0":
            up, down = (
                torch.randn(*shape, generator=generator)
                for shape in ((module.weight.shape[0], 2), (2, module.weight[0].numel()))
            )
            deltas[f"diffusion_model.{path}"] = LowRank(up * 0.2, down / module.weight[0].numel() ** 0.5, 2.0)
    entry = make_entry(name, layers=16, widths=widths_of(base.clip), seed=seed)
    return ConceptUse(Concept((entry,), deltas, BaseInfo("sd-64", None, 16), {}))


def without_time(use):
    deltas = {name: delta for name, delta in use.concept.deltas.items() if "time_embed" not in name}
    return ConceptUse(Concept(use.concept.entries, deltas, use.concept.base, {}))


def test_large_convolutions_are_routed_and_time_layers_are_listed(base, caplog):
    use = kernel_use(base, "mara", 5)
    assert {
        "diffusion_model.input_blocks.0.0",
        "diffusion_model.input_blocks.3.0.op",
        "diffusion_model.out.2",
        "diffusion_model.output_blocks.5.2.conv",
    } < set(use.concept.deltas)
    wanted = sample(alone(base, without_time(use), "mara", "bad"))
    with caplog.at_level("WARNING", logger="mixofshow"):
        full = MixOfShowPlace.one(base.model, base.clip, "a street", "bad", regions({"prompt": "mara"}), [use])
    wanted_note = r"WARNING: 1 layers of mara have no places .* \d+\.\d% of its norm.* diffusion_model.time_embed.0"
    assert re.search(wanted_note, caplog.text) and re.search(wanted_note, full.ui.as_dict()["text"][0])
    assert gap(sample(full.result), wanted) < 5e-5
    plain = sample(MixOfShowPlace.one(base.model, base.clip, "mara", "bad").result)
    assert gap(plain, wanted) > 0.01


def vector_use(base, name, seed):
    """A concept on every norm and bias of the UNet that works on places."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for path, module in base.model.model.diffusion_model.named_modules():
        has_places = not path.startswith(("time_embed", "label_emb")) and "emb_layers" not in path
        if has_places and isinstance(getattr(module, "bias", None), torch.nn.Parameter):
            vectors = [0.2 * torch.randn(len(module.bias), generator=generator) for _ in range(2)]
            deltas[f"diffusion_model.{path}.bias"] = Dense(vectors[0])
            if module.weight.dim() == 1:
                deltas[f"diffusion_model.{path}"] = Dense(vectors[1])
    entry = make_entry(name, layers=16, widths=widths_of(base.clip), seed=seed)
    return ConceptUse(Concept((entry,), deltas, BaseInfo("sd-64", None, 16), {}), 0.8)


def test_norms_and_biases_are_routed(base):
    use = vector_use(base, "mara", 7)
    kinds = {name.rpartition(".")[2] for name in use.concept.deltas}
    assert {"bias", "norm", "norm1", "norm2", "norm3"} <= kinds
    wanted = sample(alone(base, use, "mara", "bad"))
    full = MixOfShowPlace.one(base.model, base.clip, "a street", "bad", regions({"prompt": "mara"}), [use])
    assert "no places" not in full.ui.as_dict()["text"][0]
    assert gap(sample(full.result), wanted) < 5e-5
    plain = sample(MixOfShowPlace.one(base.model, base.clip, "mara", "bad").result)
    assert gap(plain, wanted) > 0.01


def test_a_large_convolution_changes_its_own_half_only(base):
    """The first convolution alone: each half of its output map is its own concept's, seams included."""
    use = kernel_use(base, "mara", 5)
    first = {name: d for name, d in use.concept.deltas.items() if name == "diffusion_model.input_blocks.0.0"}
    use = ConceptUse(Concept(use.concept.entries, first, use.concept.base, {}))
    seen = []

    def record(placed):
        after = base.model.model.diffusion_model.input_blocks[1][0]
        hook = after.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
        try:
            sample(placed, steps=1)
        finally:
            hook.remove()
        return seen.pop()

    left = regions({"concept": "mara", "prompt": "x", "shape": box(0, 0.5)})
    both = record(MixOfShowPlace.one(base.model, base.clip, "people", "bad", left, [use]).result)
    with_it = record(alone(base, use, "people", "bad"))
    without = record(MixOfShowPlace.one(base.model, base.clip, "people", "bad").result)
    assert gap(both[..., :6], with_it[..., :6]) < 1e-5 and torch.equal(both[..., 6:], without[..., 6:])
    assert gap(both[..., :6], without[..., :6]) > 1e-3


class TestErrors:
    def test_two_concepts_in_one_region(self, base, uses):
        with pytest.raises(MixOfShowError, match="region 'r0' names 2 unfused concepts"):
            MixOfShowPlace.one(base.model, base.clip, "a", "", regions({"prompt": "mara and tom"}), uses)

    def test_other_base(self, base, uses):
        layer = next(name for name in uses[0].concept.deltas if name.endswith("attn2.to_q"))
        wrong = Concept(
            uses[0].concept.entries, {layer: LowRank(torch.randn(7, 2), torch.randn(2, 5))}, uses[0].concept.base, {}
        )
        with pytest.raises(MixOfShowError, match="does not fit MODEL and CLIP: Layer .* Connect the base it was"):
            MixOfShowPlace.one(base.model, base.clip, "a", "", regions({"concept": "mara"}), [ConceptUse(wrong)])

    def test_a_concept_that_no_region_names_is_logged(self, base, uses, caplog):
        with caplog.at_level("WARNING", logger="mixofshow"):
            MixOfShowPlace.one(base.model, base.clip, "a", "", regions({"concept": "mara"}), uses)
        assert "no region names concept 'tom'" in caplog.text
