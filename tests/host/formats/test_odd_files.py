"""LoRA files that are whole and still not what they seem: nothing in them, too much, or numbers of another kind."""

from pathlib import Path

import folder_paths
import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.formats.foreign import read_with_host
from mos_pack.nodes.bridge.host.files import file_fingerprint
from mos_pack.nodes.bridge.host.text import register_concepts, vocabulary_of
from safetensors.torch import save_file

BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
KEY, QUERY = f"{BLOCK}_attn2_to_k", f"{BLOCK}_attn1_to_q"


def tensors(up=0.1, rank=4):
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, width in ((KEY, 768), (QUERY, 320)):
        found[f"{name}.lora_up.weight"] = torch.randn(320, rank, generator=generator) * up
        found[f"{name}.lora_down.weight"] = torch.randn(rank, width, generator=generator)
    return found


def read(folder, found):
    save_file(found, folder / "odd.safetensors")
    return read_with_host(folder / "odd.safetensors")


def test_a_file_that_changes_nothing_says_so(tmp_path):
    assert "every change in it is zero" in read(tmp_path, tensors(up=0)).warning()
    emptied = tensors() | {f"{name}.alpha": torch.tensor(0.0) for name in (KEY, QUERY)}
    assert "every change in it is zero" in read(tmp_path, emptied).warning()
    partly = tensors() | {f"{KEY}.alpha": torch.tensor(0.0)}  # block weights of 0 are somebody's choice
    assert not read(tmp_path, partly).warning()


def test_changes_that_no_weight_survives_are_refused(tmp_path):
    with pytest.raises(MixOfShowError, match=r"odd\.safetensors: the change of diffusion_model\..*no weight survives"):
        read(tmp_path, tensors(up=1e6))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({f"{KEY}.lora_up.weight": torch.ones(320, 4, dtype=torch.int8)}, "has dtype torch.int8"),
        ({f"{KEY}.lora_up.weight": torch.ones(320, 0), f"{KEY}.lora_down.weight": torch.ones(0, 768)}, "empty sides"),
    ],
)
def test_factors_that_are_none_are_named_with_file_and_layer(tmp_path, change, says):
    with pytest.raises(MixOfShowError, match=rf"odd\.safetensors: '{KEY}.*attn2\.to_k\): .*{says}"):
        read(tmp_path, tensors() | change)


@pytest.mark.parametrize("scale", ["lora_up.scale_weight", "lora_up.weight_scale"])
def test_the_scale_of_8_bits_is_not_passed_over(tmp_path, scale):
    eight = {key: value.to(torch.float8_e4m3fn) for key, value in tensors().items()}
    assert read(tmp_path, eight).concept.deltas
    with pytest.raises(MixOfShowError, match=f"{KEY}.{scale}.*16 bits first"):
        read(tmp_path, eight | {f"{KEY}.{scale}": torch.tensor(0.5)})


def test_two_files_of_one_name_are_two_concepts(tmp_path, tiny_sd15):
    found = []
    for folder, trigger in (("a", "abc woman"), ("b", "xyz woman")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mara.txt").write_text(trigger)
        save_file(tensors(up=0.1 * (1 + len(found))), tmp_path / folder / "mara.safetensors")
        found.append(ConceptUse(read_with_host(tmp_path / folder / "mara.safetensors").concept))
    one, other = found
    assert one.concept.entries[0].id != other.concept.entries[0].id
    clip = register_concepts(tiny_sd15.clip, [one])  # as Fuse does with the first
    with pytest.raises(MixOfShowError, match=r"knows a concept 'mara' already.*another name in its `name` field"):
        register_concepts(clip, [other])
    named = ConceptUse(read_with_host(tmp_path / "b" / "mara.safetensors", "anna").concept)
    known = vocabulary_of(register_concepts(clip, [named]))  # the advice
    assert "xyz woman" in known.rewrite("anna") and "abc woman" in known.rewrite("mara")


@pytest.mark.parametrize("name", ["adapter_config.json", "mara.txt", "mara.civitai.info", "mara.statistics"])
def test_the_host_reads_again_what_lies_beside_a_file(name):
    """Else the advice to put a file there would change nothing until ComfyUI is started again."""
    folder = Path(folder_paths.get_folder_paths("loras")[0]) / "beside"
    folder.mkdir(exist_ok=True)
    save_file(tensors(), folder / "mara.safetensors")
    before = file_fingerprint("beside/mara.safetensors")
    assert file_fingerprint("beside/mara.safetensors") == before
    (folder / name).write_text("{}")
    assert file_fingerprint("beside/mara.safetensors") != before
