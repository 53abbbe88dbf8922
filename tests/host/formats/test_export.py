"""Export, Inspect and the new sides of Load Concept, in the host."""

import json
import os
from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.nets import cross_attention_layers
from mos_pack.mixofshow_core.formats import read_any
from mos_pack.mixofshow_core.formats.checkpoint import CheckpointWeights
from mos_pack.nodes.bridge.formats import exporting
from mos_pack.nodes.bridge.host.model import net_of
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_pack.nodes.concepts import MixOfShowLoadConcept
from mos_pack.nodes.export import MixOfShowExport
from mos_pack.nodes.inspection import FROM_WIRE, MixOfShowInspect
from mos_tests.host.builders import make_concept
from mos_tests.unit.formats import reference_files


@pytest.fixture(scope="module")
def concept(tiny_sd15):
    return make_concept(tiny_sd15, "mara", 1)


def run(base, concept, kind, **options):
    needs = {"model": base.model, "clip": base.clip, "vae": base.vae} if kind in exporting.WHOLE_FORMATS else {}
    if kind == "custom-diffusion":
        needs = {"model": base.model}
    done = MixOfShowExport.execute((ConceptUse(concept, **options),), kind, "auto", f"test {kind}", **needs)
    return done.result[0], done.ui.as_dict()["text"][0]


@pytest.mark.parametrize("kind", exporting.EXPORT_FORMATS)
def test_every_format_is_written_and_never_overwritten(kind, tiny_sd15, concept):
    from pathlib import Path

    first, report = run(tiny_sd15, concept, kind)
    second, _ = run(tiny_sd15, concept, kind)
    assert Path(first).exists() and Path(second).exists() and first != second
    assert report.startswith(f"wrote {first}")


def test_a_checkpoint_holds_base_plus_change_and_its_words_come_beside_it(tiny_sd15, concept):
    path, report = run(tiny_sd15, concept, "checkpoint", strength=0.5)
    weights, base = CheckpointWeights(path), exporting.LiveWeights(tiny_sd15.model, tiny_sd15.clip)
    assert "knows no concept words" in report
    layers = [name for name in concept.deltas if "attn2.to_v" in name or "q_proj" in name]
    for layer in layers:
        expected = base[layer] + 0.5 * concept.deltas[layer].dense()
        assert torch.allclose(weights[layer].float(), expected, atol=2e-3), layer  # the host saves text in fp16
    words = read_any(path.replace(".safetensors", "-words.safetensors")).concept
    assert words.entries[0].words == concept.entries[0].words and not words.deltas


def test_a_model_that_has_the_concept_already_is_refused(tiny_sd15, concept):
    model, _ = exporting.apply_deltas(tiny_sd15.model, None, {k: d for k, d in concept.deltas.items() if "diff" in k})
    with pytest.raises(MixOfShowError, match="part of MODEL.* already.*before that node"):
        MixOfShowExport.execute((ConceptUse(concept),), "checkpoint", "auto", "x", model, tiny_sd15.clip)
    with pytest.raises(MixOfShowError, match="2 concepts are connected"):
        MixOfShowExport.execute((ConceptUse(concept), ConceptUse(concept)), "concept", "auto", "x")
    with pytest.raises(MixOfShowError, match="connect the base"):
        MixOfShowExport.execute((ConceptUse(concept),), "checkpoint", "auto", "x")


def put(name, tree):
    import folder_paths

    path = exporting.concept_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tree, path)
    folder_paths.filename_list_cache.pop("loras", None)
    return f"mixofshow/{name}"


def sample(model, context, layers):
    """Two steps of the host's sampler; every cross-attention layer reads its own rows."""
    import comfy.sample
    from mos_pack.nodes.bridge.placing.wrappers import Payload, patch_model, with_payload

    empty = torch.zeros(1, 4, 8, 8)
    conditioning = with_payload(context, {}, Payload(context.shape[1], layers))
    return comfy.sample.sample(
        patch_model(model),
        comfy.sample.prepare_noise(empty, 3),
        2,
        1.0,
        "euler",
        "normal",
        conditioning,
        conditioning,
        empty,
        seed=3,
    )


