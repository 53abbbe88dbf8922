"""One concept, one meaning: our node, the stock LoraLoader, diffusers and PEFT give the same outputs (fp32).

diffusers gets the tiny random base itself from our pipeline export, so the conversion is tested as well.
"""

from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.delta import LowRank
from mos_pack.mixofshow_core.families.unet import unet_layout
from mos_pack.mixofshow_core.formats import read_any
from mos_pack.mixofshow_core.formats.export import export
from mos_pack.nodes.bridge.formats import exporting
from mos_pack.nodes.bridge.host.model import net_of
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_tests.host.builders import make_concept

TOLERANCE = 1e-5  # relative, fp32
PROMPT = "a cat on a red field"


def relative(a, b):
    return float((a - b).norm() / b.norm())


def latents():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, 4, 16, 16, generator=generator), torch.tensor([400.0])


def host_outputs(model, clip, prompt=PROMPT):
    """(text context, UNet output) of the host with all patches on."""
    import comfy.model_management

    context = clip.encode_from_tokens(clip.tokenize(prompt))
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    noise, step = latents()
    with torch.no_grad():
        return context, model.model.diffusion_model(noise, timesteps=step, context=context)


def diffusers_outputs(unet, text_encoder, tokenizer, prompt=PROMPT):
    ids = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    noise, step = latents()
    with torch.no_grad():
        context = text_encoder(ids)[0]
        return context, unet(noise, step, encoder_hidden_states=context).sample


@pytest.fixture(scope="module")
def concept(tiny_sd15):
    """Every attention layer, with different ranks and with alphas that are not the rank."""
    made = make_concept(tiny_sd15, "mara", 1, rank=3, size=0.5)
    deltas = dict(made.deltas)
    for number, (name, delta) in enumerate(sorted(deltas.items())):
        alpha = (None, 3.0, 1.0)[number % 3]
        if number % 5 == 0:
            delta = LowRank(delta.up[:, :2].contiguous(), delta.down[:2].contiguous())
        deltas[name] = replace(delta, alpha=alpha)
    return replace(made, deltas=deltas)


@pytest.fixture(scope="module")
def folder(tiny_sd15, concept, tmp_path_factory):
    """The bare base as a diffusers folder."""
    target = tmp_path_factory.mktemp("pipeline") / "base"
    bare = ConceptUse(replace(concept, entries=(), deltas={}))
    exporting.export_whole("diffusers-pipeline", target, bare, tiny_sd15.model, tiny_sd15.clip, tiny_sd15.vae)
    return target


@pytest.fixture
def pipeline(folder):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(tiny_sd15, concept):
    from mos_pack.nodes.fuse import MixOfShowFuse

    done = MixOfShowFuse.execute(tiny_sd15.model, tiny_sd15.clip, (ConceptUse(concept),), "exact", "standard")
    return host_outputs(*done.result[:2])


def write(concept, kind, base, target):
    return export(concept, kind, target, layout=unet_layout(net_of(base.model)))


def agree(found, expected):
    for got, wanted, what in zip(found, expected, ("text encoder", "UNet"), strict=True):
        assert relative(got, wanted) < TOLERANCE, f"{what}: {relative(got, wanted):.2e}"


def test_the_converted_base_is_the_base(pipeline, tiny_sd15, ours):
    bare = host_outputs(tiny_sd15.model, tiny_sd15.clip)
    agree(diffusers_outputs(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer), bare)
    assert relative(ours[0], bare[0]) > 0.01 and relative(ours[1], bare[1]) > 0.01  # the concept does something
    picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = pipeline.vae.decode(picture).sample
    stock = tiny_sd15.vae.decode(picture).movedim(-1, 1) * 2 - 1
    assert torch.allclose(theirs.clamp(-1, 1), stock, atol=1e-4)


@pytest.mark.parametrize("kind", ["concept", "stock", "kohya"])
def test_the_stock_lora_loader(kind, tiny_sd15, concept, ours, tmp_path):
    import folder_paths

    import nodes

    done = write(concept, kind, tiny_sd15, tmp_path / "out")
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    folder_paths.filename_list_cache.pop("loras", None)
    model, clip = nodes.LoraLoader().load_lora(tiny_sd15.model, tiny_sd15.clip, done.paths[0].name, 1.0, 1.0)
    assert len(model.patches) + len(clip.patcher.patches) == len(concept.deltas)
    agree(host_outputs(model, clip), ours)


def test_diffusers(pipeline, tiny_sd15, concept, ours, tmp_path):
    done = write(concept, "diffusers", tiny_sd15, tmp_path / "out")
    pipeline.load_lora_weights(str(done.main))
    agree(diffusers_outputs(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer), ours)


