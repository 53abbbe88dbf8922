"""What we write: bit-equal where the target can hold the content, a sentence about what it cannot, and the errors."""

import json
from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.delta import Dense, LowRank, norm
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats import compress, edlora, read_any
from mos_pack.mixofshow_core.formats.export import FORMATS, export
from mos_pack.mixofshow_core.formats.native import load_safetensors
from mos_tests.unit.builders import make_concept
from mos_tests.unit.formats import reference_files as files

FIRST_K = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
TEXT_Q = "text_encoders.clip_l.transformer.text_model.encoder.layers.1.self_attn.q_proj"


@pytest.fixture
def concept(tmp_path):
    """A whole ED-LoRA on SD1.5's layer names with mixed ranks and alphas, read from a reference file."""
    torch.save(files.edlora(), tmp_path / "reference.pth")
    read = read_any(tmp_path / "reference.pth").concept
    deltas = dict(read.deltas)
    deltas[FIRST_K] = replace(deltas[FIRST_K], alpha=4.0)  # scale 2
    deltas[TEXT_Q] = LowRank(torch.randn(12, 3), torch.randn(3, 12), 3.0)
    return replace(read, deltas=deltas)


def same_deltas(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        a, b = ours[name].scaled(1.0), theirs[name].scaled(1.0)
        assert torch.equal(a.up, b.up) and torch.equal(a.down, b.down), name


@pytest.mark.parametrize("kind", ["concept", "ed-lora", "ed-lora-pth"])
def test_round_trips_are_bit_equal(kind, concept, tmp_path):
    done = export(concept, kind, tmp_path / "out")
    back = read_any(done.paths[0]).concept
    same_deltas(concept.deltas, back.deltas)
    for ours, theirs in zip(concept.entries[0].embeddings, back.entries[0].embeddings, strict=True):
        assert torch.equal(ours.per_layer("clip_l"), theirs.per_layer("clip_l"))
    assert [w.text for w in back.entries[0].words] == [w.text for w in concept.entries[0].words]
    if kind == "concept":
        assert back.content_hash == concept.content_hash and not done.lost
    else:
        assert any("alpha" in text for text in done.lost)


@pytest.mark.parametrize("style", edlora.STYLES)
def test_the_reference_tree_is_written_key_for_key(style, tmp_path):
    from mos_pack.mixofshow_core.families.names import NameTable
    from mos_pack.mixofshow_core.formats.dialect import layout_of

    tree = files.edlora(style=style)["params"]
    torch.save(tree, tmp_path / "reference.pth")
    concept = read_any(tmp_path / "reference.pth").concept
    ours = edlora.edlora_tree(concept, NameTable(layout_of(concept), {"clip_l": 12}), style)
    flat, expected = edlora.flatten(ours), edlora.flatten(tree)
    assert flat.keys() == expected.keys()
    assert all(torch.equal(flat[key], expected[key]) for key in flat)


def test_kohya_files_carry_alpha(concept, tmp_path):
    done = export(concept, "kohya", tmp_path / "out")
    tensors, metadata = load_safetensors(done.paths[0])
    first = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    assert float(tensors[f"{first}.alpha"]) == 4.0  # as stored
    middle = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert float(tensors[f"{middle}.alpha"]) == 2.0  # no alpha means scale 1: alpha = rank
    assert torch.equal(
        tensors["lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_up.weight"], concept.deltas[TEXT_Q].up
    )
    assert len(tensors) == 3 * 136 and "<potter1>" in done.lost[0]
    assert metadata["ss_network_dim"] == "2" and metadata["modelspec.trigger_phrase"] == "potter"
    assert json.loads(metadata["ss_tag_frequency"]) == {"mixofshow": {"potter": 1}}


def test_stock_files_come_with_one_embedding_per_concept(concept, tmp_path):
    done = export(concept, "stock", tmp_path / "out")
    lora, embedding = (load_safetensors(path)[0] for path in done.paths)
    assert not [key for key in lora if "embedding" in key] and len(lora) == 2 * 136 + 2
    rows = torch.stack([e.mean("clip_l") for e in concept.entries[0].embeddings])
    assert torch.equal(embedding["<potter>"], rows)
    assert "one mean row" in done.lost[0]
    words = read_any(done.paths[1]).concept.entries[0].words
    assert [word.text for word in words] == ["<potter-1>", "<potter-2>"]


def test_custom_diffusion_keeps_keys_and_values(concept, tmp_path):
    base = files.base_weights()
    done = export(concept, "custom-diffusion", tmp_path / "out", base=base)
    back = read_any(done.paths[0], base).concept
    assert len(back.deltas) == 32 and "104 of 136 layers" in done.lost[0]
    assert torch.allclose(back.deltas[FIRST_K].diff, concept.deltas[FIRST_K].dense(), atol=1e-6)
    small = export(concept, "custom-diffusion-compressed", tmp_path / "small", size="exact")
    assert "rank 1 0.00 MB" in small.report()
    delta = read_any(small.paths[0]).concept.deltas[FIRST_K]  # needs no base
    assert torch.allclose(delta.dense(), concept.deltas[FIRST_K].dense(), atol=1e-6)
    with pytest.raises(MixOfShowError, match="connect MODEL"):
        export(concept, "custom-diffusion", tmp_path / "out")


def test_the_papers_rule_of_compression():
    """Keep leading singular values while their share of the sum stays at most the ratio; the next one is out."""
    u, _, v = torch.linalg.svd(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    s = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0, 0.0])
    made = compress.compress_by_share({"a": Dense(u @ torch.diag(s) @ v)}, 0.75)
    assert made.deltas["a"].rank == 2  # 0.4, then 0.7, then 0.9 > 0.75
    assert made.error == pytest.approx((5 / 30) ** 0.5, rel=1e-4)
    assert made.deltas["a"].dense() == pytest.approx((u[:, :2] * s[:2] @ v[:2]), abs=1e-5)


