"""Everything we write we read: every exporter, every base, every kind of layer; and what ComfyUI itself writes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mos_pack.mixofshow_core.concept import Concept, ConceptUse
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.families.layers import TEXT_PREFIX, UNET_PREFIX
from mos_pack.mixofshow_core.families.nets import layer_groups
from mos_pack.mixofshow_core.families.text import layer_groups_text
from mos_pack.mixofshow_core.formats.dialect import is_kernel
from mos_pack.nodes.bridge.demo import small_base, small_base_xl
from mos_pack.nodes.bridge.formats import exporting
from mos_pack.nodes.bridge.formats.foreign import read_with_host
from mos_pack.nodes.bridge.host.model import check_layers, describe_base, net_of, text_models_of
from mos_tests.host.builders import make_concept
from mos_tests.host.formats.test_load_concept import compare_with_the_stock_loader
from mos_tests.host.tiny import randomise, tiny_model
from safetensors.torch import save_file
from torch import nn

BASES = ("sd15", "sdxl", "small", "small-xl")
RANK = 2


@pytest.fixture(scope="module")
def bases(tiny_sd15, tiny_sdxl):
    from comfy.model_patcher import ModelPatcher

    found, cpu = {"sd15": tiny_sd15, "sdxl": tiny_sdxl}, torch.device("cpu")
    for name, recipe in (("small", small_base), ("small-xl", small_base_xl)):
        model, clip = recipe.build_unet(), recipe.build_clip()
        randomise(model.diffusion_model, 1)
        randomise(clip.cond_stage_model, 2)
        patcher = ModelPatcher(model, load_device=cpu, offload_device=cpu)
        found[name] = SimpleNamespace(model=patcher, clip=clip, vae=tiny_sd15.vae)
    return found


def modules_of(base):
    roots = {UNET_PREFIX: net_of(base.model)}
    roots |= {f"{TEXT_PREFIX}{name}.": module for name, module in text_models_of(base.clip).items()}
    for prefix, root in roots.items():
        for path, module in root.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)):
                yield prefix + path, module


def change_everything(base, dense=True) -> Concept:
    """A change of every weight and bias: low rank with and without alpha, full rank, norms, biases."""
    generator = torch.Generator().manual_seed(5)

    def noise(*shape):
        return torch.randn(*shape, generator=generator) * 0.02

    deltas = {}
    for number, (layer, module) in enumerate(modules_of(base)):
        shape = tuple(module.weight.shape)
        if len(shape) == 1 or (dense and number % 5 == 0):
            deltas[layer] = Dense(noise(*shape))
        else:
            alpha = (None, float(RANK), 0.5)[number % 3]
            deltas[layer] = LowRank(noise(shape[0], RANK), noise(RANK, module.weight[0].numel()), alpha)
        if module.bias is not None:
            deltas[f"{layer}.bias"] = Dense(noise(shape[0]))
    return Concept((), deltas, describe_base(base.model), {})


def same(found, wanted, tolerance=0.0):
    assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())[:5]
    for name, delta in wanted.items():
        ours, theirs = delta.dense().flatten(), found[name].dense().flatten()
        if tolerance:
            assert torch.allclose(ours, theirs, atol=tolerance), name
        else:
            assert torch.equal(ours, theirs), name


def read_back(done, live):
    """The deltas in what was written; PEFT writes a folder with one per net."""
    read = read_with_host(Path(done.main), "", live)
    assert not read.warning(), read.warning()
    return read.concept.deltas


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("kind", ["concept", "stock", "kohya"])
def test_formats_that_hold_everything_give_everything_back(kind, family, bases):
    base = bases[family]
    concept = change_everything(base)
    done = exporting.export_concept(ConceptUse(concept), kind, "exact", f"all {kind} {family}", base.model)
    assert not done.lost
    same(read_back(done, exporting.LiveWeights(base.model, base.clip)), concept.deltas)
    if family in ("sd15", "sdxl"):  # and without a base, by the tables of the families
        same(read_back(done, None), concept.deltas)


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("kind", ["diffusers", "peft"])
def test_formats_of_low_rank_give_all_matrices_back_and_say_what_they_lack(kind, family, bases):
    base = bases[family]
    concept = change_everything(base)
    done = exporting.export_concept(ConceptUse(concept), kind, "exact", f"all {kind} {family}", base.model)
    matrices = {name: delta for name, delta in concept.deltas.items() if len(delta.shape) > 1}
    count = len(concept.deltas) - len(matrices)
    assert f"changes of {count} norms and biases" in done.lost[0]
    same(read_back(done, exporting.LiveWeights(base.model, base.clip)), matrices, 1e-6)


def of_kind(concept, base, *kinds):
    """The part of a concept that a narrow format holds."""
    attention = {name for group in layer_groups(net_of(base.model)) for name in group.members}
    for name, module in text_models_of(base.clip).items():
        attention |= {member for group in layer_groups_text(module, name) for member in group.members}
    tests = {
        "attention": lambda name: name in attention,
        "keys": lambda name: name.endswith((".attn2.to_k", ".attn2.to_v")),
        "linear": lambda name: (
            not is_kernel(name)
            and (".transformer_blocks." in name or ".layers." in name or name.endswith((".proj_in", ".proj_out")))
        ),
    }
    kept = {n: d for n, d in concept.deltas.items() if len(d.shape) > 1 and any(tests[kind](n) for kind in kinds)}
    return Concept(concept.entries, kept, concept.base, concept.training)


@pytest.mark.parametrize("family", ["sd15", "small"])
@pytest.mark.parametrize("kind", ["ed-lora", "ed-lora-pth"])
def test_the_reference_format_gives_its_layers_back(kind, family, bases):
    base = bases[family]
    concept = replace(of_kind(change_everything(base), base, "linear"), entries=make_concept(base, "mara", 1).entries)
    done = exporting.export_concept(ConceptUse(concept), kind, "exact", f"all {kind} {family}", base.model)
    same(read_back(done, None), concept.deltas, 1e-6)


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("kind", ["custom-diffusion", "custom-diffusion-compressed"])
def test_custom_diffusion_gives_keys_and_values_back(kind, family, bases):
    base = bases[family]
    concept = change_everything(base, dense=kind == "custom-diffusion")
    wanted = of_kind(concept, base, "keys").deltas
    done = exporting.export_concept(ConceptUse(concept), kind, "exact", f"all {kind} {family}", base.model)
    assert f"{len(concept.deltas) - len(wanted)} of {len(concept.deltas)} layers" in done.lost[0]
    same(read_back(done, exporting.LiveWeights(base.model, base.clip)), wanted, 1e-6)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_pipeline_folder_gives_everything_back(family, bases):
    base = bases[family]
    concept = change_everything(base)
    done = exporting.export_concept(
        ConceptUse(concept), "diffusers-pipeline", "exact", f"all {family}", base.model, base.clip, base.vae
    )
    (done.main / "new_concept_cfg.json").write_text("{}")  # without words it is an ordinary pipeline
    read = read_with_host(done.main, "", exporting.LiveWeights(base.model, base.clip))
    lost = {name for name in concept.deltas if name not in read.concept.deltas}
    assert {name for name in lost if "text_projection" not in name and "final_layer_norm" not in name} == set()
    same(read.concept.deltas, {n: d for n, d in concept.deltas.items() if n not in lost}, 1e-6)


def test_what_comfyuis_own_trainer_writes_is_applied_as_the_host_applies_it(tiny_sd15, tmp_path):
    """One real step of Train LoRA: low rank, and hundreds of biases and norms."""
    import comfy_extras.nodes_train as trainer

    latents = [{"samples": torch.randn(1, 4, 8, 8)} for _ in range(2)]
    context = tiny_sd15.clip.encode_from_tokens_scheduled(tiny_sd15.clip.tokenize("a cat"))
    settings = dict(
        batch_size=1,
        steps=1,
        grad_accumulation_steps=1,
        learning_rate=0.1,
        rank=2,
        optimizer="SGD",
        loss_function="MSE",
        seed=1,
        training_dtype="fp32",
        lora_dtype="fp32",
        algorithm="LoRA",
        gradient_checkpointing=False,
        existing_lora="[None]",
    )
    inputs = trainer.TrainLoraNode.define_schema().inputs  # newer hosts have more
    settings = {one.id: one.default for one in inputs if getattr(one, "default", None) is not None} | settings
    model = tiny_sd15.model.clone()
    model.cached_patcher_init = (lambda **_: tiny_model("sd15"), ())  # newer hosts train a copy that its loader makes
    with torch.inference_mode(False):
        done = trainer.TrainLoraNode.execute(
            [model], latents, [context], **{key: [value] for key, value in settings.items()}
        )
    written = next(value for value in done.result if isinstance(value, dict) and len(value) > 1)
    tensors = {key: value.detach() + 0.01 for key, value in written.items()}
    biases = [key for key in tensors if key.endswith((".diff_b", ".diff"))]
    assert len(biases) > 300
    save_file(tensors, tmp_path / "trained.safetensors")
    found = read_with_host(tmp_path / "trained.safetensors")
    assert not found.skipped and len(found.concept.deltas) > len(biases)
    compare_with_the_stock_loader(tmp_path / "trained.safetensors", tiny_sd15, found, 0.7)


def test_norms_in_lycoris_names_and_whole_weights_that_replace_a_layer(tiny_sd15, tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError

    norm = "lora_unet_down_blocks_0_attentions_0_norm"
    linear = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{norm}.w_norm": torch.randn(32),
        f"{norm}.b_norm": torch.randn(32),
        f"{linear}.diff": torch.randn(32, 32),
        f"{linear}.lora_up.weight": torch.randn(32, 2),
        f"{linear}.lora_down.weight": torch.randn(2, 32),
    }
    save_file(tensors, tmp_path / "norm.safetensors")
    read = read_with_host(tmp_path / "norm.safetensors")
    layer = "diffusion_model.input_blocks.1.1.norm"
    assert torch.equal(read.concept.deltas[layer].diff, tensors[f"{norm}.w_norm"])
    assert torch.equal(read.concept.deltas[f"{layer}.bias"].diff, tensors[f"{norm}.b_norm"])
    # The host keeps one patch for a layer, the difference: the factors are not applied, and that is said.
    assert read.skipped == (f"{linear}.lora_down.weight", f"{linear}.lora_up.weight") and read.skipped_share > 0.1
    save_file({f"{linear}.set_weight": torch.ones(32, 32)}, tmp_path / "set.safetensors")
    with pytest.raises(MixOfShowError, match=r"set_weight'.*depends on the base's weight.*Connect"):
        read_with_host(tmp_path / "set.safetensors")
    live = exporting.LiveWeights(tiny_sd15.model, tiny_sd15.clip)
    delta = next(iter(read_with_host(tmp_path / "set.safetensors", "", live).concept.deltas.values()))
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    assert torch.allclose(delta.diff + live[name], torch.ones(32, 32))


def test_a_peft_file_without_its_configuration_says_so(tiny_sd15, tmp_path):
    concept = of_kind(change_everything(tiny_sd15, dense=False), tiny_sd15, "attention")
    done = exporting.export_concept(ConceptUse(concept), "peft", "exact", "no config", tiny_sd15.model)
    path = done.main / "unet" / "adapter_model.safetensors"
    live = exporting.LiveWeights(tiny_sd15.model, tiny_sd15.clip)
    with_config = read_with_host(path, "", live)
    assert with_config.warning().endswith(
        "the others are text_encoder/adapter_model.safetensors. Load it with a Load Concept node of its own."
    )
    second = read_with_host(done.main / "text_encoder" / path.name, "", live)
    both = {**with_config.concept.deltas, **second.concept.deltas}  # the advice is taken
    same(both, read_with_host(done.main, "", live).concept.deltas)
    (path.parent / "adapter_config.json").unlink()
    alone = read_with_host(path, "", live)
    assert "no adapter_config.json" in alone.warning() and "same folder" in alone.warning()
    name = next(n for n, d in concept.deltas.items() if n.startswith(UNET_PREFIX) and d.alpha == 0.5)
    assert torch.allclose(alone.concept.deltas[name].dense() * 0.25, with_config.concept.deltas[name].dense())


def test_alpha_in_the_header_of_a_diffusers_file_counts(tmp_path):
    import json

    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{layer}.lora_A.weight": torch.ones(4, 768), f"{layer}.lora_B.weight": torch.ones(320, 4)}
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8})}
    save_file(tensors, tmp_path / "of.safetensors", header)
    (delta,) = read_with_host(tmp_path / "of.safetensors").concept.deltas.values()
    assert delta.scale == 2.0


@pytest.mark.parametrize("spelling", ["", ".default"])
def test_peft_biases_change_the_biases_of_layers_that_have_one(spelling, tmp_path, tiny_sd15):
    """lora_bias of PEFT: y += scale (B A x + b). The host drops b without a word, and b needs a bias to be added to."""
    block = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    tensors = {}
    for layer in ("to_out.0", "to_q"):  # of these two, to_out has a bias
        tensors |= {
            f"{block}.{layer}.lora_A{spelling}.weight": torch.ones(4, 32),
            f"{block}.{layer}.lora_B{spelling}.weight": torch.ones(32, 4),
            f"{block}.{layer}.lora_B{spelling}.bias": torch.arange(32.0),
        }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 2, "lora_bias": true}')
    ours = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2"
    for base in (None, exporting.LiveWeights(tiny_sd15.model, tiny_sd15.clip)):
        read = read_with_host(tmp_path / "adapter_model.safetensors", "", base)
        assert set(read.concept.deltas) == {f"{ours}.to_out.0", f"{ours}.to_out.0.bias", f"{ours}.to_q"}
        assert torch.equal(read.concept.deltas[f"{ours}.to_out.0.bias"].dense().flatten(), torch.arange(32.0) / 2)
        assert read.concept.deltas[f"{ours}.to_q"].scale == 0.5, "the scale counts, whatever the adapter is called"
        assert read.skipped == (f"{block}.to_q.lora_B{spelling}.bias",)
        assert "1 keys are not used" in read.warning()
    check_layers(tiny_sd15.model, tiny_sd15.clip, read.concept.deltas)


def test_unused_keys_have_the_names_that_stand_in_the_file(tmp_path):
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    far = "unet.down_blocks.7.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {
        f"{name}.lora_{side}.weight": torch.ones(*shape)
        for name in (layer, far)
        for side, shape in (("A", (4, 768)), ("B", (320, 4)))
    }
    save_file(tensors, tmp_path / "far.safetensors")
    read = read_with_host(tmp_path / "far.safetensors")
    assert read.skipped == (f"{far}.lora_A.weight", f"{far}.lora_B.weight")
    assert "70.7% of the file's norm" in read.warning()


@pytest.mark.parametrize(
    ("key", "shape", "why"),
    [
        ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.ia3_l", (320, 1), "IA3"),
        ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.oft_R.weight", (96, 28), "OFT"),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_name(key, shape, why, tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError

    save_file({key: torch.ones(shape)}, tmp_path / "other.safetensors")
    with pytest.raises(MixOfShowError, match=why):
        read_with_host(tmp_path / "other.safetensors")


def test_a_text_part_of_which_nothing_is_known_is_refused(tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError

    unet, text = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k", "lora_te_layers_0_mlp_up_proj"
    tensors = {
        f"{name}.lora_{side}.weight": torch.ones(shape)
        for name in (unet, text)
        for side, shape in (("down", (2, 320)), ("up", (320, 2)))
    }
    save_file(tensors, tmp_path / "text.safetensors")
    with pytest.raises(MixOfShowError, match="none of its 2 text encoder keys is known.*lora_te_layers"):
        read_with_host(tmp_path / "text.safetensors")
