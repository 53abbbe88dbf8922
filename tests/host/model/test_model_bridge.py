"""Names, topology and patches against the host's own models."""

from dataclasses import replace

import comfy.lora
import pytest
import torch
from mos_pack.mixofshow_core.concept import BaseInfo, ConceptUse
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.known import UNKNOWN
from mos_pack.mixofshow_core.families.nets import cross_attention_layers, layer_groups
from mos_pack.mixofshow_core.families.text import layer_groups_text
from mos_pack.mixofshow_core.fitting import check_base
from mos_pack.nodes.bridge.host import model as bridge
from mos_tests.host.tiny import tiny_model
from mos_tests.unit.builders import make_concept


@pytest.fixture(params=["sd15", "sdxl"])
def base(request):
    return request.getfixturevalue(f"tiny_{request.param}")


def group_members(base):
    groups = list(layer_groups(bridge.net_of(base.model)))
    for encoder, module in bridge.text_models_of(base.clip).items():
        groups += layer_groups_text(module, encoder)
    return [member for group in groups for member in group.members]


def test_layer_order_is_down_mid_up(tiny_sd15, tiny_sdxl):
    layers = cross_attention_layers(bridge.net_of(tiny_sd15.model))
    assert [layer.index for layer in layers] == list(range(16))
    assert [layer.address[:2] for layer in layers] == (
        [("input", n) for n in (1, 2, 4, 5, 7, 8)] + [("middle", 0)] + [("output", n) for n in range(3, 12)]
    )
    assert len(cross_attention_layers(bridge.net_of(tiny_sdxl.model))) == 70


def test_every_grouped_layer_exists_and_is_patchable(base):
    linears = bridge.named_linears(base.model, base.clip)
    members = group_members(base)
    assert len(members) == len(set(members))
    generator = torch.Generator().manual_seed(0)
    deltas = {
        name: LowRank(
            torch.randn(linears[name].weight.shape[0], 2, generator=generator),
            torch.randn(2, linears[name].weight.shape[1], generator=generator),
            1.0,
        )
        for name in members
    }
    model, clip = bridge.apply_deltas(base.model, base.clip, deltas, strength=0.5)
    for patcher, names in (
        (model, [n for n in members if n.startswith("diffusion")]),
        (clip.patcher, [n for n in members if n.startswith("text")]),
    ):
        own = base.model if patcher is model else base.clip.patcher
        modules = {name: linears[name].weight.detach().clone() for name in names}
        before, after = bridge.effective_weights(own, names), bridge.effective_weights(patcher, names)
        for name in names:
            assert torch.allclose(after[name], before[name] + 0.5 * deltas[name].dense(), atol=1e-5)
            assert torch.equal(linears[name].weight, modules[name])


def test_the_host_knows_our_file_keys(base):
    """The generic names under which the stock LoraLoader finds our layers."""
    keys = comfy.lora.model_lora_keys_clip(base.clip.cond_stage_model, {})
    keys = comfy.lora.model_lora_keys_unet(base.model.model, keys)
    for name in group_members(base):
        assert keys[name] == bridge.patch_key(name)


def test_wrong_layers_and_shapes_are_errors(tiny_sd15):
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q"
    with pytest.raises(MixOfShowError, match="not in this model"):
        bridge.apply_deltas(tiny_sd15.model, None, {name.replace("1.1", "99.1"): Dense(torch.zeros(2, 2))})
    with pytest.raises(MixOfShowError, match="the concept's change is"):
        bridge.apply_deltas(tiny_sd15.model, None, {name: Dense(torch.zeros(2, 2))})


def test_family_and_fingerprint(tiny_sd15, tiny_sdxl):
    base = bridge.describe_base(tiny_sd15.model)
    assert (base.family, base.layers) == (bridge.family(tiny_sd15.model), 16)
    assert base == bridge.describe_base(tiny_sd15.model)
    assert bridge.family(tiny_sdxl.model) == "sdxl"
    assert base.fingerprint != bridge.describe_base(tiny_sdxl.model).fingerprint
    concept = make_concept(family=base.family)
    assert not check_base(base, [ConceptUse(replace(concept, base=base))])
    other = bridge.describe_base(tiny_sdxl.model)
    with pytest.raises(MixOfShowError, match="made for the sd-64 family, but MODEL is SDXL. Connect a checkpoint of"):
        check_base(other, [ConceptUse(concept)])
    other_shape = make_concept(family="sdxl", layers=16)
    with pytest.raises(MixOfShowError, match="for 16 cross-attention layers"):
        check_base(other, [ConceptUse(other_shape)])
    assert BaseInfo("unknown").family == UNKNOWN


def test_fingerprint_ignores_baked_patches(tiny_sd15):
    before = bridge.describe_base(tiny_sd15.model)
    layer = f"diffusion_model.{cross_attention_layers(bridge.net_of(tiny_sd15.model))[0].path}.to_q"
    shape = bridge.named_linears(tiny_sd15.model, None)[layer].weight.shape
    patched, _ = bridge.apply_deltas(tiny_sd15.model, None, {layer: Dense(torch.ones(shape))})
    patched.patch_model(device_to=torch.device("cpu"))
    try:
        assert bridge.describe_base(patched) == before
    finally:
        patched.unpatch_model()


def test_weights_and_patches_are_those_of_the_host_with_patches_in_and_out(tiny_sd15):
    layer = f"diffusion_model.{cross_attention_layers(bridge.net_of(tiny_sd15.model))[0].path}.to_q"
    shape = bridge.named_linears(tiny_sd15.model, None)[layer].weight.shape
    patched, _ = bridge.apply_deltas(tiny_sd15.model, None, {layer: Dense(torch.ones(shape))})
    for patcher, prefix in ((patched, "diffusion_model."), (patched, ""), (tiny_sd15.clip.patcher, "")):
        patcher.patch_model(device_to=torch.device("cpu"))
        try:
            wanted, found = patcher.get_key_patches(prefix), bridge.key_patches(patcher, prefix)
            assert found.keys() == wanted.keys()
            assert all(found[key][1:] == entry[1:] for key, entry in wanted.items())
            assert all(torch.equal(found[key][0][0], entry[0][0]) for key, entry in wanted.items())
        finally:
            patcher.unpatch_model()
    assert len(bridge.key_patches(patched)[f"{layer}.weight"]) == 2


def test_what_the_state_dict_says_beside_the_weights_is_left_out():
    """As 0.33.0 tells scales and formats of quantised layers, which are no attributes of them."""
    model = tiny_model("sd15")
    net, name = bridge.net_of(model), "time_embed.0"
    scales = {f"{name}.weight_scale": torch.ones(()), f"{name}.comfy_quant": torch.zeros(3, dtype=torch.uint8)}
    net._register_state_dict_hook(
        lambda _module, state, prefix, _: state.update({prefix + k: scales[k] for k in scales})
    )
    assert f"diffusion_model.{name}.weight_scale" in model.model_state_dict()
    found = bridge.key_patches(model, "diffusion_model.")
    assert f"diffusion_model.{name}.weight" in found and not any("scale" in key or "quant" in key for key in found)
