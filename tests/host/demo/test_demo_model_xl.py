"""The small base of SDXL's kind: its recipe, its file, and the pack's whole way on it. Random weights, true shapes."""

import json
from pathlib import Path

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.nets import cross_attention_layers
from mos_pack.nodes.bridge.demo import rows, small_base, small_base_xl
from mos_pack.nodes.bridge.demo.small_autoencoder import SmallAutoencoder
from mos_pack.nodes.bridge.host import model as bridge_model
from mos_pack.nodes.bridge.host.fitting import check_fit
from mos_pack.nodes.concepts import MixOfShowLoadConcept
from mos_pack.nodes.export import MixOfShowExport
from mos_pack.nodes.fuse import MixOfShowFuse
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.demo.test_demo_model import PROMPT, fill_zeros, ids_of_prompt, sample
from mos_tests.host.placing.test_place import regions
from mos_tests.host.runtime import ROOT
from mos_tests.host.tiny import TinyBase
from mos_world.training import base as recipe_a
from mos_world.training import base_b as recipe_b
from mos_world.training import latents
from mos_world.training.export import net_tensors
from mos_world.workflows.graphs import to_api
from mos_world.workflows.variants import find, together
from safetensors.torch import save_file

LAYERS = 11


@pytest.fixture(scope="module")
def ids():
    return ids_of_prompt()


@pytest.fixture(scope="module")
def net(ids):
    torch.manual_seed(0)
    net = recipe_b.NetB(ids, small_base.LATENT_CHANNELS)
    fill_zeros(net)
    return net


@pytest.fixture(scope="module")
def path(net, ids, tmp_path_factory) -> Path:
    vae = SmallAutoencoder(small_base.LATENT_CHANNELS).state_dict()
    channels = small_base.LATENT_CHANNELS
    latent = {
        "mean": torch.zeros(channels),
        "std": torch.ones(channels),
        "rgb": torch.zeros(channels, 3),
        "rgb_bias": torch.zeros(3),
    }
    tensors = net_tensors(net, ids) | {f"vae.{k}": v for k, v in vae.items()}
    file = tmp_path_factory.mktemp("base") / "small_base_xl.safetensors"
    save_file({k: v.contiguous() for k, v in (tensors | {f"latent.{k}": v for k, v in latent.items()}).items()}, file)
    return file


@pytest.fixture(scope="module")
def base(path):
    with torch.inference_mode():  # as the executor loads models
        return TinyBase(*small_base_xl.load_small_base_xl(path))


def test_its_first_step_paints_what_base_a_paints(ids, tmp_path):
    torch.manual_seed(1)
    older = recipe_a.Net(ids[:-5], small_base.LATENT_CHANNELS).requires_grad_(False)
    for parameter in older.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    torch.save({"ema": older.state_dict(), "ids": ids[:-5]}, tmp_path / "a.pt")
    newer = recipe_b.NetB(ids[:-5], small_base.LATENT_CHANNELS).requires_grad_(False)
    recipe_b.start_from(newer, ids[:-5], tmp_path / "a.pt")
    rows = torch.searchsorted(ids, latents.tokenize([PROMPT, ""])).clamp(max=len(ids) - 6)
    x, t = torch.randn(2, small_base.LATENT_CHANNELS, 8, 16), torch.tensor([10.0, 700.0])
    wanted = older.unet(x, t, **older.conditions(rows, 8, 16))
    found = newer.unet(x, t, **newer.conditions(rows, 8, 16))
    assert wanted.abs().max() > 0.1 and (found - wanted).abs().max() < 1e-5


def test_the_host_feeds_the_net_as_training_did(net, ids, base):
    """Both tokenizers, their paddings, the pooled position, the label input and the 8-bit weights."""
    rows = torch.searchsorted(ids, latents.tokenize([PROMPT]))
    wanted = net.conditions(rows, 8, 16)
    encoded = base.clip.encode_from_tokens(base.clip.tokenize(PROMPT), return_dict=True)
    assert (encoded["cond"] - wanted["context"]).abs().max() < 0.02
    label = base.model.model.encode_adm(pooled_output=encoded["pooled_output"], width=128, height=64)
    assert label.shape == wanted["y"].shape == (1, small_base_xl.UNET["adm_in_channels"])
    assert (label - wanted["y"]).abs().max() < 0.02
    x, t = torch.randn(1, small_base.LATENT_CHANNELS, 8, 16), torch.tensor([300.0])
    found = base.model.model.diffusion_model(x, t, context=encoded["cond"], y=label)
    expected = net.unet(x, t, **wanted)
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_a_crop_is_told_to_the_net(net, ids):
    rows = torch.searchsorted(ids, latents.tokenize([PROMPT]))
    whole, left, right = (
        net.conditions(rows, 8, 8, **where)["y"] for where in ({}, {"full": 16}, {"full": 16, "crop": 8})
    )
    assert not torch.equal(whole, left) and not torch.equal(left, right)


