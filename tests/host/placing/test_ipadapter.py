"""Beside IPAdapter_plus' own attention (9e076a3), where IPADAPTER_PLUS_PATH names a clone of it: no index has it."""

import importlib
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from mos_pack.mixofshow_core.families.nets import cross_attention_layers
from mos_pack.nodes.bridge.host.model import net_of
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.placing.test_regions import NEAR, Case, gap, rect
from mos_tests.host.placing.test_routing import alone, make_use, regions, sample
from torch import nn

FOLDER = os.environ.get("IPADAPTER_PLUS_PATH", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="IPADAPTER_PLUS_PATH names no clone of IPAdapter_plus")
TOKENS, WIDTH = 4, 24


@pytest.fixture(scope="module")
def theirs():
    """Their module, without their nodes, which ask for face detectors."""
    package = ModuleType("ipadapter_plus")
    package.__path__ = [FOLDER]
    sys.modules["ipadapter_plus"] = package
    yield importlib.import_module("ipadapter_plus.CrossAttentionPatch")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ipadapter_plus"]:
        del sys.modules[name]


@pytest.fixture
def put_on(theirs, tiny_sd15):
    """MODEL with their patch at every cross-attention and random picture tokens, as their nodes put it there."""
    generator = torch.Generator().manual_seed(9)
    noise = {name: torch.randn(1, TOKENS, WIDTH, generator=generator) for name in ("cond", "uncond")}
    layers, keys = list(cross_attention_layers(net_of(tiny_sd15.model))), nn.ModuleDict()
    for number, layer in enumerate(layers):
        for part in ("k", "v"):
            keys[f"{number}_to_{part}_ip"] = linear = nn.Linear(WIDTH, layer.module.to_k.out_features, bias=False)
            linear.weight.data = torch.randn(linear.weight.shape, generator=generator) / WIDTH**0.5
    adapter = SimpleNamespace(ip_layers=SimpleNamespace(to_kvs=keys))
    adapter.get_multigpu_clone = lambda device: adapter

    def put(model, **more):
        model = model.clone()
        for number, layer in enumerate(layers):
            facts = {"module_key": str(number), "ipadapter": adapter, "weight": 0.8, **noise, **more}
            patch = theirs.Attn2Replace(theirs.ipadapter_attention, sigma_start=1e9, sigma_end=0.0, **facts)
            model.set_model_attn2_replace(patch, *layer.address[:2])
        return model

    return put


@pytest.mark.parametrize(
    "settings", [{}, {"embeds_scaling": "K+V"}, {"mask": torch.tensor([[[1.0, 0.0]]]).repeat(1, 9, 6)}], ids=str
)
def test_a_region_that_covers_everything_is_its_own_picture(tiny_sd15, put_on, settings):
    sd15 = Case("sd15", tiny_sd15.model)
    full = sd15.cond(sd15.a, texts=[sd15.b], placed=sd15.map(rect()))
    wanted = sd15.sample(put_on(sd15.model, **settings), sd15.cond(sd15.b))
    for model in (put_on(sd15.patched, **settings), sd15.patched):
        same = gap(sd15.sample(model, full), wanted) < NEAR
        assert same == (model is not sd15.patched), "and the adapter acts"


def test_a_routed_concept_beside_it_is_the_single_concept_model(tiny_sd15, put_on):
    use = make_use(tiny_sd15, "mara", 1)
    placed = regions({"prompt": "mara in a hat"})
    model, *texts = MixOfShowPlace.one(tiny_sd15.model, tiny_sd15.clip, "a street", "bad", placed, [use]).result
    single, *wanted = alone(tiny_sd15, use, "mara in a hat", "bad")
    assert gap(sample((put_on(model), *texts)), sample((put_on(single), *wanted))) < NEAR
    assert gap(sample((model, *texts)), sample((put_on(single), *wanted))) > 20 * NEAR
