"""The facts of a kind of net stand in its row, agree with one another, and nobody else keeps them."""

import ast
import re
from pathlib import Path

import pytest
from mos_pack.mixofshow_core.concept import BaseInfo, Concept
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.family import CELL, Family
from mos_pack.mixofshow_core.families.known import (
    ENCODERS,
    FAMILIES,
    SD2,
    SD15,
    SDXL,
    encoder_of_width,
    family_of_width,
    find_family,
    name_of_width,
)
from mos_pack.mixofshow_core.formats.community import community_metadata
from mos_pack.mixofshow_core.training.auto import ModelFacts, resolve
from mos_pack.mixofshow_core.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "mixofshow_core" / "families"
READERS = sorted(
    path
    for room in ("mixofshow_core", "nodes")
    for path in (ROOT / room).rglob("*.py")
    if FOLDER not in path.parents and "demo" not in path.parts
)
HOST_CLASSES = ("nodes/bridge/formats/layer_names.py",)  # the host's own configuration


def test_the_rows_agree_with_themselves():
    assert (SD15.layers, SDXL.layers) == (16, 70) and CELL == 8
    assert SD15.layout.attention_levels == (1, 2, 4, 8) and SDXL.layout.attention_levels == (2, 4)
    assert SDXL.text_layers == {"clip_l": 12, "clip_g": 32}
    assert (
        len({row.name for row in FAMILIES}) == len({(row.kind, row.context_width) for row in FAMILIES}) == len(FAMILIES)
    )
    with pytest.raises(MixOfShowError, match="768 wide, its context 2048"):
        Family(**{**vars(SD15), "context_width": 2048})


def test_a_row_is_found_by_name_and_by_width():
    assert find_family("sd15-v") is SD15 and find_family("sdxl") is SDXL and find_family("sd-1024-v") is SD2
    assert find_family("sd-128") is None and find_family("unknown") is None
    assert family_of_width(2048) is SDXL and family_of_width(None) is None
    assert (name_of_width(768), name_of_width(1024), name_of_width(None)) == ("sd15", "unknown", "unknown")
    assert (encoder_of_width(1280), encoder_of_width(5)) == ("clip_g", "clip_l")
    assert len({encoder.part for encoder in ENCODERS.values()}) == len(ENCODERS)


def test_readers_ask_the_row():
    facts = community_metadata(Concept((), {}, BaseInfo("sdxl-v")))
    assert facts["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert facts["ss_base_model_version"] == "sdxl_base_v1-0"
    assert community_metadata(Concept((), {}, BaseInfo("sd-512")))["modelspec.architecture"] == "sd-512/lora"
    batches = {row.name: resolve(TrainSettings(), ModelFacts(row.name, 512, 0.4), 8)[0].batch for row in FAMILIES}
    assert batches == {row.name: row.batch for row in FAMILIES}


def test_families_stand_below_everything():
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level > 1:
                assert node.module == "errors", f"{path.name} imports {node.module}"


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nobody_else_asks_whether_a_net_is_a_unet(path):
    """Modules and layers of one kind of net are named in its file alone, and in two dialects that only UNets have."""
    if path.name in ("pipeline.py", "absolute.py"):
        return
    kinds = r"(input|middle|output)_blocks?\b|transformer_blocks|\battn[12]\.|cross_attn\b|UNetModel"
    found = re.findall(rf".*(?:{kinds}).*", path.read_text(encoding="utf-8"))
    assert not found, f"ask the net's kind (mixofshow_core/families/nets.py) for {found}"


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nobody_else_names_a_family_or_its_sizes(path):
    """Words and numbers in code, not in texts for people."""
    if path.relative_to(ROOT).as_posix() in HOST_CLASSES:
        return
    source = path.read_text(encoding="utf-8")
    found = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and node.value in ("sd15", "sdxl", "-v", "sd-1024", 768, 2048)
    ]
    found += re.findall(r"(?:size|height|width|side)\w* ?(?://|\*) ?8\b", source)
    assert not found, f"ask the row of mixofshow_core/families for {found}"
