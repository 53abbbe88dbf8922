"""Training through the host's own net and encoders, in process: gradients, isolation, restoration, files, cancel."""

import contextlib
import re
from dataclasses import replace

import comfy.model_management
import numpy as np
import pytest
import torch
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.native import read_concept
from mos_pack.mixofshow_core.training import loop, optimizers
from mos_pack.mixofshow_core.training.dataset import ConceptPictures, Picture, TrainingSet
from mos_pack.mixofshow_core.training.settings import PRESETS, TrainSettings
from mos_pack.nodes.bridge.demo import small_base
from mos_pack.nodes.bridge.demo.small_autoencoder import SmallAutoencoder
from mos_pack.nodes.bridge.host import files
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_pack.nodes.bridge.training import denoiser as training
from mos_pack.nodes.bridge.training import run as training_run
from mos_pack.nodes.bridge.training import samples as training_samples
from mos_tests.host.tiny import TinyBase, randomise, tiny_base

SIZE = 64


def lean_base() -> TinyBase:
    """The small base's own lean topology (7 cross-attention layers) with random weights."""
    import comfy.model_patcher

    model = small_base.build_unet()
    randomise(model.diffusion_model, 0, std=0.05)
    clip = small_base.build_clip()
    randomise(clip.cond_stage_model, 1)
    device = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
    autoencoder = SmallAutoencoder(small_base.LATENT_CHANNELS)
    randomise(autoencoder, 2)  # unseeded, every process would train on latents of its own
    return TinyBase(patcher, clip, small_base.build_vae(autoencoder))


@pytest.fixture(scope="module", params=["lean", "sd15", "sdxl"])
def base(request):
    with torch.inference_mode():  # as the executor loads models
        found = lean_base() if request.param == "lean" else tiny_base(request.param)
    found.model.model.native_size = SIZE
    return found


@pytest.fixture(scope="module")
def lean():
    with torch.inference_mode():
        return lean_base()


@pytest.fixture(autouse=True)
def clean_folders():
    for folder in (files.concept_folder(), files.work_folder("training")):
        for path in folder.glob("*.safetensors"):
            path.unlink()


