"""Training on nets that predict flow and know time: Cosmos-Predict2, and Anima where the host has it."""

from dataclasses import replace

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.export import export
from mos_pack.mixofshow_core.formats.native import read_concept
from mos_pack.mixofshow_core.training.dataset import TrainingSet
from mos_pack.mixofshow_core.training.settings import PRESETS
from mos_pack.nodes.bridge.host import files
from mos_pack.nodes.bridge.host.model import apply_deltas, effective_weights
from mos_pack.nodes.bridge.training import denoiser
from mos_pack.nodes.bridge.training import memory as training_memory
from mos_pack.nodes.bridge.training import run as training_run
from mos_pack.nodes.bridge.training import samples as training_samples
from mos_pack.nodes.bridge.training import validation as training_validation
from mos_pack.nodes.concepts import MixOfShowLoadConcept
from mos_pack.nodes.train import MixOfShowTrain
from mos_tests.host.other_nets import tiny_net
from mos_tests.host.tiny import TinyBase, in_eight_bits, tiny_model, tiny_vae
from mos_tests.host.training.test_train import (
    ask,
    assert_learns,
    clean_folders,  # noqa: F401  (autouse)
    gradients,
    interrupt_at,
    opened,
    pictures,
    slope_along,
    weights_of,
)

SIZE = 64


@pytest.fixture(params=["cosmos", "anima"])
def base(request, monkeypatch):
    found = request.getfixturevalue(f"tiny_{request.param}")
    monkeypatch.setattr(found.model.model, "native_size", SIZE, raising=False)
    return found


def run(base, **changes):
    with torch.inference_mode():  # as the executor runs nodes
        return training_run.run_training(ask(base, preset=changes.pop("preset", "LoRA"), **changes))


def test_a_lora_learns_one_picture(base):
    changes = {"data": pictures(count=1, flat=True), "steps": 30, "lr_unet": 1e-2, "noise_offset": 0.0}
    with opened(base, preset="LoRA", **changes) as run:
        assert_learns(*run)


def test_a_gradient_is_the_slope_of_the_loss(base):
    """Central differences along the gradient of a few layers, of every kind that is trained."""
    with opened(base, preset="LoRA", batch=1, unet_layers="transformer") as now:
        named, grads = gradients(now)
        assert all(float(grad.norm()) > 0 for grad in grads.values())
        kinds = (
            "self_attn/k_proj",
            "cross_attn/v_proj",
            "cross_attn/q_proj",
            "mlp/layer1",
            "x_embedder",
            "final_layer",
        )
        for kind in kinds:
            name = next(name for name in named if kind in name and name.endswith("up"))
            slope = float(grads[name].norm())
            reach = min(0.05 * float(named[name].detach().norm()), 2e-3 / slope)
            found = slope_along(now, named[name], grads[name] / slope, reach)
            assert found == pytest.approx(slope, rel=0.02, abs=4e-7 / reach), name


def test_checkpointing_changes_no_gradient_and_the_estimate_is_near_what_is_kept(base):
    kept = {}
    for checkpointing in ("off", "on"):
        with opened(base, preset="LoRA", checkpointing=checkpointing, batch=4) as now:
            own = {p.data_ptr() for p in now[0].model.diffusion_model.parameters()}
            sizes = {}

            def keep(tensor, sizes=sizes):
                sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                grads = gradients(now)[1]
        kept[checkpointing] = grads, sum(size for pointer, size in sizes.items() if pointer not in own)
    plain, saved = kept["off"][0], kept["on"][0]
    assert max(float((plain[name] - saved[name]).norm() / plain[name].norm()) for name in plain) < 1e-4
    guess = training_memory.estimate(ask(base, preset="LoRA", batch=4)).activations
    print("kept", kept["off"][1], "checkpointed", kept["on"][1], "foretold", guess)
    assert 0.5 < guess / kept["off"][1] < 2.0


def test_the_file_is_the_same_change_in_the_stock_loader_and_in_load_concept(base, tmp_path):
    before = weights_of(base)
    result = run(base, steps=3, lr_unet=1e-2)
    after = weights_of(base)
    assert [key for key in before if not torch.equal(before[key], after[key])] == [], "the base is left as it was"
    assert result.concept.base.family == "cosmos2" and result.concept.entries[0].expansion == "zorbo person"
    assert len(result.concept.deltas) == 3 * 8, "queries, keys, values and outputs of both attentions"
    (use,), card = MixOfShowLoadConcept.execute(f"mixofshow/{result.path.name}").result
    assert "zorbo" in card and use.concept.content_hash == result.concept.content_hash
    names = sorted(use.concept.deltas)
    ours = effective_weights(apply_deltas(base.model, None, use.concept.deltas)[0], names)
    plain = effective_weights(base.model, names)
    done = export(use.concept, "kohya", tmp_path / "kohya.safetensors", "exact")
    assert done.lost == ()
    for path in (result.path, done.main):
        file = comfy.utils.load_torch_file(str(path))
        stock = effective_weights(comfy.sd.load_lora_for_models(base.model, None, file, 1.0, 0.0)[0], names)
        for name in names:
            torch.testing.assert_close(stock[name], ours[name], rtol=0, atol=1e-6)
            assert not torch.equal(stock[name], plain[name])


