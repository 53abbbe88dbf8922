"""Pivotal-tuning files of 2023: numbers become layers, words one concept; what does not fit is refused."""

from pathlib import Path

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.known import SD15
from mos_pack.mixofshow_core.families.names import NameTable
from mos_pack.mixofshow_core.formats import read_any
from mos_pack.mixofshow_core.formats.peek import names_in_file
from mos_tests.unit.formats import reference_files as files
from safetensors.torch import save_file

REAL = Path(__file__).resolve().parents[4] / "shared" / "real-files" / "lora_disney.safetensors"
MIDDLE = "diffusion_model.middle_block.1.transformer_blocks.0"


def saved(tmp_path, tensors, name="Old Style (v2).safetensors"):
    save_file(tensors, str(tmp_path / name))
    return tmp_path / name


@pytest.mark.parametrize("feed_forward", [True, False])
def test_every_number_is_its_layer_and_all_words_are_one_concept(tmp_path, feed_forward):
    tensors = files.pivotal(feed_forward=feed_forward)
    path = saved(tmp_path, tensors)
    result = read_any(path)
    concept, names = result.concept, NameTable(SD15.layout, {})
    assert (result.kind, result.skipped, len(result.used)) == ("pivotal tuning", (), len(tensors))
    order = files.pivotal_order(feed_forward=feed_forward)
    for number, (diffusers, _) in enumerate(order):
        delta = concept.deltas[names.by_diffusers["unet", diffusers].layer]
        assert torch.equal(delta.up, tensors[f"unet:{number}:up"]) and delta.scale == 1.0, diffusers
        assert torch.equal(delta.down, tensors[f"unet:{number}:down"]), diffusers
    last = concept.deltas[f"{MIDDLE}.attn2.to_out.0"]
    assert torch.equal(last.up, tensors[f"unet:{len(order) - 1}:up"]), "the middle block is numbered last"
    text = "text_encoders.clip_l.transformer.text_model.encoder.layers.2.self_attn"
    for slot, number in (("k_proj", 8), ("v_proj", 9), ("q_proj", 10), ("out_proj", 11)):
        assert torch.equal(concept.deltas[f"{text}.{slot}"].down, tensors[f"text_encoder:{number}:down"])
    (entry,) = concept.entries
    assert (entry.name, [word.text for word in entry.words]) == ("Old_Style_v2", ["<s1>", "<s2>"])
    assert names_in_file(path) == ("Old_Style_v2",)
    for word, embedding in zip(entry.words, entry.embeddings, strict=True):
        rows = embedding.per_layer("clip_l")
        assert torch.equal(rows, tensors[word.text].expand(len(rows), -1)), "one row for all layers"


def execution_order(tensors):
    """The same file as if the middle block had been walked where it runs."""
    order = [*range(54), *range(135, 144), *range(54, 135)]
    sides = [(new, old, side) for new, old in enumerate(order) for side in ("up", "down")]
    return tensors | {f"unet:{new}:{side}": tensors[f"unet:{old}:{side}"] for new, old, side in sides}


def without(key):
    return lambda tensors: {name: value for name, value in tensors.items() if name != key}


def with_more(**more):
    return lambda tensors: tensors | {key.replace("_", ":"): value for key, value in more.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("unet:143:down"), "'unet:143': lacks one of its factors"),
        (lambda t: without("unet:143:down")(without("unet:143:up")(t)), "143 layers are numbered; in SD1.5 there are"),
        (lambda t: without("text_encoder:9:up")(without("text_encoder:9:down")(t)), "47 layers are numbered"),
        (with_more(unet_144_up=torch.ones(8, 1), unet_144_down=torch.ones(1, 8)), "145 layers are numbered"),
        (execution_order, "SD1.5's layer of that number is"),
        (with_more(unet_0_down=torch.ones(1, 8, 3, 3)), "only 1x1 convolutions"),
        (with_more(unet_0_down=torch.full((1, 8), float("nan"))), "NaN or infinity"),
        (lambda t: t | {"<s1>": torch.ones(2, 3, 4)}, "does not fit here"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(tmp_path, change, message):
    with pytest.raises(MixOfShowError, match=message):
        read_any(saved(tmp_path, change(files.pivotal())))


def test_a_foreign_key_is_named_and_words_alone_are_an_embedding(tmp_path):
    result = read_any(saved(tmp_path, files.pivotal() | {"note": torch.ones(3)}))
    assert result.skipped == (("note", "neither a numbered factor nor a word"),)
    words = {key: value for key, value in files.pivotal().items() if key.startswith("<")}
    assert read_any(saved(tmp_path, words)).kind == "textual inversion"


@pytest.mark.skipif(not REAL.is_file(), reason=f"the real file is not there: {REAL.name}")
def test_a_real_file_of_2023():
    result = read_any(REAL)
    assert (len(result.concept.deltas), len(result.used), result.skipped) == (144 + 48, 386, ())
    assert result.concept.base.family == "sd15" and [len(entry.words) for entry in result.concept.entries] == [2]