def test_a_reference_file_loads_and_samples_like_the_weights_it_holds(tiny_sd15):
    """A .pth written from the published layout alone: the UNet sees W + up down, each layer its own row."""
    tree = reference_files.edlora(base=32, context=64, text_layers=3, rank=4)
    name = put("potter.pth", tree)
    uses, card = MixOfShowLoadConcept.execute(name).result
    assert "ED-LoRA" in card and uses[0].concept.name == "potter"
    model, clip = exporting.apply_deltas(tiny_sd15.model, tiny_sd15.clip, uses[0].concept.deltas)
    patched = exporting.LiveWeights(model, clip)
    bare = exporting.LiveWeights(tiny_sd15.model, tiny_sd15.clip)
    parts = tree["params"]
    for path in reference_files.attention_linears(32, 64):
        layer = f"diffusion_model.{reference_files.ldm_path(path)}"
        up, down = parts["unet"][f"{path}.lora_up.weight"], parts["unet"][f"{path}.lora_down.weight"]
        assert torch.allclose(patched[layer], bare[layer] + up @ down, atol=1e-6), layer
    # Row l belongs to cross-attention layer l: encode by hand with one row at a time.
    knowing = register_concepts(clip, uses)
    layered = encode_layered(knowing, "photo of potter", len(cross_attention_layers(net_of(model))))
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    for layer in (0, 6, 15):
        rows = [parts["new_concept_embedding"][f"<potter{n}>"][layer] for n in (1, 2)]
        (chunk,) = clip.tokenize("photo of x y")["l"]
        chunk = chunk[:3] + [(row, 1.0) for row in rows] + chunk[5:]
        expected = clip.encode_from_tokens({"l": [chunk]})
        assert torch.allclose(layered.layers[layer], expected[0], atol=1e-5), layer
    assert table.shape[0] == 49408  # nothing was written into the host's table
    by_hand = tiny_sd15.model.clone()
    by_hand.add_patches(
        {
            f"diffusion_model.{reference_files.ldm_path(path)}.weight": (
                "diff",
                (parts["unet"][f"{path}.lora_up.weight"] @ parts["unet"][f"{path}.lora_down.weight"],),
            )
            for path in reference_files.attention_linears(32, 64)
        }
    )
    pictures = [sample(each, layered.layers[:1], layered.layers) for each in (model, by_hand)]
    assert torch.allclose(*pictures, atol=1e-4) and not torch.allclose(
        pictures[0], sample(tiny_sd15.model, layered.layers[:1], layered.layers), atol=1e-2
    )


def test_the_same_concept_samples_identically_after_a_trip_through_the_reference_format(tiny_sd15, concept):
    import comfy.sample

    path, _ = run(tiny_sd15, concept, "ed-lora-pth")
    pictures = []
    for made in (concept, read_any(path).concept):
        use = ConceptUse(made)
        model, clip = exporting.apply_deltas(tiny_sd15.model, tiny_sd15.clip, made.deltas)
        clip = register_concepts(clip, [use])
        positive = clip.encode_from_tokens_scheduled(clip.tokenize("photo of mara"))
        noise = comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), 3)
        pictures.append(
            comfy.sample.sample(
                model, noise, 2, 1.0, "euler", "normal", positive, positive, torch.zeros(1, 4, 8, 8), seed=3
            )
        )
    assert torch.equal(*pictures)


def test_whole_weights_need_the_base_and_then_load(tiny_sd15):
    tree = reference_files.custom_diffusion(base=32, context=64)
    name = put("delta.bin", tree)
    with pytest.raises(MixOfShowError, match="connect MODEL"):
        MixOfShowLoadConcept.execute(name)
    uses, card = MixOfShowLoadConcept.execute(name, model=tiny_sd15.model, clip=tiny_sd15.clip).result
    assert "Custom Diffusion" in card
    model, _ = exporting.apply_deltas(tiny_sd15.model, None, uses[0].concept.deltas)
    path = "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v"
    merged = exporting.LiveWeights(model)[f"diffusion_model.{reference_files.ldm_path(path)}"]
    assert torch.allclose(merged, tree["unet"][f"{path}.weight"], atol=1e-6)


