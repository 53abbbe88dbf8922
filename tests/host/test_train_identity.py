"""What a run depends on is in its key, and what it is taught is what sampling would use."""

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.host.fingerprints import module_digest, options_digest, patches_digest
from mos_pack.nodes.bridge.host.model import family, named_linears, patch_key
from mos_pack.nodes.bridge.training.denoiser import prediction_of


def sampled(base, kind, zsnr=False):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(base.model.clone(), kind, zsnr)[0]


def test_prediction_is_what_sampling_would_use(tiny_sd15):
    plain = family(tiny_sd15.model)
    assert prediction_of(tiny_sd15.model) == "eps" and not plain.endswith("-v")
    swapped = sampled(tiny_sd15, "v_prediction")
    assert prediction_of(swapped) == "v" and family(swapped) == plain + "-v"
    for kind in ("x0", "lcm", "img_to_img"):
        with pytest.raises(MixOfShowError, match="training knows eps and v"):
            prediction_of(sampled(tiny_sd15, kind))
    assert prediction_of(sampled(tiny_sd15, "eps")) == "eps"  # the remedy that the message names


def test_a_schedule_is_known_by_its_values(tiny_sd15):
    digests = {options_digest(sampled(tiny_sd15, kind, z)) for kind in ("eps", "v_prediction") for z in (False, True)}
    assert len(digests) == 4
    assert options_digest(sampled(tiny_sd15, "eps")) in digests


def test_a_lora_on_any_layer_changes_the_key(tiny_sd15):
    names = sorted(named_linears(tiny_sd15.model, None))
    layer = patch_key(next(name for name in names if "output_blocks" in name and "attn2.to_v" in name))

    def patched(value: torch.Tensor):
        model = tiny_sd15.model.clone()
        model.add_patches({layer: ("diff", (value,))})
        return patches_digest(model)

    weight = torch.zeros(tiny_sd15.model.model.state_dict()[layer].shape)
    other = weight.clone()
    other.view(-1)[-1] = 1e-3  # the last value of a large matrix
    assert len({patches_digest(tiny_sd15.model), patched(weight), patched(other)}) == 3
    assert patched(other) == patched(other.clone())


def test_an_autoencoder_is_known_by_its_weights(tiny_sd15):
    vae = tiny_sd15.vae.first_stage_model
    before = module_digest(vae)
    weight = next(iter(vae.parameters()))
    kept = weight.detach().clone()
    try:
        weight.data.add_(1e-3)
        assert module_digest(vae) != before
    finally:
        weight.data.copy_(kept)
    assert module_digest(vae) == before
