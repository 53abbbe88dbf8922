"""Training on weights that are cast as layers run: unloaded as far as the host can, or stored in 8 bits."""

from types import SimpleNamespace

import comfy.model_management
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_pack.nodes.bridge.training import run as training_run
from mos_pack.nodes.bridge.training.loading import load_for_training
from mos_tests.host.placing.test_routing import make_use
from mos_tests.host.tiny import TinyBase, in_eight_bits, scaled_pair, tiny_base
from mos_tests.host.training.test_train import SIZE, ask, gradients, opened


def apart(found, wanted):
    """The largest difference as a share of the gradient, or of a thousandth of the largest one: queries and keys of the
    middle, which see a single place here, have none but rounding."""
    least = max(float(part.norm()) for part in wanted.values()) / 1000
    return max(float((found[name] - part).norm()) / max(float(part.norm()), least) for name, part in wanted.items())


@pytest.mark.parametrize("checkpointing", [pytest.param("off", marks=pytest.mark.slow), "on"])
def test_gradients_do_not_care_where_weights_are(checkpointing):
    """Each layer casts its own weight, and lays a LoRA of the base onto it, in the forward pass and when it is
    recomputed: what --novram does to them on a GPU."""
    with torch.inference_mode():
        base = tiny_base("sd15")
        base.model.model.native_size = SIZE
        model = apply_deltas(base.model, None, make_use(base, "x", 7, text=False).concept.deltas)[0]
    patched, found = TinyBase(model, base.clip, base.vae), []
    for elsewhere in (False, True):
        with opened(patched, checkpointing=checkpointing) as run:
            if elsewhere:
                for patcher in run[0].patchers:
                    patcher.unpatch_model(patcher.offload_device)
                    patcher.patch_model(patcher.load_device, lowvram_model_memory=1)
                assert run[0].patchers[0].lowvram_patch_counter() > 50
            found.append(gradients(run)[1])
            for patcher in run[0].patchers:
                patcher.detach()
    assert apart(found[1], found[0]) < 1e-4
    with opened(base, checkpointing=checkpointing) as run:
        assert apart(gradients(run)[1], found[0]) > 1e-2  # the LoRA counts


@pytest.mark.parametrize("way", [pytest.param("plain", marks=pytest.mark.slow), "scaled", "quantised"])
def test_a_base_in_8_bits_trains_as_the_same_values_in_fp32(way):
    with torch.inference_mode():
        base, same = tiny_base("sd15"), tiny_base("sd15")
        if way == "plain":
            in_eight_bits(base.model)
            for name, weight in same.model.model.diffusion_model.state_dict().items():
                weight.copy_(base.model.model.diffusion_model.state_dict()[name])
            models = base.model, same.model
        else:
            models = scaled_pair(base.model, way)
    found = []
    for model in models:
        model.model.native_size = SIZE
        with opened(TinyBase(model, base.clip, base.vae)) as run:
            found.append(gradients(run)[1])
    assert apart(*found) < 1e-4


@pytest.fixture
def large():
    """A net of 4 kB that is wanted on a device where it is not; no GPU is needed to ask what would be loaded."""
    net = torch.nn.Linear(1000, 1, bias=False)
    return SimpleNamespace(model=net, load_device=torch.device("meta"), model_size=lambda: 4000)


def test_a_base_that_does_not_fit_is_loaded_in_part(large, monkeypatch):
    """With checkpointing and beside what the run needs; else whole, or not at all."""
    asked = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, **how: asked.append(how))
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device: 10_000)
    for beside, recomputes in ((5000, True), (6000, True), (6000, False)):
        assert load_for_training([large], beside, recomputes) == 4000  # nothing was loaded, really
    assert [how["force_full_load"] for how in asked] == [True, False, True]
    assert [how["memory_required"] for how in asked] == [0, 6000, 0]


def test_weights_cast_into_one_buffer_are_refused(large, monkeypatch):
    """Hosts of 2026 overwrite a cast weight with the next one: gradients would be wrong without any error."""
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: None)
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device: 0)
    monkeypatch.setattr(comfy.model_management, "get_cast_buffer", None, raising=False)
    monkeypatch.setattr(comfy.model_management, "NUM_STREAMS", 2)
    with pytest.raises(MixOfShowError, match="--disable-async-offload"):
        load_for_training([large], 0, True)
    monkeypatch.setattr(comfy.model_management, "NUM_STREAMS", 0)
    assert load_for_training([large], 0, True) == 4000


def test_no_memory_for_the_base_says_what_would_help(monkeypatch):
    """Also while it is loaded, before the first step."""
    with torch.inference_mode():
        base = tiny_base("sd15")
    base.model.model.native_size = SIZE

    def full(models, **how):
        if "force_full_load" in how:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return load(models, **how)

    load = comfy.model_management.load_models_gpu
    request = ask(base, checkpointing="off")
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", full)
    with torch.inference_mode(), pytest.raises(MixOfShowError, match="Not enough memory.*checkpointing to on"):
        training_run.run_training(request)
