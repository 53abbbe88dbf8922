"""Names of a file before it is loaded: the ones that loading gives, or none where only loading can tell."""

import json

import pytest
import torch
from mos_pack.mixofshow_core.formats import edlora, peek, read_any
from mos_pack.mixofshow_core.formats.native import METADATA_KEY, write_concept
from mos_tests.unit.builders import make_concept
from mos_tests.unit.formats import reference_files as files
from safetensors.torch import save_file

LORA = {"lora_unet_a.lora_up.weight": torch.ones(4, 2), "lora_unet_a.lora_down.weight": torch.ones(2, 4)}


def saved(tmp_path, tensors, name="file.safetensors", **metadata):
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / name, metadata or None)
    return tmp_path / name


def loaded(path):
    concept = read_any(path).concept
    return tuple(entry.name for entry in concept.entries) if concept else ()


def test_a_concept_of_ours_by_its_header_alone(tmp_path, monkeypatch):
    path = tmp_path / "renamed on disk.safetensors"
    write_concept(path, make_concept("mara"))
    monkeypatch.setattr(peek, "SMALL", 0)  # nothing may be read whole
    assert peek.names_in_file(path) == ("mara",) == loaded(path)


def test_a_lora_is_called_by_its_file_and_a_bundle_by_its_words(tmp_path, monkeypatch):
    with_bundle = saved(tmp_path, files.kohya_lora_with_bundle(), "bundle.safetensors")
    assert peek.names_in_file(with_bundle) == loaded(with_bundle) != ()
    monkeypatch.setattr(peek, "SMALL", 0)
    assert peek.names_in_file(saved(tmp_path, LORA, "my hat (v2).safetensors")) == ("my_hat_v2",)
    assert peek.names_in_file(with_bundle) is None, "too large to be read for its names"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_ed_lora_and_embeddings_are_read(tmp_path, suffix):
    trees = {"potter": files.edlora()["params"], "frog": {"frog": torch.ones(2, 768)}}
    for name, tree in trees.items():
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".pth":
            torch.save(tree, path)
        else:
            saved(tmp_path, edlora.flatten(tree), path.name)
        assert peek.names_in_file(path) == loaded(path) == (name,)


def test_what_cannot_be_read_has_no_known_names(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no header at all")
    odd = saved(tmp_path, LORA, "odd.safetensors", **{METADATA_KEY: json.dumps({"concepts": 7})})
    none = saved(tmp_path, {"x.y": torch.ones(2)}, "none.safetensors")
    for path in (broken, odd, none, tmp_path / "gone.safetensors"):
        assert peek.names_in_file(path) is None, path.name
