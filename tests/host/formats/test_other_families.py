"""LoRAs of Anima and Cosmos-Predict2 in three dialects, and what is said of a file for another kind of net."""

import pytest
import torch
from mos_tests.host.other_nets import tiny_net
from safetensors.torch import save_file

LAYERS = ("blocks.0.cross_attn.k_proj", "blocks.1.self_attn.output_proj", "blocks.2.mlp.layer1")
OTHERS = {
    "Flux": "transformer.single_transformer_blocks.0.attn.to_q",
    "Qwen-Image": "transformer_blocks.0.attn.to_k",
}


def lora_of(model, dialect: str) -> dict[str, torch.Tensor]:
    generator, found = torch.Generator().manual_seed(2), {}
    for path in LAYERS:
        out, width = model.model.diffusion_model.get_submodule(path).weight.shape
        up, down = torch.randn(out, 2, generator=generator), torch.randn(2, width, generator=generator)
        name = f"diffusion_model.{path}"
        if dialect == "kohya":
            name = f"lora_unet_{path.replace('.', '_')}"
            found |= {
                f"{name}.lora_up.weight": up,
                f"{name}.lora_down.weight": down,
                f"{name}.alpha": torch.tensor(1.0),
            }
        elif dialect == "peft":
            found |= {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}
        else:
            first = torch.randn(4, 4, generator=generator)
            second = torch.randn(out // 4, width // 4, generator=generator)
            found |= {f"{name}.lokr_w1": first, f"{name}.lokr_w2": second, f"{name}.alpha": torch.tensor(1.0)}
    return found


def read(path, base=None):
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.nodes.bridge.formats.foreign import read_with_host
    from mos_pack.nodes.bridge.formats.live import base_weights

    return ConceptUse(read_with_host(path, "ann", base and base_weights(*base)).concept, path=path.name)


@pytest.mark.parametrize("dialect", ["kohya", "peft", "lokr"])
def test_a_file_is_what_the_stock_loader_makes_of_it(tiny_cosmos, dialect, tmp_path):
    import comfy.sd
    from mos_pack.nodes.bridge.host.model import apply_deltas, effective_weights

    lora = lora_of(tiny_cosmos.model, dialect)
    save_file(lora, tmp_path / "ann.safetensors")
    use = read(tmp_path / "ann.safetensors", (tiny_cosmos.model, tiny_cosmos.clip))
    assert use.concept.base.family == "cosmos2"
    names = [f"diffusion_model.{path}" for path in LAYERS]
    assert sorted(use.concept.deltas) == names
    ours = effective_weights(apply_deltas(tiny_cosmos.model, None, use.concept.deltas)[0], names)
    stock = effective_weights(comfy.sd.load_lora_for_models(tiny_cosmos.model, None, dict(lora), 1.0, 0.0)[0], names)
    for name in names:
        torch.testing.assert_close(ours[name], stock[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["kohya", "stock"])
def test_what_is_exported_is_read_again_by_the_stock_loader(tiny_cosmos, kind, tmp_path):
    import comfy.sd
    import comfy.utils
    from mos_pack.mixofshow_core.formats.export import export
    from mos_pack.nodes.bridge.host.model import effective_weights

    lora = lora_of(tiny_cosmos.model, "kohya")
    save_file(lora, tmp_path / "ann.safetensors")
    use = read(tmp_path / "ann.safetensors")
    done = export(use.concept, kind, tmp_path / "out.safetensors", "exact")
    again = comfy.utils.load_torch_file(str(done.main))
    names = [f"diffusion_model.{path}" for path in LAYERS]
    found, wanted = (
        effective_weights(comfy.sd.load_lora_for_models(tiny_cosmos.model, None, file, 1.0, 0.0)[0], names)
        for file in (again, dict(lora))
    )
    assert done.lost == ()
    for name in names:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-5)


def test_a_change_of_the_language_model_is_read(tiny_anima, tmp_path):
    name = "lora_te_layers_1_self_attn_o_proj"
    key = "text_encoders.qwen3_06b.transformer.model.layers.1.self_attn.o_proj"
    out, width = tiny_anima.clip.cond_stage_model.get_submodule(key.removeprefix("text_encoders.")).weight.shape
    lora = lora_of(tiny_anima.model, "kohya")
    lora |= {f"{name}.lora_up.weight": torch.ones(out, 1), f"{name}.lora_down.weight": torch.ones(1, width)}
    save_file(lora, tmp_path / "ann.safetensors")
    found = read(tmp_path / "ann.safetensors", (tiny_anima.model, tiny_anima.clip))
    assert key in found.concept.deltas and len(found.concept.deltas) == 1 + len(LAYERS)


def test_a_lora_of_another_family_is_refused_with_both_names(tiny_cosmos, tiny_sd15, tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.bridge.host.fitting import check_fit

    save_file(lora_of(tiny_cosmos.model, "kohya"), tmp_path / "ann.safetensors")
    use = read(tmp_path / "ann.safetensors")  # without a base, too
    with pytest.raises(MixOfShowError, match=r"made for Anima or Cosmos-Predict2, but MODEL is the sd-64 family"):
        check_fit(tiny_sd15.model, tiny_sd15.clip, [use])
    check_fit(tiny_cosmos.model, tiny_cosmos.clip, [use])  # the remedy


@pytest.mark.parametrize("title", OTHERS)
def test_a_file_of_a_net_without_a_row_is_called_by_name(title, tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError

    name = OTHERS[title]
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 8), f"{name}.lora_B.weight": torch.ones(8, 2)},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(MixOfShowError, match=rf"holds no LoRA for SD1.5, .*looks like one for {title}: connect"):
        read(tmp_path / "x.safetensors")


def test_place_names_a_net_whose_attention_it_cannot_split(tiny_sd15):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.place import MixOfShowPlace

    with pytest.raises(MixOfShowError, match=r"MODEL is a Flux, whose attention.* Fuse works"):
        MixOfShowPlace.one(tiny_net("flux"), tiny_sd15.clip, "a street", "bad")
