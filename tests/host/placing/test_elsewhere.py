"""Weights that are not where they are read: taken off the device in the middle of things, or behind torch.compile."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
from mos_pack.nodes.bridge.host.fingerprints import models_key
from mos_pack.nodes.bridge.host.model import apply_deltas, describe_base
from mos_tests.host.builders import make_concept, tiny_plan
from mos_tests.host.placing.test_routing import MixOfShowPlace, box, gap, make_use, regions, sample


def cast_one_by_one(model):
    """A clone that is unloaded as far as the host can when a sampling begins: each layer casts and patches its own
    weights as it runs, which is what --novram and --lowvram do to them on a GPU."""
    model = model.clone()
    seen = []

    def unload(executor, *args, **kwargs):
        patcher = executor.class_obj.model_patcher
        patcher.unpatch_model(patcher.offload_device)
        patcher.patch_model(patcher.load_device, lowvram_model_memory=1)
        seen.append(patcher.lowvram_patch_counter())
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test", unload)
    return model, seen


@pytest.fixture(scope="module")
def lora(tiny_sd15):
    return {name: d for name, d in make_use(tiny_sd15, "x", 7, text=False).concept.deltas.items()}


def two_people(base, model):
    info = describe_base(base.model)
    placed = regions({"prompt": "mara", "shape": box(0, 0.5)}, {"prompt": "tom", "shape": box(0.5, 1)})
    uses = (make_use(base, name, seed, info.layers, family=info.family) for seed, name in enumerate(("mara", "tom"), 1))
    return MixOfShowPlace.one(model, base.clip, "a street", "bad", placed, tuple(uses)).result


def painted(base, model):
    return sample(two_people(base, model), steps=1)


def test_routing_does_not_care_where_weights_are(tiny_sd15, lora):
    patched = apply_deltas(tiny_sd15.model, None, lora)[0]
    wanted = painted(tiny_sd15, patched)
    model, seen = cast_one_by_one(patched)
    assert gap(painted(tiny_sd15, model), wanted) < 5e-5
    assert seen and seen[0] > 100  # patches really were laid onto the weights as they ran
    assert gap(painted(tiny_sd15, tiny_sd15.model), wanted) > 1e-3


def test_statistics_and_fusion_do_not_care(tiny_sd15, tmp_path):
    uses = [ConceptUse(make_concept(tiny_sd15, name, seed), 1.0) for seed, name in enumerate(("mara", "tom"))]
    model, seen = cast_one_by_one(tiny_sd15.model)
    found = []
    for number, one in enumerate((tiny_sd15.model, model)):
        with torch.inference_mode():
            given = (
                one,
                tiny_sd15.clip,
                uses,
                "exact",
                tiny_plan(),
                FusionSettings(size="exact"),
                tmp_path / str(number),
            )
            found.append(fuse_uses(*given).concept.deltas)
    assert seen[-1] > 50  # of a concept's own model
    assert max(gap(found[1][name].dense(), delta.dense()) for name, delta in found[0].items()) < 1e-3


def test_keys_are_those_of_the_checkpoint_in_every_state(tiny_sd15, lora):
    """Loaded whole with patches baked in, cast layer by layer, and unloaded again."""
    model = apply_deltas(tiny_sd15.model, None, lora)[0]
    wanted = models_key(model, tiny_sd15.clip), describe_base(model)
    try:
        for memory in (0, 1):
            model.patch_model(model.load_device, lowvram_model_memory=memory)
            assert (models_key(model, tiny_sd15.clip), describe_base(model)) == wanted
            model.unpatch_model(model.offload_device)
    finally:
        model.detach()
    assert (models_key(model, tiny_sd15.clip), describe_base(model)) == wanted


def test_a_compiled_model_steps_aside(tiny_sd15, caplog):
    """Behind the host's compile node regions and routing act as without it; nothing is compiled, and it is said."""
    wanted = painted(tiny_sd15, tiny_sd15.model)
    compiled = tiny_sd15.model.clone()
    set_torch_compile_wrapper(compiled, backend="eager", options={})
    before = dict(torch._dynamo.utils.counters["frames"])
    assert torch.equal(painted(tiny_sd15, compiled), wanted)
    assert dict(torch._dynamo.utils.counters["frames"]) == before
    assert "runs uncompiled" in caplog.text