def test_sizes(concept, tmp_path):
    rank_one = export(concept, "kohya", tmp_path / "one", size="rank 1")
    tensors, _ = load_safetensors(rank_one.paths[0])
    assert {t.shape[0] for key, t in tensors.items() if "lora_down" in key} == {1}
    assert "relative error" in rank_one.report()
    low = LowRank(torch.randn(12, 3), torch.randn(3, 12))
    u, s, v = low.svd()
    assert torch.allclose(u @ torch.diag(s) @ v, low.matrix(), atol=1e-5)
    assert norm(low) == pytest.approx(float(low.dense().norm()), rel=1e-5)
    with pytest.raises(MixOfShowError, match="Size 'huge'"):
        export(concept, "concept", tmp_path / "x", size="huge")


def test_strength_goes_into_the_weights_not_into_the_words(concept, tmp_path):
    done = export(concept, "ed-lora", tmp_path / "half", strength=0.5)
    back = read_any(done.paths[0]).concept
    assert torch.equal(back.deltas[FIRST_K].up, concept.deltas[FIRST_K].up)  # 2 x 0.5
    assert torch.equal(back.entries[0].embeddings[0].rows["clip_l"], concept.entries[0].embeddings[0].rows["clip_l"])


def test_what_a_format_cannot_hold_is_an_error(concept, tmp_path):
    sdxl = make_concept(family="sdxl", layers=70, widths={"clip_l": 768, "clip_g": 1280})
    with pytest.raises(MixOfShowError, match="two text encoders"):
        export(sdxl, "ed-lora", tmp_path / "x")
    conv = replace(concept, deltas={"diffusion_model.input_blocks.1.0.in_layers.2": Dense(torch.randn(4, 4, 3, 3))})
    with pytest.raises(MixOfShowError, match="3x3 convolution.*format kohya, diffusers or concept"):
        export(conv, "ed-lora", tmp_path / "x")
    odd = replace(concept, deltas={"diffusion_model.input_blocks.77.1.nowhere": concept.deltas[FIRST_K]})
    with pytest.raises(MixOfShowError, match="nowhere.*does not exist"):
        export(odd, "kohya", tmp_path / "x")
    with pytest.raises(MixOfShowError, match="unknown; use one of concept"):
        export(concept, "zip", tmp_path / "x")
    assert not list(tmp_path.glob("x*")) and len(FORMATS) == 10


KERNEL = "diffusion_model.input_blocks.1.0.in_layers.2"