def test_kohya_files_in_diffusers(pipeline, tiny_sd15, concept, ours, tmp_path):
    """diffusers 0.42 drops alphas that differ between layers, so those files carry a note; equal ones are right."""
    mixed = write(concept, "kohya", tiny_sd15, tmp_path / "mixed")
    assert any("use format diffusers" in note for note in mixed.notes)
    equal = replace(concept, deltas={name: replace(d, alpha=1.0) for name, d in concept.deltas.items()})
    done = write(equal, "kohya", tiny_sd15, tmp_path / "equal")
    assert not any("use format" in note for note in done.notes)
    pipeline.load_lora_weights(str(done.main))
    expected = host_outputs(*exporting.apply_deltas(tiny_sd15.model, tiny_sd15.clip, equal.deltas))
    agree(diffusers_outputs(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer), expected)


def test_peft(pipeline, tiny_sd15, concept, ours, tmp_path):
    from peft import PeftModel

    done = write(concept, "peft", tiny_sd15, tmp_path / "out")
    unet = PeftModel.from_pretrained(pipeline.unet, done.main / "unet")
    text = PeftModel.from_pretrained(pipeline.text_encoder, done.main / "text_encoder")
    agree(diffusers_outputs(unet, text, pipeline.tokenizer), ours)


def test_a_fused_pipeline_knows_the_words_of_every_layer(tiny_sd15, concept, ours, tmp_path):
    from diffusers import StableDiffusionPipeline

    target = tmp_path / "fused"
    exporting.export_whole("diffusers-pipeline", target, ConceptUse(concept), tiny_sd15.model, tiny_sd15.clip, None)
    pipeline = StableDiffusionPipeline.from_pretrained(target, vae=None)
    agree(diffusers_outputs(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer), ours)
    import json

    table = json.loads((target / "new_concept_cfg.json").read_text())
    assert list(table) == ["<mara-1>", "<mara-2>"]
    merged = exporting.apply_deltas(None, tiny_sd15.clip, {k: d for k, d in concept.deltas.items() if "text" in k})[1]
    layered = encode_layered(register_concepts(merged, [ConceptUse(concept)]), "photo of a mara", 16)
    for layer in (0, 7, 15):
        words = " ".join(row["concept_token_names"][layer] for row in table.values())
        context, _ = diffusers_outputs(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer, f"photo of a {words}")
        assert relative(context[0], layered.layers[layer]) < TOLERANCE


def test_a_fused_folder_comes_back_as_a_concept(tiny_sd15, concept, tmp_path):
    target = tmp_path / "fused"
    exporting.export_whole("diffusers-pipeline", target, ConceptUse(concept), tiny_sd15.model, tiny_sd15.clip, None)
    back = read_any(target, exporting.LiveWeights(tiny_sd15.model, tiny_sd15.clip)).concept
    assert back.deltas.keys() == concept.deltas.keys()
    for name, delta in back.deltas.items():
        assert torch.allclose(delta.diff, concept.deltas[name].dense(), atol=1e-6), name
    for ours, theirs in zip(concept.entries[0].embeddings, back.entries[0].embeddings, strict=True):
        assert torch.equal(ours.per_layer("clip_l"), theirs.per_layer("clip_l"))


@pytest.fixture(scope="module")
def small():
    """The trained small base with a concept on every attention layer, and what our own node makes of both.

    Seven cross-attention layers in two levels: no constant of SD1.5 is left anywhere.
    """
    from types import SimpleNamespace

    from mos_pack.nodes.bridge.demo import small_base
    from mos_pack.nodes.fuse import MixOfShowFuse

    model, clip, _ = small_base.load_small_base()
    base = SimpleNamespace(model=model, clip=clip)
    base.concept = make_concept(base, "mara", 3, rank=4, size=0.5)
    done = MixOfShowFuse.execute(model, clip, (ConceptUse(base.concept),), "exact", "standard")
    base.ours, base.bare = small_outputs(*done.result[:2]), small_outputs(model, clip)
    return base


SMALL_PROMPT = "a person, blue background"


def small_latents():
    from mos_pack.nodes.bridge.demo.small_base import LATENT_CHANNELS

    noise = torch.randn(1, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(5))
    return noise, torch.tensor([400.0])


def small_outputs(model, clip):
    import comfy.model_management

    context = clip.encode_from_tokens(clip.tokenize(SMALL_PROMPT))
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    noise, step = small_latents()
    with torch.no_grad():
        return context, model.model.diffusion_model(noise, timesteps=step, context=context)


