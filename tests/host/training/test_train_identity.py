"""What a run is taught is what sampling would use."""

import pytest
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.host.model import family
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