def test_eight_bits_lose_half_a_step_at_most():
    weight = torch.randn(6, 4, 3, 3) * torch.logspace(-3, 1, 6).reshape(-1, 1, 1, 1)
    weight[0] = 0
    stored, scale = rows.pack(weight)
    back = rows.unpack({"w": stored, "w.scale": scale})["w"]
    assert stored.dtype == torch.int8 and ((back - weight).abs() <= 0.51 * scale.float() + 1e-3 * weight.abs()).all()


def test_it_is_of_sdxls_kind(base):
    info = bridge_model.describe_base(base.model)
    layers = cross_attention_layers(base.model.model.diffusion_model)
    assert info.family == "sdxl-v" and info.layers == LAYERS == len(layers)
    assert bridge_model.native_size(base.model) == 64
    assert list(bridge_model.text_models_of(base.clip)) == ["clip_l", "clip_g"]
    picture = sample(base.model, base.clip, base.vae, PROMPT, 128, 64)
    assert picture.shape == (1, 64, 128, 3) and torch.isfinite(picture).all()


def test_train_fuse_place_and_export(base, monkeypatch):
    import comfy.lora
    import comfy.utils
    from mos_pack.nodes import fuse
    from mos_pack.nodes.train import MixOfShowTrain
    from mos_tests.host.builders import tiny_plan
    from mos_tests.host.training.test_train import pictures

    settings = {"batch": 2, "rank": 2, "preview_every": 0, "slots": 1, "variants": 2}
    uses: tuple[ConceptUse, ...] = ()
    for name in ("zorbo", "mimba"):
        uses, *_ = MixOfShowTrain.execute(
            base.model, base.clip, base.vae, pictures(name), "ED-LoRA", "draft", 2, 0, name, settings, uses
        ).result
    for use in uses:
        assert use.concept.base.family == "sdxl-v"
        for embedding in use.concept.entries[0].embeddings:
            assert embedding.rows["clip_l"].shape == (LAYERS, 128) and embedding.rows["clip_g"].shape == (LAYERS, 160)
        assert any("clip_g" in name for name in use.concept.deltas)
    monkeypatch.setattr(fuse, "preset", lambda name: tiny_plan())
    model, clip, fused, report, _ = MixOfShowFuse.execute(base.model, base.clip, uses, "exact", "quick").result
    assert "zorbo" in report and "mimba" in report
    placed = regions({"id": "left", "prompt": "zorbo"}, {"id": "right", "prompt": "mimba"})
    patched, positive, negative = MixOfShowPlace.one(model, clip, PROMPT, "", placed, None).result
    import nodes

    latent = nodes.EmptyLatentImage().generate(104, 72)[0]
    latent = nodes.KSampler().sample(patched, 1, 2, 3.0, "euler", "normal", positive, negative, latent)[0]
    assert torch.isfinite(latent["samples"]).all()
    again = MixOfShowLoadConcept.execute(f"mixofshow/{Path(uses[0].path).name}").result[0]
    assert again[0].concept.content_hash == uses[0].concept.content_hash
    path = MixOfShowExport.execute(fused, "kohya", "exact", "of base b").result[0]
    weights = comfy.utils.load_torch_file(path)
    assert {key.split("_")[1] for key in weights if key.startswith("lora_te")} == {"te1", "te2"}
    keys = comfy.lora.model_lora_keys_unet(base.model.model, {})
    keys = comfy.lora.model_lora_keys_clip(base.clip.cond_stage_model, keys)
    assert set(comfy.lora.load_lora(weights, keys)) == {bridge_model.patch_key(n) for n in fused[0].concept.deltas}


def test_concepts_do_not_cross_the_kinds(base):
    from mos_tests.host.builders import make_concept
    from mos_tests.host.training.test_train import lean_base

    use = ConceptUse(make_concept(lean_base(), "mara", 1))
    with pytest.raises(MixOfShowError, match="made for the sd-128 family, but MODEL is SDXL"):
        check_fit(base.model, base.clip, [use])


@pytest.mark.slow  # in every run 08 trains and paints on this base in the browser, and the test above fuses on it
def test_workflow_01_runs_on_the_shipped_base(server):
    """The shipped graph with the other kind chosen, and a few training steps in place of its few hundred."""
    workflow = json.loads((ROOT / "example_workflows" / "01_train_fuse_place.json").read_text())
    graph = to_api(workflow, server.object_info())
    graph[find(graph, "MixOfShowDemoModel")[0]]["inputs"]["base"] = "SDXL kind"
    for train in find(graph, "MixOfShowTrain"):
        graph[train]["inputs"]["steps"] = 2
    graph[find(graph, "MixOfShowFuse")[0]]["inputs"]["calibration"] = "quick"
    graph[find(graph, "KSampler")[0]]["inputs"]["steps"] = 2
    graph = together(graph, "fused", True, "xl", seed=1, batch=1)
    assert len(server.run(graph)[find(graph, "SaveImage")[0]]["images"]) == 1