def test_cancel_keeps_the_step_and_the_next_run_ends_in_the_same_bytes(base, monkeypatch):
    whole = run(base, steps=6)
    expected = whole.path.read_bytes()
    whole.path.unlink()
    interrupt_at(monkeypatch, 4)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(base, steps=6)
    monkeypatch.undo()
    base.model.model.native_size = SIZE
    stopped = files.concept_folder("output") / "steps" / "zorbo-step4.safetensors"
    assert read_concept(stopped).training["steps_done"] == 4
    resumed = run(base, steps=6)
    assert "continued from step 4 of 6, where this run was stopped" in resumed.notes
    assert resumed.path.read_bytes() == expected


def test_the_node_shows_previews_a_sheet_and_samples(base, monkeypatch):
    monkeypatch.setattr(training_samples, "STEPS", 1)
    monkeypatch.setattr(training_validation, "STEPS", 1)
    settings = {"batch": 1, "slots": 1, "variants": 1, "preview_every": 1, "validate_every": 1}
    with torch.inference_mode():
        out = MixOfShowTrain.execute(
            base.model, base.clip, base.vae, pictures(), "LoRA", "standard", 2, 0, "flow", settings
        )
    assert out.result[1].shape == (3, SIZE, SIZE, 3)
    assert (files.concept_folder("output") / "steps" / "flow-step1.png").is_file()
    (told,) = out.ui["text"]
    assert "text_lora = False (text encoders of Anima or Cosmos-Predict2 are left as they are)" in told


def test_whole_weights_and_class_pictures(base, monkeypatch):
    monkeypatch.setattr(training_samples, "STEPS", 1)
    result = run(base, preset="DreamBooth", steps=2, lr_unet=1e-3)
    net = base.model.model.diffusion_model
    linears = [path for path, module in net.named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(result.concept.deltas) == sorted(f"diffusion_model.{path}" for path in linears)
    assert [name for name, delta in result.concept.deltas.items() if not delta.dense().abs().max()] == []


def test_a_net_in_eight_bits_learns_as_the_same_numbers_in_full(tiny_cosmos):
    """What is stored in fp8 is cast when a layer runs; the LoRA and its gradient are fp32."""
    losses = []
    for stored in (True, False):
        base = replace(tiny_cosmos, model=tiny_model("cosmos"))
        base.model.model.native_size = SIZE
        in_eight_bits(base.model)
        if not stored:
            for module in base.model.model.diffusion_model.modules():
                if getattr(module, "comfy_cast_weights", False):
                    module.float()
        result = run(base, steps=2)
        result.path.unlink()
        losses.append(result.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_caption_that_the_net_cannot_read_is_named(tiny_anima, monkeypatch):
    monkeypatch.setattr(tiny_anima.model.model, "native_size", SIZE, raising=False)
    data = pictures(count=1)
    shots = tuple(replace(shot, caption="zorbo " + "xq " * 600) for shot in data.concepts[0].pictures)
    data = TrainingSet((replace(data.concepts[0], pictures=shots),))
    with pytest.raises(MixOfShowError, match=r"caption '.*zorbo.* has \d+ tokens; Anima reads at most 512"):
        run(tiny_anima, steps=1, data=data)


def test_a_caption_is_encoded_once(tiny_cosmos, monkeypatch):
    """T5 is larger than the net, and nothing in it changes."""
    encode, seen = type(tiny_cosmos.clip).encode_from_tokens, []
    monkeypatch.setattr(type(tiny_cosmos.clip), "encode_from_tokens", lambda *a, **b: seen.append(a) or encode(*a, **b))
    monkeypatch.setattr(tiny_cosmos.model.model, "native_size", SIZE, raising=False)
    run(tiny_cosmos, steps=6, data=pictures(count=1), templates=False)
    assert len(seen) == 1


def test_captions_that_no_step_can_share_are_named():
    """T5 writes as many rows as a long caption has tokens: 512 and 640 fit into 2560, 512 and 701 into nothing."""
    texts = {length: torch.randn(1, length, 8) for length in (512, 640, 701)}
    assert denoiser._one_length([texts[512], texts[640]]).shape == (1, 2, 2560, 8)
    with pytest.raises(MixOfShowError, match="Captions of 512 and 701 tokens cannot share a step.*batch to 1"):
        denoiser._one_length([texts[512], texts[701]])
    assert denoiser._one_length([texts[701]]).shape == (1, 1, 701, 8)  # the remedy


@pytest.mark.parametrize("preset", [name for name, one in PRESETS.items() if one.trains_embeddings])
def test_learned_words_are_refused_on_anima_with_what_works(tiny_anima, preset):
    named = preset.split(" (")[0].replace("+", "[+]")
    with pytest.raises(MixOfShowError, match=rf"Preset {named}.* learns words, .*adapter.*Choose the preset LoRA"):
        ask(tiny_anima, preset=preset)


def test_what_cannot_be_trained_is_named(base, tiny_sd15):
    with pytest.raises(MixOfShowError, match=r"VAE makes latents of 4 channels, and MODEL \(Anima or.*reads 16"):
        ask(TinyBase(base.model, base.clip, tiny_vae()), preset="LoRA")
    with pytest.raises(MixOfShowError, match="MODEL is .*flux.*; Train is for SD1.5"):
        ask(TinyBase(tiny_net("flux"), tiny_sd15.clip, base.vae), preset="LoRA")


def test_use_of_a_trained_lora_in_place(base):
    """What was learned is routed like any LoRA of the family."""
    from mos_pack.nodes.bridge.placing.place import place
    from mos_tests.host.placing.test_routing import regions

    (use,) = training_run.used_concepts(run(base, steps=2))
    assert isinstance(use, ConceptUse) and use.trigger == "zorbo person"
    place(base.model, base.clip, "a street", "", regions({"prompt": "zorbo", "concept": "zorbo"}), (use,))
