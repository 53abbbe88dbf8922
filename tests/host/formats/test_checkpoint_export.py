"""A whole checkpoint that we wrote, in the stock CheckpointLoaderSimple; and the command line where it needs ComfyUI.

The net has SD1.5's widths (320 channels, 768 wide text encoder), by which the host recognises it, but one level only.
"""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from mos_pack import cli
from mos_pack.mixofshow_core.concept import ConceptUse, LayeredEmbedding
from mos_pack.mixofshow_core.families.unet import unet_layout
from mos_pack.mixofshow_core.formats import read_any
from mos_pack.mixofshow_core.formats.checkpoint import CheckpointWeights
from mos_pack.mixofshow_core.formats.export import export
from mos_pack.nodes.bridge.formats import exporting
from mos_pack.nodes.bridge.host.model import net_of
from mos_tests.host.builders import make_concept
from mos_tests.host.tiny import TinyBase, randomise, unet_config
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def base():
    import comfy.model_base
    import comfy.sd
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    lean = {
        "model_channels": 320,
        "channel_mult": [1],
        "num_res_blocks": [1],
        "transformer_depth": [1],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1],
        "context_dim": 768,
    }
    config = comfy.supported_models.SD15(unet_config("sd15") | lean | {"num_heads": 8})
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, device="cpu")
    clip = comfy.sd.CLIP(config.clip_target(None), model_options={"dtype": torch.float32})
    randomise(model.diffusion_model, 1)
    randomise(clip.cond_stage_model, 2, 0.02)
    cpu = torch.device("cpu")
    return TinyBase(ModelPatcher(model, load_device=cpu, offload_device=cpu), clip, None)


@pytest.fixture(scope="module")
def concept(base):
    made = make_concept(base, "mara", 1, size=0.5, layered=False)
    # One row for any number of layers: a word with four would be refused as not of SD1.5.
    embeddings = tuple(LayeredEmbedding(e.rows, (0,)) for e in made.entries[0].embeddings)
    return replace(made, entries=(replace(made.entries[0], embeddings=embeddings),))


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    """The bare base as a single file, written by the host."""
    import comfy.sd

    target = tmp_path_factory.mktemp("checkpoints")
    comfy.sd.save_checkpoint(str(target / "base.safetensors"), base.model, base.clip)
    return target


def outputs(model, clip):
    import comfy.model_management

    context = clip.encode_from_tokens(clip.tokenize("a cat on a red field"))
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return context, model.model.diffusion_model(noise, timesteps=torch.tensor([400.0]), context=context)


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_the_stock_checkpoint_loader(base, concept, folder):
    import folder_paths

    import nodes

    done = exporting.export_whole("checkpoint", folder / "mara", ConceptUse(concept, 0.8), base.model, base.clip, None)
    folder_paths.add_model_folder_path("checkpoints", str(folder))
    folder_paths.filename_list_cache.pop("checkpoints", None)
    model, clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint(done.main.name)
    expected = outputs(*exporting.apply_deltas(base.model, base.clip, concept.deltas, 0.8))
    bare = outputs(base.model, base.clip)
    for got, wanted, before in zip(outputs(model, clip), expected, bare, strict=True):
        assert relative(wanted, before) > 0.02  # the concept does something
        assert relative(got.float(), wanted) < 2e-3  # the host stores text encoders in fp16
    words = read_any(done.paths[1]).concept
    assert [word.text for word in words.entries[0].words] == ["<mara-1>", "<mara-2>"]


def test_the_command_line_merges_a_foreign_lora_into_a_pipeline_folder(base, concept, folder, capsys):
    done = export(concept, "kohya", folder / "foreign", layout=unet_layout(net_of(base.model)))
    lora = done.main.with_name("cut.safetensors")
    from mos_pack.mixofshow_core.formats.native import load_safetensors

    # Only the first block: its kohya name means the same layer in this lean net and in SD1.5.
    save_file({k: v for k, v in load_safetensors(done.main)[0].items() if "down_blocks_0" in k or "te_" in k}, lora)
    arguments = ["convert", str(lora), "--to", "diffusers-pipeline", "--out", str(folder / "pipeline")]
    assert cli.main(arguments) == 2
    assert "single-file checkpoint as --base" in capsys.readouterr().err
    assert cli.main([*arguments, "--base", str(folder / "base.safetensors")]) == 0, capsys.readouterr().err
    merged, plain = CheckpointWeights(folder / "pipeline"), CheckpointWeights(folder / "base.safetensors")
    layers = set(plain) & set(merged)
    changed = {layer for layer in layers if not torch.equal(merged[layer].half(), plain[layer].half())}
    expected = {layer for layer in concept.deltas if "input_blocks" in layer or "text" in layer}
    assert changed == expected
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    assert torch.allclose(merged[layer], plain[layer] + concept.deltas[layer].dense(), atol=1e-6)


def test_the_command_line_in_a_process_of_its_own(tmp_path):
    """From a shell, with nothing of the host imported before."""
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{name}.lora_up.weight": torch.randn(320, 2), f"{name}.lora_down.weight": torch.randn(2, 768)},
        tmp_path / "foreign.safetensors",
    )
    command = [sys.executable, cli.__file__, "convert", str(tmp_path / "foreign.safetensors"), "--to", "peft"]
    done = subprocess.run([*command, "--out", str(tmp_path / "made")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "read as lora\n" in done.stdout and (tmp_path / "made" / "unet" / "adapter_config.json").is_file()


def test_the_command_line_reads_foreign_loras(base, concept, tmp_path, folder, capsys):
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{name}.lora_up.weight": torch.randn(320, 2),
        f"{name}.lora_down.weight": torch.randn(2, 768),
        f"{name}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "foreign.safetensors")
    out = str(tmp_path / "ours")
    assert cli.main(["convert", str(tmp_path / "foreign.safetensors"), "--to", "concept", "--out", out]) == 0
    made = read_any(tmp_path / "ours.safetensors").concept
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    assert list(made.deltas) == [layer] and made.base.family == "sd15"
    assert torch.equal(made.deltas[layer].up, tensors[f"{name}.lora_up.weight"])
    assert cli.main(["inspect", str(tmp_path / "foreign.safetensors")]) == 0
    assert "rank 2 (1x)" in capsys.readouterr().out
    save_file(tensors | {f"{name}.dora_scale": torch.rand(320, 1) + 0.5}, tmp_path / "dora.safetensors")
    arguments = ["convert", str(tmp_path / "dora.safetensors"), "--to", "concept", "--out", str(tmp_path / "dora-out")]
    assert cli.main(arguments) == 2
    assert "--base CHECKPOINT" in capsys.readouterr().err
    assert cli.main([*arguments, "--base", str(folder / "base.safetensors")]) == 0
    assert read_any(tmp_path / "dora-out.safetensors").concept.deltas[layer].shape == (320, 768)
    assert cli.main(["inspect", str(tmp_path / "foreign.safetensors"), "--comfyui", str(tmp_path)]) == 2
    assert "is not ComfyUI's folder" in capsys.readouterr().err
