"""Every dialect of other people's files, written from its published layout, read back value for value."""

import json
import re

import pytest
import torch
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats import edlora, native, pickled, read_any
from mos_tests.unit.builders import make_concept
from mos_tests.unit.formats import reference_files as files
from safetensors.torch import save_file

FIRST_K = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
FIRST_K_ANYWHERE = r"(down_blocks\.0\.attentions\.0|input_blocks\.1\.1)\..*attn2.*to_k"
MIDDLE_V = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v"
TEXT_Q = "text_encoders.clip_l.transformer.text_model.encoder.layers.1.self_attn.q_proj"


def saved(tmp_path, tree, name="file.pth"):
    torch.save(tree, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("embeddings", ["new_concept_embedding", "new_concept_token", "modifier_token"])
@pytest.mark.parametrize("style", ["main", "research"])
def test_edlora_in_both_dialects_and_with_old_keys(tmp_path, style, embeddings, wrap):
    tree = files.edlora(style=style, embeddings=embeddings, wrap=wrap)
    result = read_any(saved(tmp_path, tree))
    parts, concept = tree.get("params", tree), result.concept
    assert (result.kind, concept.name, len(concept.deltas)) == ("ED-LoRA", "potter", 128 + 8)
    assert not result.skipped and len(result.used) == 2 * 136 + 2
    up, down = (".lora_up.weight", ".lora_down.weight") if style == "main" else ("_lora.up.weight", "_lora.down.weight")
    for layer, path in (
        (FIRST_K, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"),
        (MIDDLE_V, "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"),
    ):
        delta = concept.deltas[layer]
        assert torch.equal(delta.up, parts["unet"][path + up]) and torch.equal(delta.down, parts["unet"][path + down])
        assert delta.scale == 1.0  # the reference never divides by the rank
    text_key = "text_model.encoder.layers.1.self_attn.q_proj" + up
    assert torch.equal(concept.deltas[TEXT_Q].up, parts["text_encoder"][text_key])
    for number, word in enumerate(("<potter1>", "<potter2>")):
        assert concept.entries[0].words[number].text == word
        assert torch.equal(concept.entries[0].embeddings[number].per_layer("clip_l"), parts[embeddings][word])


def test_unknown_keys_are_listed_with_a_reason(tmp_path):
    tree = files.edlora()
    unet = tree["params"]["unet"]
    far = "down_blocks.9.attentions.0.transformer_blocks.0.attn2.to_k"
    unet |= {f"{far}.lora_up.weight": torch.ones(8, 2), f"{far}.lora_down.weight": torch.ones(2, 12)}
    unet["conv_in.weight"] = torch.ones(3)
    tree["params"]["epoch"] = 3
    with pytest.raises(MixOfShowError, match="10 resolutions"):
        read_any(saved(tmp_path, tree))
    del unet[f"{far}.lora_up.weight"], unet[f"{far}.lora_down.weight"]
    unet |= {"nonsense.lora_up.weight": torch.ones(8, 2), "nonsense.lora_down.weight": torch.ones(2, 8)}
    result = read_any(saved(tmp_path, tree))
    skipped = dict(result.skipped)
    assert skipped["unet.conv_in.weight"] == "not a low-rank factor"
    assert skipped["epoch"] == "not a part of an ED-LoRA file"
    assert "no such layer" in skipped["unet.nonsense.lora_up.weight"]
    assert "not a low-rank factor" in result.summary()


def test_custom_diffusion_in_four_layouts(tmp_path):
    base = files.base_weights()
    for dialect, words in (("diffusers", 1), ("compvis", 2), ("processor", 0)):
        tree = files.custom_diffusion(dialect)
        path = saved(tmp_path, tree, f"{dialect}.bin")
        with pytest.raises(MixOfShowError, match="give the base model"):
            read_any(path)
        result = read_any(path, base)
        assert result.kind == "Custom Diffusion" and len(result.concept.deltas) == 32
        assert len(result.concept.entries) == words
        table = tree.get("unet", tree.get("state_dict", tree))
        stored = next(value for key, value in table.items() if re.search(FIRST_K_ANYWHERE, key))
        assert torch.equal(result.concept.deltas[FIRST_K].diff, stored - base[FIRST_K])
    tree = files.custom_diffusion("compressed")
    delta = read_any(saved(tmp_path, tree)).concept.deltas[FIRST_K]
    stored = tree["unet"]["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    assert isinstance(delta, LowRank) and torch.equal(delta.up, stored["u"]) and torch.equal(delta.down, stored["v"])


def test_fused_weights_become_differences_and_unchanged_layers_drop_out(tmp_path):
    base, tree = files.base_weights(), files.fused_weights()
    unchanged = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"
    tree["params"]["unet"][unchanged] = base[MIDDLE_V].half()  # rounding the base is no change
    result = read_any(saved(tmp_path, tree), base)
    concept = result.concept
    assert result.kind == "fused weights"
    assert [entry.name for entry in concept.entries] == ["potter", "thanos"]
    assert MIDDLE_V not in concept.deltas and len(concept.deltas) == 127 + 8
    assert isinstance(concept.deltas[TEXT_Q], Dense)
    assert torch.allclose(concept.deltas[TEXT_Q].diff, torch.full((12, 12), 0.01), atol=1e-7)


def test_a_fused_folder_takes_its_words_from_the_enlarged_token_table(tmp_path):
    tree, base = files.fused_weights()["params"], files.base_weights()
    table = torch.randn(100, 12)
    (tmp_path / "unet").mkdir()
    (tmp_path / "text_encoder").mkdir()
    save_file(tree["unet"], tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    text = tree["text_encoder"] | {"text_model.embeddings.token_embedding.weight": table}
    save_file(text, tmp_path / "text_encoder" / "model.safetensors")
    config = {"<potter1>": {"concept_token_ids": list(range(60, 76)), "concept_token_names": []}}
    (tmp_path / "new_concept_cfg.json").write_text(json.dumps(config))
    result = read_any(tmp_path, base)
    assert torch.equal(result.concept.entries[0].embeddings[0].per_layer("clip_l"), table[60:76])
    assert len(result.concept.deltas) == 136
    with pytest.raises(MixOfShowError, match="whole fused model"):
        read_any(tmp_path)
    config["<potter1>"]["concept_token_ids"][-1] = 100
    (tmp_path / "new_concept_cfg.json").write_text(json.dumps(config))
    with pytest.raises(MixOfShowError, match="token 100 of 100"):
        read_any(tmp_path, base)


@pytest.mark.parametrize(
    "dialect, words",
    [
        ("a1111", ["<mara-1>", "<mara-2>"]),
        ("emb_params", ["<file-1>", "<file-2>"]),
        ("diffusers", ["<mara>"]),
        ("sdxl", ["<file-1>", "<file-2>"]),
    ],
)
def test_textual_inversion(tmp_path, dialect, words):
    tree = files.textual_inversion(dialect)
    concept = read_any(saved(tmp_path, tree, "file.pt")).concept
    assert [word.text for word in concept.entries[0].words] == words
    assert concept.base.family == ("sdxl" if dialect == "sdxl" else "sd15")
    expected = {
        "a1111": lambda: tree["string_to_param"]["*"],
        "emb_params": lambda: tree["emb_params"],
        "diffusers": lambda: tree["<mara>"][None],
        "sdxl": lambda: tree["clip_l"],
    }[dialect]()
    rows = torch.cat([e.per_layer("clip_l") for e in concept.entries[0].embeddings])
    assert torch.equal(rows, expected)
    if dialect in ("emb_params", "sdxl", "diffusers"):
        save_file(tree, tmp_path / "file.safetensors")
        assert read_any(tmp_path / "file.safetensors").concept.content_hash == concept.content_hash


def test_a_foreign_lora_is_left_to_the_host_but_its_bundled_words_are_not_lost(tmp_path):
    save_file(files.kohya_lora_with_bundle(), tmp_path / "kohya.safetensors")
    result = read_any(tmp_path / "kohya.safetensors")
    assert result.kind == "lora" and not result.concept.deltas
    assert result.concept.entries[0].name == "mara" and len(result.concept.entries[0].words) == 2
    plain = {k: v for k, v in files.kohya_lora_with_bundle().items() if "bundle" not in k}
    save_file(plain, tmp_path / "plain.safetensors")
    assert read_any(tmp_path / "plain.safetensors").concept is None


def test_our_own_file_and_the_name_argument(tmp_path):
    concept = make_concept()
    native.write_concept(tmp_path / "any.bin", concept)  # content decides, not the name
    assert read_any(tmp_path / "any.bin").concept.content_hash == concept.content_hash
    assert read_any(tmp_path / "any.bin", name="lea").concept.name == "lea"
    assert read_any(saved(tmp_path, files.edlora()), name="harry").concept.name == "harry"


def test_edlora_as_safetensors(tmp_path):
    tree = files.edlora(wrap=False)
    save_file(edlora.flatten(tree), tmp_path / "ed.safetensors")
    expected = read_any(saved(tmp_path, tree)).concept.content_hash
    assert read_any(tmp_path / "ed.safetensors").concept.content_hash == expected


def test_a_whole_checkpoint_and_an_unknown_file_are_named(tmp_path):
    save_file({"model.diffusion_model.time_embed.0.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(MixOfShowError, match="whole checkpoint"):
        read_any(tmp_path / "model.safetensors")
    save_file({"some.thing": torch.ones(2, 2)}, tmp_path / "odd.safetensors")
    with pytest.raises(MixOfShowError, match="of no kind we know; its first keys are 'some.thing'"):
        read_any(tmp_path / "odd.safetensors")


def test_a_view_of_a_big_table_is_read_without_the_table(tmp_path):
    tree = files.edlora()
    table = torch.randn(2000, 12)
    tree["params"]["new_concept_embedding"]["<potter1>"] = table[100:116]
    concept = read_any(saved(tmp_path, tree)).concept
    rows = concept.entries[0].embeddings[0].rows["clip_l"]
    assert torch.equal(rows, table[100:116]) and rows.untyped_storage().nbytes() == 16 * 12 * 4
    pickled.save_pickled(tmp_path / "again.pth", {"rows": table[100:116]})
    assert (tmp_path / "again.pth").stat().st_size < 4000
