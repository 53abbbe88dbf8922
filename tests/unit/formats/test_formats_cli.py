"""The card, its plot, and the command line that shows and converts files without ComfyUI."""

import base64
import io
from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.concept import BaseInfo, Concept
from mos_pack.mixofshow_core.delta import Dense
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats import card, native, read_any
from mos_pack.mixofshow_core.formats.checkpoint import CheckpointWeights
from mos_tests.unit.builders import SD15_Q, make_concept
from mos_tests.unit.formats import reference_files as files
from PIL import Image
from safetensors.torch import save_file


def checkpoint(path):
    """A base as a single-file checkpoint of SD1.5's kind."""
    save_file(
        {
            key.replace("diffusion_model.", "model.diffusion_model.", 1).replace(
                "text_encoders.clip_l.", "cond_stage_model.", 1
            )
            + ".weight": weight
            for key, weight in files.base_weights().items()
        },
        path,
    )
    return path


def test_a_card_says_what_a_person_needs():
    text = card.describe_concept(make_concept())
    for fact in (
        "concept 'mara' (character person): words <mara-1> <mara-2>; 16 layers in clip_l",
        "base: sd15, fingerprint ffffffffffffffff",
        "rank 2 (2x)",
        "training steps: 10",
        "warning: the stock LoRA loader",
    ):
        assert fact in text
    odd = Concept((), {SD15_Q: Dense(torch.zeros(4, 4))}, BaseInfo("unknown"))
    warnings = card.warnings_of(odd)
    assert any("does not say which base" in text for text in warnings) and any("are zero" in text for text in warnings)


def test_triggers_come_from_the_community_fields_and_odd_ones_are_ignored():
    metadata = {"modelspec.trigger_phrase": "mara, hat", "ss_tag_frequency": '{"1_x": {"blue": 3, "hat": 9}}'}
    assert card.triggers(metadata) == ("mara", "hat", "blue")
    for odd in ("{", "[]", '{"a": 5}', '{"a": {"b": "c"}}', '{"a": {"b": 1e999}}', "[" * 5000):
        assert card.triggers({"ss_tag_frequency": odd}) == ()


def test_the_plot_shows_bars_and_the_thumbnail():
    concept = make_concept()
    plain = card.plot_norms(concept)
    assert set(card.COLOURS.values()) & set(
        plain.get_flattened_data() if hasattr(plain, "get_flattened_data") else plain.getdata()
    )
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (255, 0, 255)).save(stream, "PNG")
    url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    shown = card.plot_norms(replace(concept, training={"thumbnail": url}))
    assert shown.getpixel((card.PLOT_SIZE[0] - card.MARGIN - 10, card.MARGIN + 10)) == (255, 0, 255)
    broken = replace(concept, training={"thumbnail": "data:image/png;base64,AAAA"})
    assert card.plot_norms(broken).size == card.PLOT_SIZE


def test_inspect_and_convert(tmp_path, command_line):
    torch.save(files.edlora(), tmp_path / "potter.pth")
    code, out, _ = command_line("inspect", tmp_path / "potter.pth", "--plot", tmp_path / "plot.png")
    assert code == 0 and "concept 'potter'" in out and "274 keys used, 0 skipped" in out
    assert Image.open(tmp_path / "plot.png").size == card.PLOT_SIZE
    code, out, _ = command_line("convert", tmp_path / "potter.pth", "--to", "kohya", "--out", tmp_path / "made")
    assert code == 0 and "not in this format: the concept words" in out and (tmp_path / "made.safetensors").exists()
    code, _, error = command_line("convert", tmp_path / "potter.pth", "--to", "kohya", "--out", tmp_path / "made")
    assert code == 2 and "exists already" in error
    code, _, error = command_line("inspect", tmp_path / "nobody.pth")
    assert code == 2 and error.startswith("No file nobody.pth")


def test_a_base_checkpoint_turns_whole_weights_into_a_small_concept(tmp_path, command_line):
    base = checkpoint(tmp_path / "base.safetensors")
    torch.save(files.fused_weights(), tmp_path / "fused.pth")
    code, out, error = command_line(
        "convert", tmp_path / "fused.pth", "--base", base, "--to", "concept", "--size", "4", "--out", tmp_path / "small"
    )
    assert code == 0, error
    concept = native.read_concept(tmp_path / "small.safetensors")
    assert {delta.rank for delta in concept.deltas.values()} <= {1, 2, 3, 4}
    assert "relative error of the weights" in out
    assert len(CheckpointWeights(base)) == len(files.base_weights())
    result = read_any(tmp_path / "fused.pth", CheckpointWeights(base))
    assert len(result.concept.deltas) == 136


def test_a_base_folder_of_diffusers(tmp_path):
    weights = files.base_weights()
    (tmp_path / "unet").mkdir()
    unet = {f"{p}.weight": weights[f"diffusion_model.{files.ldm_path(p)}"] for p in files.attention_linears(8, 12)}
    save_file(unet, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    base = CheckpointWeights(tmp_path)
    assert all(torch.equal(base[name], weights[name]) for name in base) and len(base) == 128
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(MixOfShowError, match="no base model"):
        CheckpointWeights(tmp_path / "x.safetensors")