def test_inspect_shows_a_file_or_the_wire(tiny_sd15, concept):
    trained = replace(concept, training={"steps": 30, "preset": "ED-LoRA"})
    card, plot = MixOfShowInspect.execute(FROM_WIRE, (ConceptUse(trained, 0.7),)).result
    assert "strength 0.7" in card and "training steps: 30" in card and "<mara-1> <mara-2>" in card
    assert plot.shape[0] == 1 and plot.shape[3] == 3 and float(plot.min()) < 0.9
    name = put("embedding.pt", reference_files.textual_inversion())
    card, plot = MixOfShowInspect.execute(name).result
    assert "textual inversion" in card and "skipped" in card
    with pytest.raises(MixOfShowError, match="nothing to look at"):
        MixOfShowInspect.execute()
    path, _ = run(tiny_sd15, concept, "kohya")
    import folder_paths

    folder_paths.filename_list_cache.pop("loras", None)
    card, _ = MixOfShowInspect.execute("mixofshow/" + path.rsplit("/", 1)[1]).result
    assert "lora" in card and "triggers and tags in the header: mara" in card and "rank 2" in card


def test_embeddings_are_found_in_their_own_folder(tiny_sd15):
    import folder_paths
    from mos_pack.nodes.bridge.host.files import list_concept_files

    folder = folder_paths.get_folder_paths("embeddings")[0]
    os.makedirs(folder, exist_ok=True)
    torch.save(reference_files.textual_inversion("diffusers"), f"{folder}/hat.pt")
    folder_paths.filename_list_cache.pop("embeddings", None)
    assert "hat.pt [embeddings]" in list_concept_files()
    uses, _ = MixOfShowLoadConcept.execute("hat.pt [embeddings]").result
    assert uses[0].concept.name == "mara" and not uses[0].concept.deltas
    with pytest.raises(MixOfShowError, match="outside"):
        MixOfShowLoadConcept.execute("../hat.pt [embeddings]")


def test_stock_embeddings_are_read_by_the_host(tiny_sd15, concept, tmp_path):
    """`embedding:` of the stock text encoder gives the mean rows, one token per word."""
    from comfy.sd1_clip import load_embed

    done = exporting.export(concept, "stock", tmp_path / "mara")
    rows = load_embed(done.paths[1].stem, str(tmp_path), 64, "clip_l")
    assert torch.equal(rows, torch.stack([e.mean("clip_l") for e in concept.entries[0].embeddings]))


def test_an_sdxl_concept_through_the_stock_loader(tiny_sdxl, tmp_path):
    import comfy.sd
    import comfy.utils

    concept = make_concept(tiny_sdxl, "lea", 2)
    for kind in ("stock", "kohya", "concept"):
        done = exporting.export(concept, kind, tmp_path / kind)
        lora = comfy.utils.load_torch_file(str(done.paths[0]))
        model, clip = comfy.sd.load_lora_for_models(tiny_sdxl.model, tiny_sdxl.clip, lora, 1.0, 1.0)
        assert len(model.patches) + len(clip.patcher.patches) == len(concept.deltas)
        ours = exporting.LiveWeights(*exporting.apply_deltas(tiny_sdxl.model, tiny_sdxl.clip, concept.deltas))
        stock = exporting.LiveWeights(model, clip)
        for layer in list(concept.deltas)[::37]:
            assert torch.equal(ours[layer], stock[layer]), (kind, layer)
    embedding = read_any(done.paths[0]).concept
    assert embedding.content_hash == concept.content_hash


def test_report_of_a_pipeline_lists_the_words(tiny_sd15, concept):
    path, report = run(tiny_sd15, concept, "diffusers-pipeline")
    with open(f"{path}/new_concept_cfg.json") as file:
        assert list(json.load(file)) == ["<mara-1>", "<mara-2>"]
    assert "one token per cross-attention layer" in report


def test_a_net_that_is_not_ours_is_refused_even_with_a_known_text_part(tmp_path):
    from mos_pack.nodes.bridge.formats.foreign import read_with_host
    from safetensors.torch import save_file

    text = "lora_te1_text_model_encoder_layers_0_self_attn_k_proj"
    flux = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {
        f"{layer}.{part}.weight": torch.ones(shape)
        for layer, width in ((text, 768), (flux, 3072))
        for part, shape in (("lora_down", (2, width)), ("lora_up", (width, 2)))
    }
    save_file(tensors, tmp_path / "flux.safetensors")
    with pytest.raises(MixOfShowError, match="double_blocks"):
        read_with_host(tmp_path / "flux.safetensors")
    unet = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
    tensors |= {f"{unet}.lora_down.weight": torch.ones(2, 320), f"{unet}.lora_up.weight": torch.ones(320, 2)}
    save_file(tensors, tmp_path / "part.safetensors")
    read = read_with_host(tmp_path / "part.safetensors")
    assert "2 keys are not used" in read.warning() and 0.5 < read.skipped_share < 1
