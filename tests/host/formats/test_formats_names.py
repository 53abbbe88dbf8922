"""The names table against the real modules of the host and of diffusers: a bijection, in the right order."""

import pytest
from diffusers import UNet2DConditionModel
from mos_pack.mixofshow_core.families import layers as layer_words
from mos_pack.mixofshow_core.families import names as dialect_names
from mos_pack.mixofshow_core.families import nets as kinds
from mos_pack.mixofshow_core.families import text
from mos_pack.mixofshow_core.families import unet as unets
from mos_pack.mixofshow_core.families.known import SD15, SDXL
from mos_pack.nodes.bridge.demo.small_base import LATENT_CHANNELS, build_clip, build_unet
from mos_pack.nodes.bridge.host import model as bridge
from mos_tests.host import tiny

# The published layout of each family, as diffusers writes it: an oracle that shares nothing with our table.
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
DIFFUSERS = {
    "sd15": dict(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=(CROSS_DOWN,) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + (CROSS_UP,) * 3,
        cross_attention_dim=64,
    ),
    "sdxl": dict(
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
        up_block_types=(CROSS_UP, CROSS_UP, "UpBlock2D"),
        cross_attention_dim=128,
        transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=64 + 6 * 256,
    ),
    "lean": dict(
        block_out_channels=(64, 128),
        down_block_types=(CROSS_DOWN,) * 2,
        up_block_types=(CROSS_UP,) * 2,
        layers_per_block=1,
        cross_attention_dim=128,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
    ),
}
LAYERS = {"sd15": 16, "sdxl": 70, "lean": 7}


@pytest.fixture(scope="module", params=list(DIFFUSERS))
def nets(request):
    """(family, host UNet, diffusers UNet, {encoder: module}) of one topology."""
    family = request.param
    theirs = UNet2DConditionModel(attention_head_dim=8, norm_num_groups=32, **DIFFUSERS[family])
    if family == "lean":
        clip = build_clip()
        return family, build_unet().diffusion_model, theirs, bridge.text_models_of(clip)
    base = request.getfixturevalue(f"tiny_{family}")
    return family, bridge.net_of(base.model), theirs, bridge.text_models_of(base.clip)


def paths_with_weights(module):
    return {name.rsplit(".", 1)[0]: p.shape for name, p in module.named_parameters() if name.endswith(".weight")}


def names_of(unet, texts):
    layers = {encoder: len(list(text.text_blocks(module))) for encoder, module in texts.items()}
    return dialect_names.NameTable(unets.unet_layout(unet), layers)


def test_every_module_has_one_name_in_every_dialect(nets):
    _, unet, theirs, texts = nets
    names, ours, expected = names_of(unet, texts), paths_with_weights(unet), paths_with_weights(theirs)
    assert {names.of(layer_words.UNET_PREFIX + path).path for path in ours} == set(expected)
    for path, shape in ours.items():
        row = names.of(layer_words.UNET_PREFIX + path)
        assert expected[row.path] == shape, f"{path} and {row.path} are different modules"
        assert names.by_diffusers["unet", row.path] is names.by_kohya[row.kohya] is row
    for encoder, module in texts.items():
        for path in paths_with_weights(module):
            row = names.of(f"{layer_words.TEXT_PREFIX}{encoder}.{path}")
            assert names.by_diffusers[row.part, row.path] is names.by_kohya[row.kohya] is row
    assert len(names.by_layer) == len(names.by_diffusers) == len(names.by_kohya)


def test_the_layer_index_goes_down_middle_up(nets):
    """diffusers' own module walk goes down, up, middle: an index taken from it would put the middle last."""
    family, unet, theirs, texts = nets
    names = names_of(unet, texts)
    queries = [f"{layer_words.UNET_PREFIX}{layer.path}.to_q" for layer in kinds.cross_attention_layers(unet)]
    ours = [names.of(query).path.removesuffix(".to_q") for query in queries]
    walk = [name for name, _ in theirs.named_modules() if name.endswith(".attn2")]
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    assert len(walk) == LAYERS[family]
    assert ours == sorted(walk, key=lambda name: order[name.split(".")[0]])
    middle = next(i for i, name in enumerate(ours) if name.startswith("mid"))
    assert ours != walk and middle == {"sd15": 6, "sdxl": 24, "lean": 2}[family]


def test_the_host_agrees_on_kohya_names(nets):
    import comfy.lora

    family, unet, _, texts = nets
    if family == "lean":
        pytest.skip("the host's table is asked with the tiny bases")
    base = {"sd15": tiny.tiny_base, "sdxl": tiny.tiny_base}[family](family)
    keys = comfy.lora.model_lora_keys_unet(base.model.model, {})
    keys = comfy.lora.model_lora_keys_clip(base.clip.cond_stage_model, keys)
    names = names_of(unet, texts)
    for layer in bridge.named_linears(base.model, base.clip):
        if layer.endswith(("text_projection", "emb_layers.1", "skip_connection")) or "label_emb" in layer:
            continue
        assert keys[names.of(layer).kohya] == bridge.patch_key(layer)


def test_a_layout_is_found_again_from_the_names_alone(nets):
    _, unet, theirs, _ = nets
    layout = unets.unet_layout(unet)
    assert dialect_names.guess_layout(paths_with_weights(unet)) == layout
    assert dialect_names.guess_layout(paths_with_weights(theirs)) == layout


def test_the_published_layouts(tiny_sd15, tiny_sdxl):
    assert unets.unet_layout(bridge.net_of(tiny_sd15.model)) == SD15.layout
    assert unets.unet_layout(bridge.net_of(tiny_sdxl.model)) == SDXL.layout
    assert dialect_names.guess_layout([], 2048) == SDXL.layout
