"""What a layer's name tells of it, without a net."""

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.cosmos import Cosmos
from mos_pack.mixofshow_core.families.layers import LAYER_ROLES, ROLE_TITLES
from mos_pack.mixofshow_core.families.nets import has_places, role_of
from mos_pack.mixofshow_core.fusion.fuse import choose_groups

BLOCK = "diffusion_model.input_blocks.4.1"
TEXT = "text_encoders.clip_l.transformer.text_model"


@pytest.mark.parametrize(
    ("name", "places"),
    [
        (f"{BLOCK}.transformer_blocks.0.attn2.to_q", True),
        (f"{BLOCK}.proj_in", True),
        (f"{BLOCK}.proj_out", True),
        ("input_blocks.4.1.transformer_blocks.0.ff.net.2", True),
        ("diffusion_model.blocks.3.mlp.layer2", True),
        ("diffusion_model.blocks.3.adaln_modulation_mlp.1", False),
        ("diffusion_model.llm_adapter.blocks.3.mlp.0", False),
        ("diffusion_model.time_embed.0", False),
        ("diffusion_model.label_emb.0.0", False),
        ("diffusion_model.input_blocks.4.0.emb_layers.1", False),
    ],
)
def test_which_linears_see_places_of_the_picture(name, places):
    assert has_places(name) == places


def test_fusion_solves_what_has_places_and_the_layers_of_text_encoders():
    text = (f"{TEXT}.encoder.layers.0.mlp.fc1", f"{TEXT}_projection")
    names = [f"{BLOCK}.proj_in", "diffusion_model.time_embed.0", *text]
    groups, left = choose_groups((), names, [dict.fromkeys(names)])
    assert {group.name for group in groups} == {names[0], names[2]} and set(left) == {names[1], names[3]}


def test_every_role_has_a_title():
    assert tuple(ROLE_TITLES) == LAYER_ROLES
    assert {role_of(f"{BLOCK}.attn2.to_k"), role_of(BLOCK), role_of(TEXT)} == set(LAYER_ROLES)


def test_a_text_that_the_net_cannot_read_is_refused():
    """Anima's adapter makes at most 512 rows; what it is given beside the text tells how many there are."""
    kind = Cosmos()
    kind.check_text({"t5xxl_ids": torch.zeros(512)}, "prompt")
    kind.check_text({}, "prompt")
    with pytest.raises(MixOfShowError, match="The prompt of region 'left' has 513 tokens; Anima reads at most 512"):
        kind.check_text({"t5xxl_ids": torch.zeros(513)}, "prompt of region 'left'")