def pictures(name="zorbo", count=3, flat=False):
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        pixels = rng.integers(0, 255, (72, 64, 3)).astype(np.uint8)
        made.append(Picture(f"{number}.png", pixels // 8 + 100 if flat else pixels, f"{name}, look {number}"))
    return TrainingSet((ConceptPictures(name, "person", "character", tuple(made)),))


def ask(base, *given, **changes):
    return asked(base, *given, **changes)[0]


def asked(base, steps=3, data=None, preset="ED-LoRA", seed=0, **changes):
    """(request, notes)"""
    changes = {"batch": 2, "slots": 1, "variants": 2, "preview_every": 0, "prior_pictures": 2} | changes
    settings = replace(PRESETS[preset], **changes)
    return training_run.prepare(
        base.model, base.clip, base.vae, data or pictures(), settings, "standard", steps, seed, ""
    )


@contextlib.contextmanager
def opened(base, **changes):
    """(host, trainables, samples, settings) with every adapter away from zero and every embedding row of its own, so
    that all gradients live and a mixed up layer shows."""
    request = ask(base, **changes)
    with torch.inference_mode():
        samples = training_run.encode_pictures(request)
    with training.host_for_training(base.model, base.clip, request.settings, request.index) as host:
        samples = [training_run.ordinary(s) for s in samples]
        trainables = training_run.make_trainables(request)
        generator = torch.Generator().manual_seed(3)
        for adapter in trainables.adapters.values():
            with torch.no_grad():
                (adapter.diff if hasattr(adapter, "diff") else adapter.up).normal_(0, 0.1, generator=generator)
        for table in trainables.embeddings.parameters():
            with torch.no_grad():
                table.add_(torch.randn(table.shape, generator=generator), alpha=0.2)
        host.learn_words(trainables, request.plans)
        with trainables.attached(training_run.trained_modules(base.model, host.clip)):
            yield host, trainables, samples, request.settings


def gradients(opened_run):
    host, trainables, samples, settings = opened_run
    named = dict(trainables.named_parameters())
    loss = loop.batch_loss(host, samples, trainables, settings, 0, 0)
    return named, dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def slope_along(now, parameter, direction, reach: float) -> float:
    """The loss's slope along a unit direction of one parameter, by central differences ``reach`` to both sides."""
    host, trainables, samples, settings = now
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.add_(direction, alpha=sign * reach)
            values.append(float(loop.batch_loss(host, samples, trainables, settings, 0, 0).double()))
            parameter.sub_(direction, alpha=sign * reach)
    return (values[0] - values[1]) / (2 * reach)


def test_every_gradient_equals_finite_differences(lean):
    """Central differences along each tensor's own gradient, in fp32: about 0.1 % is what the arithmetic allows."""
    with opened(lean, seed=1, batch=1) as run:
        named, grads = gradients(run)
        assert {name.split(".")[0] for name in named} == {"adapters", "embeddings"}
        assert len(named) == 2 * (7 * 8 + 8) + 1
        for name, parameter in named.items():
            slope = grads[name].norm()
            assert slope > 0, f"{name} gets no gradient"
            direction = grads[name] / slope
            reach = min(0.05 * float(parameter.detach().norm()), 2e-3 / float(slope))
            measured = slope_along(run, parameter, direction, reach)
            noise = 4e-7 / reach
            assert measured == pytest.approx(float(slope), rel=0.02, abs=noise), name


def test_checkpointing_changes_no_gradient(base):
    with opened(base) as run:
        _, plain = gradients(run)
    with opened(base, checkpointing="on") as run:
        host, _, _, settings = run
        assert settings.checkpointing == "on"
        _, saved = gradients(run)
    worst = max(float((plain[name] - saved[name]).norm() / plain[name].norm()) for name in plain)
    assert worst < 1e-4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_refused_on_a_cpu(lean, precision):
    with pytest.raises(MixOfShowError, match=f"precision is {precision}"):
        ask(lean, precision=precision)


def test_running_out_of_memory_says_what_to_change(lean, monkeypatch):
    def fail(*_, **__):
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    monkeypatch.setattr(training.HostDenoiser, "predict", fail)
    with torch.inference_mode(), pytest.raises(MixOfShowError, match="checkpointing to on.*batch to 1"):
        training_run.run_training(ask(lean))


def test_row_k_of_a_word_changes_only_the_context_of_layer_k(base):
    with opened(base) as (host, trainables, samples, _), torch.no_grad():
        before = host.encode(["a photo of zorbo, smiling", "no concept"], trainables.vectors()).layers
        assert before.shape[:2] == (host.rows, 2)
        row = host.rows // 2
        for table in trainables.embeddings["zorbo"].parameters():
            table[:, row] += torch.randn(table.shape[-1], generator=torch.Generator().manual_seed(0))
        after = host.encode(["a photo of zorbo, smiling", "no concept"], trainables.vectors()).layers
        changed = [bool((after[r, 0] - before[r, 0]).abs().max() > 1e-4) for r in range(host.rows)]
        assert changed == [r == row for r in range(host.rows)]
        assert torch.equal(after[:, 1], before[:, 1])


def test_layer_k_of_the_net_reads_row_k(lean):
    with opened(lean) as (host, trainables, samples, _):
        text = host.encode(["zorbo"], trainables.vectors())
        layers = text.layers.detach().requires_grad_(True)
        seen = {}
        names = [layer.path for layer in training.cross_attention_layers(host.model.diffusion_model)]
        handles = [
            host.model.diffusion_model.get_submodule(f"{path}.to_k").register_forward_hook(
                lambda module, args, out, number=number: seen.setdefault(number, args[0])
            )
            for number, path in enumerate(names)
        ]
        host.predict(samples[0].latents[:1], torch.tensor([500]), loop.TextContexts(layers), torch.tensor([0]))
        for handle in handles:
            handle.remove()
        assert all(torch.equal(seen[number], layers[number]) for number in range(len(names)))


def test_the_training_context_is_what_sampling_sees(base):
    """The trainer's own batched encoding equals encode_layered on the exported concept, pooled vector included."""
    with opened(base) as (host, trainables, _, _), torch.no_grad():
        request = ask(base)
        trained = host.encode(["a photo of zorbo, smiling"], trainables.vectors())
        concept = training_run.learned_concept(trainables, request.plans, request.index, request.base, {})
    model, clip = training.bridge_model.apply_deltas(base.model, base.clip, concept.deltas)
    clip = register_concepts(clip, [training_run.ConceptUse(concept)])
    sampled = encode_layered(clip, "a photo of zorbo, smiling", len(request.index))
    assert torch.allclose(sampled.layers, trained.layers[:, 0], atol=2e-4)
    if trained.pooled is not None:
        assert torch.allclose(sampled.extras["pooled_output"], trained.pooled, atol=2e-4)


def weights_of(base):
    comfy.model_management.unload_all_models()  # an earlier test may have left its LoRA baked in
    return {
        f"{number}.{key}": value.clone()
        for number, module in enumerate((base.model.model, base.clip.cond_stage_model))
        for key, value in module.state_dict().items()
    }


def test_training_leaves_model_and_clip_as_they_were(base):
    before = weights_of(base)
    modules = [*base.model.model.modules(), *base.clip.cond_stage_model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    with torch.inference_mode():
        training_run.run_training(ask(base, steps=2, checkpointing="on"))
        assert torch.is_inference_mode_enabled()  # the node goes on in the executor's mode
    after = weights_of(base)
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
    assert not any("forward" in vars(m) for m in modules)
    assert all(p.grad is None for m in modules for p in m.parameters(recurse=False))
    assert not base.model.patches and not base.clip.patcher.patches


def assert_learns(host, trainables, samples, settings):
    """Measured on batches of fixed noise and timesteps, because the loss of single steps jumps with the timestep."""

    def measure():
        with torch.no_grad():
            return sum(float(loop.batch_loss(host, samples, trainables, settings, 1, d)) for d in range(6))

    before = measure()
    optimizer = optimizers.make_optimizer(trainables, settings)
    loop.train(host, samples, trainables, optimizer, settings, 0, training_run.RunState(), lambda report: None)
    assert measure() < 0.9 * before


def test_over_fitting_one_flat_picture_lowers_the_loss(lean):
    data = pictures(count=1, flat=True)
    with opened(lean, data=data, steps=16, lr_unet=5e-3, noise_offset=0.0) as run:
        assert_learns(*run)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_train_what_they_say_and_equal_seeds_give_equal_bytes(lean, preset):
    with torch.inference_mode():
        first = training_run.run_training(ask(lean, preset=preset, seed=4))
        stored = first.path.read_bytes()
        first.path.unlink()
        second = training_run.run_training(ask(lean, preset=preset, seed=4))
    assert second.path == first.path and second.path.read_bytes() == stored
    concept = read_concept(second.path)
    entry = concept.entries[0]
    rows = [embedding.rows["clip_l"].shape[0] for embedding in entry.embeddings]
    everything = sum(m.weight.dim() > 1 for m in lean.model.model.diffusion_model.modules() if hasattr(m, "weight"))
    expected = {
        "ED-LoRA": ([7, 7], 64),
        "P+": ([7], 0),
        "Textual Inversion": ([1], 0),
        "LoRA": ([], 64),
        "LoRA with a word": ([1], 64),
        "Custom Diffusion": ([1], 14),
        "DreamBooth": ([], everything),
    }[preset.removesuffix(" (reference)")]
    assert (rows, len(concept.deltas)) == expected
    full = preset.startswith(("Custom", "Dream"))
    assert all(isinstance(delta, Dense if full else LowRank) for delta in concept.deltas.values())
    assert all(float(delta.dense().abs().max()) > 0 for delta in concept.deltas.values())
    (use,) = training_run.used_concepts(second)
    named = preset in ("LoRA", "DreamBooth")
    assert use.trigger == ("zorbo person" if named else "") and entry.with_class == (named or full)


def test_a_finished_run_is_loaded_and_another_seed_is_not(lean):
    with torch.inference_mode():
        first = training_run.run_training(ask(lean))
        written = first.path.stat().st_mtime_ns
        again = training_run.run_training(ask(lean))
        assert again.path == first.path and first.path.stat().st_mtime_ns == written
        assert again.concept.content_hash == first.concept.content_hash
        assert "identical run was finished before" in again.notes[0] and not first.notes
        other = training_run.run_training(ask(lean, seed=1))
    assert other.path != first.path and other.concept.content_hash != first.concept.content_hash


def interrupt_at(monkeypatch, step):
    """Ask the host to cancel, as the Cancel button does, once ``step`` steps are done."""
    original = training_run.Progress.step

    def count(self, done, *others, **more):
        if self.total > 5 and done == step:
            comfy.model_management.interrupt_current_processing()
        original(self, done, *others, **more)

    monkeypatch.setattr(training_run.Progress, "step", count)


def test_cancel_saves_a_usable_concept_and_the_next_run_ends_in_the_same_bytes(lean, monkeypatch, caplog):
    caplog.set_level("INFO", logger="mixofshow")
    with torch.inference_mode():
        whole = training_run.run_training(ask(lean, steps=8))
        expected = whole.path.read_bytes()
        whole.path.unlink()
        interrupt_at(monkeypatch, 5)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            training_run.run_training(ask(lean, steps=8))
        monkeypatch.undo()
        stopped = files.concept_folder("output") / "steps" / "zorbo-step5.safetensors"
        assert str(stopped) in caplog.text
        assert read_concept(stopped).training["steps_done"] == 5
        resumed = training_run.run_training(ask(lean, steps=8))
    assert "continued from step 5 of 8, where this run was stopped" in resumed.notes
    assert resumed.path.read_bytes() == expected
    assert not list(files.work_folder("training").glob("*"))


def test_a_damaged_newest_snapshot_costs_its_own_steps_only(lean, monkeypatch, caplog):
    caplog.set_level("INFO", logger="mixofshow")
    with torch.inference_mode():
        whole = training_run.run_training(ask(lean, steps=8))
        expected = whole.path.read_bytes()
        whole.path.unlink()
        interrupt_at(monkeypatch, 5)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            training_run.run_training(ask(lean, steps=8, snapshot_every=2, snapshots_kept=2))
        monkeypatch.undo()
        kept = sorted(files.work_folder("training").glob("*"))
        assert [path.stem[-2:] for path in kept] == ["04", "05"], "step 2 was dropped for step 5"
        kept[1].write_bytes(kept[1].read_bytes()[:-40])
        resumed = training_run.run_training(ask(lean, steps=8))
    assert f"{kept[1]} is damaged" in caplog.text
    assert resumed.notes[:2] == (
        "a damaged snapshot was passed over",
        "continued from step 4 of 8, where this run was stopped",
    )
    assert resumed.path.read_bytes() == expected
    assert not list(files.work_folder("training").glob("*"))


def test_divergence_names_the_step_and_leaves_a_finite_file(lean, caplog):
    with torch.inference_mode(), pytest.raises(MixOfShowError, match="diverged at step"):
        training_run.run_training(ask(lean, steps=30, lr_unet=1.0, lr_text=1.0, lr_embedding=1.0, rank=8, alpha=1024.0))
    for path in files.concept_folder().glob("*.safetensors"):
        read_concept(path)


def test_two_concepts_are_trained_together(lean):
    data = pictures("zorbo", 2).joined(pictures("quibb", 2))
    with torch.inference_mode():
        result = training_run.run_training(ask(lean, data=data))
    assert [entry.name for entry in result.concept.entries] == ["zorbo", "quibb"]
    assert result.path.name == "zorbo+quibb.safetensors" or result.path.stem.startswith("zorbo")


def test_masks_and_long_captions_and_odd_settings_run(lean):
    data = pictures(count=2)
    mask = np.zeros((72, 64), np.uint8)
    mask[20:50, 16:48] = 255
    long = ", ".join(f"phrase number {n} of many" for n in range(30))
    concept = data.concepts[0]
    shots = (replace(concept.pictures[0], mask=mask, caption=f"zorbo, {long}"), replace(concept.pictures[1], mask=mask))
    data = TrainingSet((replace(concept, pictures=shots),))
    with torch.inference_mode():
        result = training_run.run_training(
            ask(
                lean,
                data=data,
                slots=2,
                loss_mask="object",
                dropout=0.2,
                min_snr=5.0,
                clip_gradient=1.0,
                accumulation=2,
                embedding_rows="resolutions",
                flip=True,
                schedule="cosine",
                warmup_steps=1,
                caption_dropout=0.2,
            )
        )
    assert all(np.isfinite(result.losses))
    assert result.concept.entries[0].embeddings[0].index == (0, 1, 1, 1, 1, 0, 0)


def test_samples_show_three_strengths(lean, monkeypatch):
    monkeypatch.setattr(training_samples, "STEPS", 3)
    with torch.inference_mode():
        result = training_run.run_training(ask(lean, lr_unet=0.05))
        (use,) = training_run.used_concepts(result)
        samples = training_samples.sample_strengths(lean.model, lean.clip, lean.vae, use, 0)
    assert samples.shape == (3, SIZE, SIZE, 3)
    assert not torch.equal(samples[0], samples[2])


def test_previews_are_drawn_while_training(lean, monkeypatch):
    shown = []
    original = training_run.Progress.step
    monkeypatch.setattr(
        training_run.Progress,
        "step",
        lambda self, done, preview=None, *others, **more: (shown.append(preview), original(self, done)),
    )
    with torch.inference_mode():
        training_run.run_training(ask(lean, steps=4, preview_every=2))
    assert [preview.size for preview in shown if preview is not None] == [(8, 8), (8, 8)]


def test_a_flow_model_is_refused(lean):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    flow = ModelSamplingSD3().patch(lean.model, 3.0)[0]
    with pytest.raises(MixOfShowError, match="CONST"):
        ask(TinyBase(flow, lean.clip, lean.vae))


def test_settings_of_the_dataclass_are_all_reachable_or_deliberate():
    """A new setting must appear in the settings node, or be listed here."""
    from mos_pack.nodes.train import MixOfShowTrainSettings

    shown = {item.id for item in MixOfShowTrainSettings.define_schema().inputs}
    hidden = {
        "method",
        "words",
        "text_lora",
        "unet_lora",
        "alpha",
        "weight_decay",
        "steps",
        "slots",
        "variants",
        "templates",
        "caption_dropout",
        "full_weights",
        "with_class",
        "detach_bos",
        "size_captions",
    }
    assert shown | hidden == set(TrainSettings().to_json()) and not shown & hidden


def test_a_name_trained_with_its_class_stands_for_both_everywhere(lean):
    """Typing `zorbo` or `zorbo person` gives the tokens that training saw, also after a round trip through a file."""
    with torch.inference_mode():
        result = training_run.run_training(ask(lean, preset="LoRA"))
    concept = read_concept(result.path)
    assert concept.entries[0].with_class and concept.entries[0].expansion == "zorbo person"
    clip = register_concepts(lean.clip, [training_run.ConceptUse(concept)])
    plain = [token for token, *_ in lean.clip.tokenize("a photo of zorbo person, smiling")["l"][0]]
    for typed in ("a photo of zorbo, smiling", "a photo of zorbo person, smiling", "a photo of <zorbo>, smiling"):
        assert [token for token, *_ in clip.tokenize(typed)["l"][0]] == plain
    with opened(lean, preset="LoRA") as (host, *_):
        assert [token for chunk in host.tokens("a photo of zorbo, smiling")["clip_l"] for token in chunk] == plain


def test_every_value_of_a_preset_can_be_chosen_with_any_other_preset():
    """Also a value that happens to be the default of TrainSettings: noise offset 0.01 with Custom Diffusion."""
    from mos_pack.nodes.train import SWITCHES, MixOfShowTrainSettings

    schema = MixOfShowTrainSettings.define_schema()
    automatic = {"rank", "lr_embedding", "lr_text", "lr_unet", "batch", "scale_min"}  # 0 there keeps the preset's
    untouched = {item.id: item.default for item in schema.inputs}
    assert MixOfShowTrainSettings.execute(**untouched).result == ({},)
    for wanted in PRESETS.values():
        for name in sorted(untouched.keys() - {"embedding_rows"}):
            value = getattr(wanted, name)
            if name in automatic and value == 0:
                continue
            shown = {True: "on", False: "off"}[value] if name in SWITCHES else value
            differs = any(getattr(preset, name) != value for preset in PRESETS.values())
            changes = MixOfShowTrainSettings.execute(**untouched | {name: shown}).result[0]
            assert changes == {name: value} or not differs and shown == untouched[name], name


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16])
def test_a_base_stored_in_half_precision_trains_as_the_same_numbers_in_fp32(lean, weights):
    """fp32 arithmetic on stored half weights, as the host runs them on a CPU; words and LoRA are fp32 in both."""
    found = []
    for half in (True, False):
        with torch.inference_mode():
            made = lean_base()
            base = TinyBase(made.model, made.clip, lean.vae)
            for module in (base.model.model.diffusion_model, base.clip.cond_stage_model):
                module.to(weights)
                if not half:
                    module.float()
            base.model.model.diffusion_model.dtype = weights if half else torch.float32  # as the host's loader sets it
            base.model.model.native_size = SIZE
            result = training_run.run_training(ask(base, steps=3))
        assert base.model.model.diffusion_model.out[2].weight.dtype == (weights if half else torch.float32)
        result.path.unlink()
        found.append(result)
    assert found[0].losses == pytest.approx(found[1].losses, rel=1e-4)
    for name, delta in found[1].concept.deltas.items():
        same = found[0].concept.deltas[name].dense()
        assert float((same - delta.dense()).norm()) < 0.1 * float(delta.dense().norm()), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: its fp16 and bf16 arithmetic is what is tested")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_arithmetic_on_a_gpu_trains(precision):
    with torch.inference_mode():
        base = lean_base()
    base.model.load_device = torch.device("cuda")
    base.clip.patcher.load_device = torch.device("cuda")
    base.model.model.native_size = SIZE
    with torch.inference_mode():
        plain = training_run.run_training(ask(base, steps=8, precision="fp32"))
        result = training_run.run_training(ask(base, steps=8, precision=precision))
    assert result.losses == pytest.approx(plain.losses, rel=0.05)


def test_the_log_tells_loss_speed_and_time_left(lean, caplog):
    caplog.set_level("INFO", logger="mixofshow")
    report = training_run.StepReport(12, 600, 0.1, 1e-3)
    assert training_run.describe_step(report, [0.1, 0.3], 5.0) == "step 12 of 600, loss 0.2000, 5.0 s/step"
    assert training_run.describe_step(report, [0.1, 0.3], 0.25) == "step 12 of 600, loss 0.2000, 4.0 steps/s"
    with torch.inference_mode():
        training_run.run_training(ask(lean, steps=3, preview_every=1))
    lines = [record.message for record in caplog.records if "Training step" in record.message]
    assert lines[0].startswith("Training step 1 of 3, loss") and all(line.endswith(" left.") for line in lines[:2])
    assert re.search(r"(s/step|steps/s)\.$", lines[2])


def test_settings_of_another_node_are_refused():
    from mos_pack.nodes.train import MixOfShowTrain

    with pytest.raises(MixOfShowError, match="needs Train Settings"):
        MixOfShowTrain.execute(None, None, None, None, "ED-LoRA", "standard", 0, 0, "", settings=object())