def small_diffusers_outputs(unet, text, tokenizer):
    ids = tokenizer(SMALL_PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    noise, step = small_latents()
    with torch.no_grad():
        context = text(ids)[0]
        return context, unet(noise, step, encoder_hidden_states=context).sample


@pytest.fixture
def small_pipeline(small, tmp_path):
    from diffusers import StableDiffusionPipeline

    bare = ConceptUse(replace(small.concept, entries=(), deltas={}))
    exporting.export_whole("diffusers-pipeline", tmp_path / "base", bare, small.model, small.clip, None)
    return StableDiffusionPipeline.from_pretrained(tmp_path / "base", vae=None)


@pytest.mark.parametrize("kind", ["concept", "stock", "kohya"])
def test_the_trained_small_base_through_the_stock_loader(kind, small, tmp_path):
    import comfy.sd
    from mos_pack.mixofshow_core.formats.native import load_safetensors

    assert all(relative(after, before) > 0.01 for after, before in zip(small.ours, small.bare, strict=True))
    done = write(small.concept, kind, small, tmp_path / "out")
    tensors = load_safetensors(done.paths[0])[0]
    model, clip = comfy.sd.load_lora_for_models(small.model, small.clip, tensors, 1.0, 1.0)
    assert len(model.patches) + len(clip.patcher.patches) == len(small.concept.deltas)
    agree(small_outputs(model, clip), small.ours)


def test_the_trained_small_base_in_diffusers(small, small_pipeline, tmp_path):
    pipe = small_pipeline
    agree(small_diffusers_outputs(pipe.unet, pipe.text_encoder, pipe.tokenizer), small.bare)
    pipe.load_lora_weights(str(write(small.concept, "diffusers", small, tmp_path / "out").main))
    agree(small_diffusers_outputs(pipe.unet, pipe.text_encoder, pipe.tokenizer), small.ours)


def test_the_trained_small_base_in_peft(small, small_pipeline, tmp_path):
    """The text adapter's file names every layer in two spellings; each layer must be adapted once, at its own scale."""
    from peft import PeftModel

    done = write(small.concept, "peft", small, tmp_path / "out")
    unet = PeftModel.from_pretrained(small_pipeline.unet, done.main / "unet")
    text = PeftModel.from_pretrained(small_pipeline.text_encoder, done.main / "text_encoder")
    for model, part in ((unet, "diffusion_model."), (text, "text_encoders.")):
        adapted = [m for m in model.modules() if hasattr(m, "lora_A") and "default" in getattr(m, "lora_A", {})]
        assert len(adapted) == sum(name.startswith(part) for name in small.concept.deltas)
    agree(small_diffusers_outputs(unet, text, small_pipeline.tokenizer), small.ours)


def test_sdxl_in_diffusers(tiny_sdxl, tmp_path):
    """The folder's UNet with a LoRA file gives the host's outputs; both text encoders load whole."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import timestep_embedding
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    concept = make_concept(tiny_sdxl, "lea", 4, size=0.5)
    bare = ConceptUse(replace(concept, entries=(), deltas={}))
    exporting.export_whole("diffusers-pipeline", tmp_path / "base", bare, tiny_sdxl.model, tiny_sdxl.clip, None)
    done = write(concept, "diffusers", tiny_sdxl, tmp_path / "out")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "base" / "unet")
    from mos_pack.mixofshow_core.formats.native import load_safetensors

    unet.load_lora_adapter(load_safetensors(done.main)[0], prefix="unet")
    generator = torch.Generator().manual_seed(6)
    pooled, sizes = torch.randn(1, 64, generator=generator), torch.tensor([[512.0, 512, 0, 0, 512, 512]])
    context, noise = torch.randn(1, 77, 128, generator=generator), torch.randn(1, 4, 16, 16, generator=generator)
    label = torch.cat([pooled, timestep_embedding(sizes[0], 256).reshape(1, -1)], dim=1)
    patched, _ = exporting.apply_deltas(tiny_sdxl.model, None, {k: d for k, d in concept.deltas.items() if "diff" in k})
    import comfy.model_management

    comfy.model_management.load_models_gpu([patched], force_patch_weights=True)
    step = torch.tensor([400.0])
    with torch.no_grad():
        expected = patched.model.diffusion_model(noise, timesteps=step, context=context, y=label)
        conditions = {"text_embeds": pooled, "time_ids": sizes}
        got = unet(noise, step, encoder_hidden_states=context, added_cond_kwargs=conditions).sample
    assert relative(got, expected) < TOLERANCE
    for part, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        _, info = kind.from_pretrained(tmp_path / "base" / part, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
