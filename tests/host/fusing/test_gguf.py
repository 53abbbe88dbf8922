"""Bases from GGUF files, where COMFYUI_GGUF_PATH names a clone of ComfyUI-GGUF (its library `gguf` is needed, too)."""

import importlib
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
from mos_pack.nodes.bridge.fusing.submitted import check_submitted
from mos_pack.nodes.bridge.host.fingerprints import weights_digest
from mos_pack.nodes.bridge.host.model import apply_deltas, effective_weights
from mos_tests.host.builders import make_concept, tiny_plan
from mos_tests.host.placing.test_routing import MixOfShowPlace, gap, sample, two_routed
from mos_tests.host.tiny import TinyBase, tiny_base, with_weights
from mos_tests.host.training.test_train import SIZE, gradients, opened
from mos_tests.host.training.test_train_elsewhere import apart

PATH = os.environ.get("COMFYUI_GGUF_PATH", "")
beside = pytest.mark.skipif(
    not PATH, reason="no package index carries ComfyUI-GGUF: set COMFYUI_GGUF_PATH to a clone of it"
)
HALF = 1e-3  # their layers compute in fp16 where nothing else is asked for


def load_pack() -> tuple[ModuleType, ModuleType, ModuleType]:
    pack = ModuleType("comfyui_gguf")
    pack.__path__ = [PATH]
    sys.modules["comfyui_gguf"] = pack
    return tuple(importlib.import_module(name) for name in ("gguf", "comfyui_gguf.ops", "comfyui_gguf.nodes"))


@pytest.fixture(scope="module")
def pair():
    """(a base whose linears are Q8_0, the same values in fp32)"""
    import comfy.model_patcher

    (gguf, ops, nodes), base = load_pack(), tiny_base("sd15")
    kind = gguf.GGMLQuantizationType.Q8_0
    state = {name: weight.clone() for name, weight in base.model.model.diffusion_model.state_dict().items()}
    same = dict(state)
    for name, module in base.model.model.diffusion_model.named_modules():
        if isinstance(module, torch.nn.Linear) and module.in_features % 32 == 0:
            weight = state[f"{name}.weight"]
            rows = gguf.quants.quantize(weight.numpy(), kind)
            same[f"{name}.weight"] = torch.from_numpy(gguf.quants.dequantize(rows, kind)).reshape(weight.shape)
            stored = ops.GGMLTensor(torch.from_numpy(rows), tensor_type=kind, tensor_shape=weight.shape)
            state[f"{name}.weight"] = stored
    with torch.inference_mode():  # as the executor loads models
        models = (
            with_weights(base.model, state, nodes.GGUFModelPatcher, custom_operations=ops.GGMLOps),
            with_weights(base.model, same, comfy.model_patcher.ModelPatcher),
        )
    for model in models:
        model.model.native_size = 64
    return tuple(TinyBase(model, base.clip, base.vae) for model in models)


@beside
def test_place_routes_as_on_the_same_values(pair):
    assert gap(*map(two_routed, pair)) < HALF


@beside
def test_fuse_finds_the_same_change_as_on_the_same_values(pair, tmp_path):
    found, painted = [], []
    for base in pair:
        uses = [ConceptUse(make_concept(base, name, n, text=False), 1.0) for n, name in enumerate(("mara", "tom"))]
        with torch.inference_mode():
            fused = fuse_uses(base.model, base.clip, uses, "exact", tiny_plan(), FusionSettings(), tmp_path)
        found.append(fused.concept.deltas)
        model = apply_deltas(base.model, None, fused.concept.deltas)[0]
        painted.append(sample(MixOfShowPlace.one(model, base.clip, "a street", "bad").result, steps=1))
    assert found[0].keys() == found[1].keys()
    assert max(gap(found[0][name].dense(), delta.dense()) for name, delta in found[1].items()) < 2e-2
    assert gap(*painted) < 1e-2


@beside
def test_their_numbers_are_read_and_bases_are_told_apart(pair, tmp_path):
    base, same = pair
    names = [f"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_{part}" for part in "qkv"]
    ours, theirs = (effective_weights(one.model, names) for one in pair)
    assert all(gap(ours[name], theirs[name]) < 1e-6 for name in names)
    before = weights_digest(base.model)
    stored = base.model.model.diffusion_model.get_submodule(names[0].removeprefix("diffusion_model.")).weight.data
    stored[0, 3] += 1
    assert weights_digest(base.model) != before
    stored[0, 3] -= 1
    assert weights_digest(base.model) == before != weights_digest(same.model)
    concept = make_concept(base, "mara", 1, text=False)
    loud = dict(concept.deltas)
    loud[names[0]] = loud[names[0]].scaled(1000.0)
    for deltas, refused in ((concept.deltas, False), (loud, True)):
        use = ConceptUse(replace(concept, deltas=deltas), 1.0)
        with pytest.raises(MixOfShowError, match="too loud") if refused else nullcontext():
            check_submitted(base.model, base.clip, use, tiny_plan(), tmp_path)


def test_layers_that_hide_their_weights_in_the_state_are_told_apart_by_their_parameters():
    """A layer that tells its weight's size only, as those of GGUF files do."""
    from comfy.model_patcher import ModelPatcher

    class Hiding(torch.nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            destination[f"{prefix}weight"] = torch.zeros_like(self.weight, device="meta")
            destination[f"{prefix}temp.weight"] = torch.zeros_like(self.weight, device="meta")

    cpu = torch.device("cpu")
    patcher = ModelPatcher(torch.nn.ModuleDict({"one": Hiding(4, 4)}), load_device=cpu, offload_device=cpu)
    before = weights_digest(patcher)
    patcher.model["one"].weight.data[1, 2] += 1
    assert weights_digest(patcher) != before


@beside
def test_it_trains_as_the_same_values(pair):
    found = []
    for base in pair:
        base.model.model.native_size = SIZE
        with opened(base) as run:
            found.append(gradients(run)[1])
    assert apart(*found) < 2e-2