@pytest.mark.parametrize(
    ("kind", "up", "down"),
    [("kohya", "lora_up", "lora_down"), ("diffusers", "lora_B", "lora_A"), ("peft", "lora_B", "lora_A")],
)
@pytest.mark.parametrize("change", [Dense(torch.randn(4, 5, 3, 3)), LowRank(torch.randn(4, 2), torch.randn(2, 45))])
def test_factors_of_a_3x3_convolution_are_convolutions(kind, up, down, change, concept, tmp_path):
    """As kohya's and PEFT's programs make them: the kernel in `down`, 1x1 in `up`."""
    done = export(replace(concept, deltas={KERNEL: change}), kind, tmp_path / "x", "4")
    tensors = load_safetensors(done.paths[0])[0]
    if f"{kind}{type(change).__name__}" == "kohyaDense":  # a full-rank kernel stays as it is where it can
        assert torch.equal(tensors["lora_unet_down_blocks_0_resnets_0_conv1.diff"], change.diff)
        return
    shapes = {key.rpartition("lora_")[2]: tuple(value.shape[1:]) for key, value in tensors.items() if "lora_" in key}
    rank = shapes[f"{up.removeprefix('lora_')}.weight"][0]
    assert shapes[f"{up.removeprefix('lora_')}.weight"][1:] == (1, 1) and rank <= 4
    assert shapes[f"{down.removeprefix('lora_')}.weight"] == (5, 3, 3)


def test_norms_and_biases_are_written_where_they_fit_and_told_where_not(concept, tmp_path):
    norm, bias = "diffusion_model.input_blocks.1.1.norm", f"{FIRST_K.replace('to_k', 'to_out.0')}.bias"
    both = replace(concept, deltas={**concept.deltas, norm: Dense(torch.randn(8)), bias: Dense(torch.randn(8))})
    keys = load_safetensors(export(both, "kohya", tmp_path / "kohya").main)[0]
    block = "lora_unet_down_blocks_0_attentions_0"
    assert {f"{block}_norm.diff", f"{block}_transformer_blocks_0_attn2_to_out_0.diff_b"} <= keys.keys()
    done = export(both, "concept", tmp_path / "concept")
    assert read_any(done.main).concept.content_hash == both.content_hash
    for kind in ("diffusers", "peft", "ed-lora", "ed-lora-pth"):
        done = export(both, kind, tmp_path / kind)
        assert "changes of 2 norms and biases" in done.lost[0] and "% of the concept's norm" in done.lost[0], kind


def test_the_thumbnail_reaches_the_header(concept, tmp_path):
    url = "data:image/png;base64,aGVsbG8="
    done = export(replace(concept, training={"thumbnail": url}), "concept", tmp_path / "out")
    assert load_safetensors(done.paths[0])[1]["modelspec.thumbnail"] == url
    done = export(replace(concept, training={"thumbnail": "http://x/y.png"}), "concept", tmp_path / "other")
    assert "modelspec.thumbnail" not in load_safetensors(done.paths[0])[1]


def test_a_drawn_picture_becomes_the_thumbnail_and_nothing_else_changes(concept, tmp_path):
    from mos_pack.mixofshow_core.formats import card
    from mos_pack.mixofshow_core.formats.native import read_concept, write_concept
    from mos_pack.mixofshow_core.formats.thumbnail import SIDE, add_thumbnail

    path = tmp_path / "mara.safetensors"
    write_concept(path, replace(concept, training={"steps": 3}))
    picture = torch.zeros(300, 400, 3)
    picture[..., 0] = 1.0
    add_thumbnail(path, picture)
    back, (_, metadata) = read_concept(path), load_safetensors(path)
    assert back.content_hash == concept.content_hash and back.training["steps"] == 3
    assert metadata["modelspec.thumbnail"] == back.training["thumbnail"]
    shown = card._thumbnail(back.training, SIDE)
    assert shown.size == (SIDE, SIDE * 3 // 4) and shown.getpixel((9, 9))[0] > 240 > 20 > shown.getpixel((9, 9))[1]
    before = path.read_bytes()
    add_thumbnail(path, 1 - picture)  # a finished run that is loaded again keeps its picture
    assert path.read_bytes() == before
