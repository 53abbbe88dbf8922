"""Training on weights that are cast as layers run: unloaded as far as the host can, or stored in 8 bits."""

import pytest
import torch
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_tests.host.placing.test_routing import make_use
from mos_tests.host.tiny import TinyBase, in_eight_bits, scaled_pair, tiny_base
from mos_tests.host.training.test_train import SIZE, gradients, opened


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
