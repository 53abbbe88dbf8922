"""Our concept file: lossless, atomic, and refusing what is damaged with the key and the reason."""

import json
import os

import pytest
import torch
from mos_pack.mixofshow_core.delta import Dense
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats import native
from mos_tests.unit.builders import SD15_Q, TEXT_Q, make_concept
from safetensors.torch import save_file


def test_a_concept_comes_back_bit_for_bit(tmp_path):
    concept = make_concept(deltas={**make_concept().deltas, SD15_Q + "x": Dense(torch.randn(4, 4))})
    native.write_concept(tmp_path / "mara.safetensors", concept)
    read = native.read_concept(tmp_path / "mara.safetensors")
    assert read.content_hash == concept.content_hash
    assert read.entries[0].words == concept.entries[0].words
    assert read.base == concept.base
    assert read.training == {"steps": 10}


def test_same_concept_same_bytes(tmp_path):
    for name in ("a", "b"):
        native.write_concept(tmp_path / name, make_concept())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_saved_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_bytes(b"x")
    native.write_concept(tmp_path / "mara.safetensors", make_concept())
    assert (tmp_path / "mara.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "mara.safetensors"
    native.write_concept(path, make_concept())
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(MixOfShowError, match="No space left"):
        native.write_concept(path, make_concept(seed=5))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["mara.safetensors"]


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    with pytest.raises(MixOfShowError, match="No file"):
        native.read_concept(tmp_path / "nobody.safetensors")
    path = tmp_path / "mara.safetensors"
    native.write_concept(path, make_concept())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MixOfShowError, match="mara.safetensors is not a complete"):
        native.read_concept(path)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(MixOfShowError, match="not written by these nodes"):
        native.read_concept(tmp_path / "other.safetensors")


def _broken(tmp_path, tensor_changes=None, header_changes=None):
    path = tmp_path / "mara.safetensors"
    native.write_concept(path, make_concept())
    tensors, metadata = native.load_safetensors(path)
    header = json.loads(metadata["mixofshow"])
    header.update(header_changes or {})
    tensors.update(tensor_changes or {})
    save_file({k: v for k, v in tensors.items() if v is not None}, path, {"mixofshow": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    "tensors, header, reason",
    [
        ({f"{SD15_Q}.lora_up.weight": torch.full((6, 2), float("nan"))}, None, "NaN"),
        ({f"{SD15_Q}.lora_up.weight": None}, None, "lacks '.lora_up.weight'"),
        ({f"{SD15_Q}.lora_up.weight": torch.zeros(6, 3)}, None, "do not share a rank"),
        ({f"{TEXT_Q}.lora_mid": torch.zeros(1)}, None, "is unknown"),
        ({"mixofshow.embedding.1.clip_l": None}, None, "no embedding tensor for word '<mara-2>'"),
        (None, {"version": 99}, "format version 99"),
        (None, {"concepts": [{"id": "x"}]}, "not readable"),
        (None, {"concepts": 5}, "not readable"),
    ],
    ids=["nan", "half", "rank", "key", "embedding", "version", "entry", "type"],
)
def test_damaged_content_is_refused_with_key_and_reason(tmp_path, tensors, header, reason):
    with pytest.raises(MixOfShowError, match=reason):
        native.read_concept(_broken(tmp_path, tensors, header))
