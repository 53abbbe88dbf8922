"""Bases whose weights have 8 bits: what patches lose, and that Place and Fuse do not."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.delta import Dense
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.nodes.bridge.formats.layer_names import key_map_of
from mos_pack.nodes.bridge.formats.live import LiveWeights
from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
from mos_pack.nodes.bridge.fusing.submitted import check_submitted
from mos_pack.nodes.bridge.host.exact import apply_exactly
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_tests.host.builders import make_concept, tiny_plan
from mos_tests.host.placing.test_routing import MixOfShowPlace, gap, make_use, sample, two_routed
from mos_tests.host.tiny import TinyBase, in_eight_bits, scaled_pair, tiny_base


@pytest.fixture(scope="module", params=[pytest.param("plain", marks=pytest.mark.slow), "scaled", "quantised"])
def pair(request):
    """(a base in 8 bits, the same values in fp32)"""
    base, same = tiny_base("sd15"), tiny_base("sd15")
    if request.param != "plain":
        with torch.inference_mode():  # as the executor loads models
            rounded, whole = scaled_pair(base.model, request.param)
        return TinyBase(rounded, base.clip, base.vae), TinyBase(whole, base.clip, base.vae)
    in_eight_bits(base.model)
    for name, weight in same.model.model.diffusion_model.state_dict().items():
        weight.copy_(base.model.model.diffusion_model.state_dict()[name])
    return base, same


def painted(base, model):
    return sample(MixOfShowPlace.one(model, base.clip, "a street", "bad").result, steps=1)


def test_changes_act_beside_the_weights_and_lose_nothing(pair):
    """Also whole matrices, kernels and biases; a patch loses more than the change of a weak concept is worth."""
    base, same = pair
    deltas = dict(make_use(base, "mara", 1).concept.deltas)
    modules = dict(base.model.model.diffusion_model.named_modules())
    for path in ("input_blocks.1.0.in_layers.2", "input_blocks.1.1.transformer_blocks.0.ff.net.2"):
        shape, generator = modules[path].weight.shape, torch.Generator().manual_seed(4)
        deltas[f"diffusion_model.{path}"] = Dense(0.05 * torch.randn(shape, generator=generator))
        deltas[f"diffusion_model.{path}.bias"] = Dense(torch.randn(shape[0], generator=generator))
    wanted = painted(same, apply_deltas(same.model, None, deltas)[0])
    assert gap(painted(base, base.model), painted(same, same.model)) < 1e-5
    assert gap(painted(base, apply_exactly(base.model, None, deltas)[0]), wanted) < 5e-5
    assert gap(painted(base, apply_deltas(base.model, None, deltas)[0]), wanted) > 1e-3
    assert gap(painted(base, base.model), painted(same, same.model)) < 1e-5  # nothing stays behind


def test_place_routes_on_8_bits_as_on_the_same_values_in_fp32(pair):
    assert gap(*map(two_routed, pair)) < 5e-5


def test_fuse_finds_the_same_change_as_on_the_same_values_in_fp32(pair, tmp_path):
    found = []
    for base in pair:
        base.model.model.native_size = 64
        uses = [
            ConceptUse(make_concept(base, name, seed, text=False), 1.0) for seed, name in enumerate(("mara", "tom"))
        ]
        with torch.inference_mode():
            fused = fuse_uses(base.model, base.clip, uses, "exact", tiny_plan(), FusionSettings(), tmp_path)
        found.append(fused)
    eight, same = (one.concept.deltas for one in found)
    assert eight.keys() == same.keys()
    worst = max(gap(eight[name].dense(), delta.dense()) for name, delta in same.items())
    assert worst < 1e-2, worst  # statistics go through fp32 nets and a truncation
    assert any("8 bits" in note for note in found[0].notes) and not any("8 bits" in note for note in found[1].notes)


def test_how_loud_a_submitted_change_is_is_told_by_the_weights_that_act(pair, tmp_path):
    """Of a scaled base, what is stored is a thousand times larger."""
    base, _ = pair
    base.model.model.native_size = 64
    concept = make_concept(base, "mara", 1, text=False)
    loud = dict(concept.deltas)
    name = next(iter(loud))
    loud[name] = loud[name].scaled(1000.0)
    for deltas, refused in ((concept.deltas, False), (loud, True)):
        use = ConceptUse(replace(concept, deltas=deltas), 1.0)
        with pytest.raises(MixOfShowError, match="too loud") if refused else nullcontext():
            check_submitted(base.model, base.clip, use, tiny_plan(), tmp_path)


def test_weights_are_read_and_loras_find_their_layers_as_on_the_same_values_in_fp32(pair):
    """The scales of quantised layers stand in the state dict of newer hosts and are no attribute of any layer."""
    eight, same = (LiveWeights(base.model, base.clip) for base in pair)
    assert list(eight) == list(same)
    worst = max(gap(eight[layer], weight) for layer, weight in list(same.items())[::8])
    assert worst < 1e-6, worst
    assert key_map_of(same).keys.items() <= key_map_of(eight).keys.items()
