"""As tests/unit/base/test_choices.py, for what reads choices in the bridge and the nodes."""

import numpy as np
import pytest
import torch
from mos_pack.mixofshow_core.concept import ROLES, ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.export import WHOLE_FORMATS
from mos_pack.mixofshow_core.fusion.settings import MODES
from mos_pack.mixofshow_core.training.augment import paste
from mos_pack.mixofshow_core.training.dataset import Picture
from mos_pack.mixofshow_core.training.settings import EMBEDDING_ROWS, LAYERS, MASKS
from mos_pack.nodes.bridge.formats.exporting import EXPORT_FORMATS, export_whole
from mos_pack.nodes.bridge.fusing.stages import MODE_STAGES
from mos_pack.nodes.bridge.host.model import net_of
from mos_pack.nodes.bridge.training.denoiser import embedding_index
from mos_pack.nodes.bridge.training.encode import cell_masks
from mos_pack.nodes.bridge.training.parts import unet_layer_names
from mos_pack.nodes.evaluate import CROPS, MixOfShowScore
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.placing.test_routing import make_use


def masked(base, kind):
    placed = paste(Picture("x", np.zeros((64, 64, 3), np.uint8), "x"), 64, 1.0, 0.5, 0.5, False)
    return cell_masks(placed, 8, 8, kind)


def placed(base, role):
    use = make_use(base, "mara", 1)
    object.__setattr__(use, "role", role)
    return MixOfShowPlace.one(base.model, base.clip, "mara", "", None, [use])


def scored(base, crop):
    pictures = torch.zeros(1, 8, 8, 3)
    with pytest.raises(MixOfShowError, match="evaluator|magic") as told:  # nothing to look with is connected
        MixOfShowScore.execute(pictures, "", "", crop)
    if "magic" in str(told.value):
        raise told.value


def exported(base, kind):
    if kind == "magic":
        return export_whole(kind, None, ConceptUse(make_use(base, "mara", 1).concept), base.model, base.clip, None)
    assert kind in EXPORT_FORMATS
    return None


READERS = {
    "embedding_rows": (lambda b, w: embedding_index(net_of(b.model), w), EMBEDDING_ROWS),
    "unet_layers": (lambda b, w: unet_layer_names(net_of(b.model), w), LAYERS),
    "loss_mask": (masked, MASKS),
    "role": (placed, ROLES),
    "crop": (scored, CROPS),
    "whole format": (exported, WHOLE_FORMATS),
}


@pytest.mark.parametrize("name", READERS)
def test_every_word_is_wired_and_no_other_is_taken_for_one(tiny_sd15, name):
    reader, words = READERS[name]
    for word in words:
        reader(tiny_sd15, word)
    with pytest.raises(MixOfShowError, match="magic"):
        reader(tiny_sd15, "magic")


def test_every_mode_of_fusing_has_its_stages():
    assert set(MODE_STAGES) == set(MODES)


def test_layers_of_a_choice_are_all_different(tiny_sd15):
    sizes = [len(unet_layer_names(net_of(tiny_sd15.model), word)) for word in LAYERS]
    assert sizes == sorted(set(sizes))
