"""The loop on a toy denoiser: objective, determinism, resume, divergence, freezing, export."""

import math

import pytest
import torch
from mos_pack.mixofshow_core.concept import BaseInfo
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.training import adapters, loop, objectives, optimizers, snapshot
from mos_pack.mixofshow_core.training.settings import TrainSettings
from torch import nn

NAME = "diffusion_model.net.to_q"
SIGMAS = torch.linspace(0.03, 14.0, 50)


def schedule(prediction="eps", sigmas=SIGMAS):
    """Samplers' rules as the papers write them: eps and v (variance preserving), flow from picture to noise."""
    sigmas = sigmas.double()
    if prediction == "flow":
        part = sigmas / (1 + sigmas)
        return objectives.NoiseSchedule(1 - part, part, torch.ones_like(part), -part)
    root = (1 + sigmas**2).sqrt()
    skip, out = (root, -sigmas) if prediction == "eps" else (1 / root, -sigmas / root)
    return objectives.NoiseSchedule(1 / root, sigmas / root, skip, out)


class Toy(nn.Module):
    """One linear over channels, its input shifted by the mean concept vector of the caption."""

    def __init__(self, prediction="eps"):
        super().__init__()
        torch.manual_seed(0)
        self.to_q = nn.Linear(4, 4)
        self.requires_grad_(False)
        self.schedule = schedule(prediction)
        self.device = torch.device("cpu")
        self.captions = []

    def encode(self, captions, vectors):
        self.captions.append(tuple(captions))
        rows = torch.stack([table["clip_l"] for table in vectors.values()]).mean(0)  # [rows, D]
        return loop.TextContexts(rows[:, None, None].expand(-1, len(captions), 1, -1))

    def predict(self, noisy, timesteps, text, which):
        shift = text.layers.mean(0)[which].mean(1)  # [B, D]
        return self.to_q((noisy + shift[:, :, None, None]).movedim(1, -1)).movedim(-1, 1)


def make_run(steps=12, prediction="eps", **changes):
    settings = TrainSettings(
        steps=steps,
        batch=4,
        slots=2,
        lr_embedding=1e-2,
        lr_text=1e-3,
        lr_unet=1e-2,
        norm_stop=-1,
        text_lora=False,
        **changes,
    )
    trainables = adapters.Trainables()
    trainables.add_adapters({NAME: (4, 4)}, 2, 1.0, settings.dropout, 7)
    start = adapters.start_vectors(torch.ones(4), 2, 2.0, adapters.seeded(7, "mara"))
    trainables.add_words(adapters.WordEmbeddings("mara", {"clip_l": start}, 3, 7))
    plan = adapters.ConceptPlan("mara", "woman", "character")
    generator = torch.Generator().manual_seed(1)
    samples = [
        loop.Sample(plan, f"mara, look {n}", torch.randn(2, 4, 4, 4, generator=generator), torch.ones(2, 1, 4, 4))
        for n in range(3)
    ]
    return Toy(prediction), samples, trainables, optimizers.make_optimizer(trainables, settings), settings


def run(steps=12, stop_at=None, on_step=None, seed=5, **changes):
    model, samples, trainables, optimizer, settings = make_run(steps, **changes)
    state = snapshot.RunState()

    def watch(report):
        if on_step:
            on_step(report, trainables, optimizer, state)
        if report.step == stop_at:
            raise KeyboardInterrupt

    with trainables.attached({NAME: model.to_q}):
        loop.train(model, samples, trainables, optimizer, settings, seed, state, watch)
    return trainables, state, model


def flat(trainables):
    return torch.cat([p.detach().flatten() for p in trainables.parameters()])


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_a_perfect_prediction_gives_back_the_picture(prediction):
    steps = schedule(prediction)
    x0, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 20, 49])
    noisy = steps.noisy(x0, noise, t)
    assert torch.allclose(steps.clean(noisy, steps.target(x0, noise, t), t), x0, atol=1e-4)
    assert torch.allclose(steps.noise_in(noisy, x0, t), noise, atol=1e-4)


def test_the_target_is_what_the_papers_say():
    x0, noise, t = torch.randn(50, 4, 2, 2), torch.randn(50, 4, 2, 2), torch.arange(50)
    sigma = SIGMAS.view(-1, 1, 1, 1)
    wanted = {"eps": noise, "v": (noise - sigma * x0) / (1 + sigma**2).sqrt(), "flow": noise - x0}
    for prediction, answer in wanted.items():
        torch.testing.assert_close(schedule(prediction).target(x0, noise, t), answer, rtol=1e-5, atol=1e-5)


def test_a_schedule_whose_answers_say_nothing_is_refused():
    ones = torch.ones(2)
    for out in (torch.tensor([0.0, 1.0]), torch.tensor([float("nan"), 1.0])):
        with pytest.raises(MixOfShowError, match="Connect the checkpoint itself"):
            objectives.NoiseSchedule(ones, ones, ones, out)


def test_min_snr_caps_the_weight_of_clean_steps():
    t, sigmas = torch.arange(3), torch.tensor([0.1, 1.0, 10.0])
    for prediction, wanted in (("eps", [0.05, 1.0, 1.0]), ("v", [5 / 101, 0.5, 0.01 / 1.01])):
        assert torch.allclose(schedule(prediction, sigmas).weight(t, 5.0), torch.tensor(wanted))
        assert torch.equal(schedule(prediction, sigmas).weight(t, 0.0), torch.ones(3))


def test_masked_cells_do_not_count():
    output, target = torch.zeros(2, 4, 2, 2), torch.ones(2, 4, 2, 2)
    target[:, :, 0] = 100.0
    mask = torch.ones(2, 1, 2, 2)
    mask[:, :, 0] = 0.0
    assert objectives.masked_errors(output, target, mask, torch.ones(2)).tolist() == pytest.approx([1.0, 1.0])


def test_training_lowers_the_loss_and_equal_seeds_give_equal_bytes():
    first, state, _ = run(150, prediction="v")
    assert sum(state.losses[-20:]) < 0.9 * sum(state.losses[:20])
    again, _, _ = run(150, prediction="v")
    assert torch.equal(flat(first), flat(again))
    other, _, _ = run(150, prediction="v", seed=6)
    assert not torch.equal(flat(first), flat(other))


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3, "accumulation": 2}])
def test_a_run_cut_off_and_resumed_ends_in_the_same_bytes(tmp_path, changes):
    path = tmp_path / "snapshot.safetensors"
    whole, whole_state, _ = run(12, **changes)

    def keep(report, trainables, optimizer, state):
        if report.step == 5:
            snapshot.write_snapshot(path, "request", state, list(trainables.named_parameters()), optimizer)

    with pytest.raises(KeyboardInterrupt):
        run(12, stop_at=7, on_step=keep, **changes)
    model, samples, trainables, optimizer, settings = make_run(12, **changes)
    state = snapshot.read_snapshot(path, "request", list(trainables.named_parameters()), optimizer)
    assert state.step == 5
    with trainables.attached({NAME: model.to_q}):
        loop.train(model, samples, trainables, optimizer, settings, 5, state, lambda report: None)
    assert torch.equal(flat(whole), flat(trainables))
    assert state.losses == whole_state.losses


def test_snapshots_of_other_inputs_or_damaged_ones_are_not_used(tmp_path):
    _, _, trainables, optimizer, _ = make_run()
    named, path = list(trainables.named_parameters()), tmp_path / "s.safetensors"
    assert snapshot.read_snapshot(path, "a", named, optimizer) is None
    snapshot.write_snapshot(path, "a", snapshot.RunState(3, [1.0, 2.0, 3.0]), named, optimizer)
    assert snapshot.read_snapshot(path, "b", named, optimizer) is None
    assert snapshot.read_snapshot(path, "a", named, optimizer).losses == [1.0, 2.0, 3.0]
    path.write_bytes(path.read_bytes()[:200])
    assert snapshot.read_snapshot(path, "a", named, optimizer) is None
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_the_last_snapshots_are_kept_and_the_newest_whole_one_is_used(tmp_path, caplog):
    _, _, trainables, optimizer, _ = make_run()
    named, store = list(trainables.named_parameters()), snapshot.Snapshots(tmp_path, "request", 3)
    assert store.resume(named, optimizer) is None
    for step in (8, 9, 10, 11):
        store.write(snapshot.RunState(step, [0.5] * step), named, optimizer)
    assert [path.name for path in store.files()] == [f"request-{n:07d}.safetensors" for n in (11, 10, 9)]
    store.path(11).write_bytes(store.path(11).read_bytes()[:100])
    store.path(10).write_bytes(b"")
    assert store.resume(named, optimizer).step == 9
    assert caplog.text.count("is damaged") == 2 and [path.name[-14:-12] for path in store.files()] == ["09"]
    assert snapshot.Snapshots(tmp_path, "other", 3).resume(named, optimizer) is None
    store.remove()
    assert not list(tmp_path.iterdir())


class HalfToy(Toy):
    """Gradients pass through fp16 where they are ``factor`` times as large: below 6e-8 they vanish, over 65504 they
    are infinite."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def predict(self, noisy, timesteps, text, which):
        output = super().predict(noisy, timesteps, text, which)
        output.register_hook(lambda gradient: (gradient * self.factor).half().float() / self.factor)
        return output


@pytest.mark.parametrize(("factor", "lowered"), [(1e-6, False), (1e4, True)])
def test_fp16_scales_the_loss_so_that_gradients_neither_vanish_nor_overflow(factor, lowered, monkeypatch):
    monkeypatch.setattr(loop, "SCALE_PATIENCE", 5)
    ends = {}
    for precision in ("fp32", "fp16"):
        model, samples, trainables, optimizer, settings = make_run(12, precision=precision)
        model, state, seen = HalfToy(factor) if precision == "fp16" else model, snapshot.RunState(), []
        with trainables.attached({NAME: model.to_q}):
            loop.train(
                model,
                samples,
                trainables,
                optimizer,
                settings,
                5,
                state,
                lambda report, state=state, seen=seen: seen.append(state.loss_scale),
            )
        ends[precision] = flat(trainables)
        assert len(state.losses) == 12 and math.isfinite(sum(state.losses))
    assert (min(seen) < snapshot.FULL_SCALE) == lowered
    if lowered:
        assert max(seen[seen.index(min(seen)) :]) > min(seen), "a lowered scale is raised again"
    start = flat(make_run(12)[2])
    moved = (ends["fp32"] - start).norm()
    assert (ends["fp16"] - ends["fp32"]).norm() < 0.1 * moved


def test_stopping_leaves_the_last_finished_step_and_no_hooks():
    model, samples, trainables, optimizer, settings = make_run()
    state = snapshot.RunState()

    def stop(report):
        if report.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), trainables.attached({NAME: model.to_q}):
        loop.train(model, samples, trainables, optimizer, settings, 0, state, stop)
    assert state.step == 4 and len(state.losses) == 4
    assert not model.to_q._forward_hooks


def test_divergence_is_an_error_and_keeps_the_last_good_state():
    model, samples, trainables, optimizer, settings = make_run(30)
    state = snapshot.RunState()
    kept = {}

    def poison(report):
        if report.step == 3:
            kept["before"] = None
            with torch.no_grad():
                trainables.adapter(NAME).up.fill_(math.nan)

    with pytest.raises(loop.TrainingDiverged, match="step 4.*learning rates"), trainables.attached({NAME: model.to_q}):
        loop.train(model, samples, trainables, optimizer, settings, 0, state, poison)
    assert torch.isfinite(flat(trainables)).all()


def test_embeddings_stop_at_the_norm_and_the_rest_goes_on():
    model, samples, trainables, optimizer, settings = make_run(10)
    words = trainables.embeddings["mara"]
    settings = TrainSettings(**{**settings.to_json(), "norm_stop": words.mean_norm() * 0.5})
    seen, state = [], snapshot.RunState()

    def watch(report):
        seen.append((flat(words).clone(), trainables.adapter(NAME).up.detach().clone(), report.notes))

    with trainables.attached({NAME: model.to_q}):
        loop.train(model, samples, trainables, optimizer, settings, 0, state, watch)
    assert state.frozen == {"mara"} and "mara" in seen[0][2][0]
    assert torch.equal(seen[0][0], seen[-1][0]) and not torch.equal(seen[0][1], seen[-1][1])


def test_a_step_visits_each_slot_once_and_epochs_visit_every_picture():
    _, samples, _, _, settings = make_run()
    visited = []
    for draw in range(6):
        _, chosen, which = loop.pick_batch(samples, settings, 0, draw, loop.step_random(0, draw))
        assert len(chosen) == 4 and set(which) == {0, 1}
        visited += [chosen[0][0], chosen[2][0]]
    assert sorted(visited[:3]) == sorted(visited[3:6]) == [0, 1, 2]


def test_an_exported_concept_acts_like_the_hooks():
    trainables, state, model = run(12)
    plan = adapters.ConceptPlan("mara", "woman", "character")
    concept = adapters.learned_concept(trainables, [plan], (0, 1, 2, 1), BaseInfo("sd15", None, 4), {"steps": 12})
    x = torch.randn(5, 4)
    with trainables.attached({NAME: model.to_q}):
        hooked = model.to_q(x)
    assert torch.allclose(hooked, model.to_q(x) + x @ concept.deltas[NAME].dense().T, atol=1e-6)
    entry = concept.entries[0]
    assert entry.expansion == "<mara-1> <mara-2>" and [word.init for word in entry.words] == ["<rand>", "woman"]
    rows = trainables.embeddings["mara"].tables["clip_l"].detach()[1]
    assert torch.equal(entry.embeddings[1].per_layer("clip_l"), rows[[0, 1, 2, 1]])


def test_adapters_start_as_the_identity_and_scale():
    adapter = adapters.LowRankAdapter(4, 6, 2, 0.5, 0.0, adapters.seeded(0, "x"))
    linear, x = nn.Linear(4, 6), torch.randn(3, 4)
    handle = linear.register_forward_hook(adapter.hook)
    handle.remove()
    assert torch.equal(adapter.hook(linear, (x,), linear(x)), linear(x))
    nn.init.ones_(adapter.up)
    expected = linear(x) + 0.5 * x @ (adapter.up @ adapter.down).T
    assert torch.allclose(adapter.hook(linear, (x,), linear(x)), expected, atol=1e-6)
    adapter.strength = 0.7
    weaker = linear(x) + 0.7 * (expected - linear(x))
    assert torch.allclose(adapter.hook(linear, (x,), linear(x)), weaker, atol=1e-6)
    adapter.strength = 0.0
    assert torch.equal(adapter.hook(linear, (x,), linear(x)), linear(x))


def test_prior_pictures_join_the_batch_with_their_weight():
    model, samples, trainables, _, settings = make_run()
    prior = loop.Sample(samples[0].concept, "a photo of a woman", torch.zeros(1, 4, 4, 4), torch.ones(1, 1, 4, 4))

    def loss(weight, priors=(prior,)):
        changed = TrainSettings(**{**settings.to_json(), "prior_weight": weight})
        return float(loop.batch_loss(model, samples, trainables, changed, 0, 0, priors).detach())

    with trainables.attached({NAME: model.to_q}):
        plain, one, two = loss(1.0, ()), loss(1.0), loss(2.0)
        assert loss(0.0) == plain
        assert "a photo of a woman" not in model.captions[0] and "a photo of a woman" in model.captions[1]
    own = 2 * one - two  # the loss is linear in the weight; what is left at weight 0 is the concept's own part
    assert own > 0 and two - one > 0.1


def test_pictures_of_several_shapes_share_a_batch_and_the_loss_is_their_mean():
    model, samples, trainables, _, settings = make_run()
    wide = loop.Sample(samples[0].concept, "mara, wide", torch.randn(2, 4, 2, 8), torch.ones(2, 1, 2, 8))
    with trainables.attached({NAME: model.to_q}):
        losses = [float(loop.batch_loss(model, [samples[0], wide], trainables, settings, 0, draw)) for draw in range(3)]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    picks = [loop.Pick(sample, 0, 0, 0.5) for sample in (samples[0], wide, samples[1])]
    assert [len(group) for group in loop.by_shape(picks)] == [2, 1]


def test_dropped_keys_and_values_sit_out_a_step_but_not_a_preview():
    trainables = adapters.Trainables()
    names = [f"diffusion_model.b.{n}.attn2.to_{kind}" for n in range(8) for kind in "kvq"]
    trainables.add_adapters(dict.fromkeys(names, (4, 4)), 2, 1.0, 0.0, 0)
    trainables.drop_cross_kv(0.5, loop.step_random(0, 0))
    active = {name: trainables.adapter(name).active for name in names}
    assert all(active[name] for name in names if name.endswith("q"))
    assert 3 < sum(not value for value in active.values()) < 13
    adapter = next(trainables.adapter(name) for name in names if not active[name])
    nn.init.ones_(adapter.up)
    linear, x = nn.Linear(4, 4), torch.randn(3, 4)
    assert torch.equal(adapter.hook(linear, (x,), linear(x)), linear(x))
    adapter.eval()
    assert not torch.equal(adapter.hook(linear, (x,), linear(x)), linear(x))


@pytest.mark.parametrize("words", [1, 2, 3])
def test_the_attention_term_is_zero_inside_the_mask_and_one_outside(words):
    subject = torch.zeros(2, 1, 4, 4)
    subject[:, :, :2] = 1.0
    inside = [subject[:, 0, :, :, None].expand(-1, -1, -1, words) * 0.3]
    outside = [(1.0 - subject[:, 0, :, :, None]).expand(-1, -1, -1, words) * 0.3]
    terms = 1 if words == 1 else 2  # the noun, and the mean of all the others
    for identity in (False, True):
        assert objectives.attention_loss(inside, subject, identity).item() == pytest.approx(0.0)
        assert objectives.attention_loss(outside, subject, identity).item() == pytest.approx(terms)
    everywhere = objectives.attention_loss(outside, torch.ones_like(subject), False)
    assert everywhere.item() == 0.0, "a picture without background gives no term, and no NaN"


def test_whole_weights_of_linears_and_convolutions_act_like_their_export():
    trainables = adapters.Trainables()
    linear, convolution = nn.Linear(4, 6), nn.Conv2d(4, 5, 3, stride=2, padding=1)
    shapes = {"diffusion_model.a": tuple(linear.weight.shape), "diffusion_model.c": tuple(convolution.weight.shape)}
    trainables.add_full_weights(shapes)
    inputs = torch.randn(3, 4), torch.randn(2, 4, 8, 8)
    cases = tuple(zip(shapes, (linear, convolution), inputs, strict=True))
    for name, module, x in cases:
        plain = module(x)
        nn.init.normal_(trainables.adapter(name).diff)
        with trainables.attached({key: m for key, m, _ in cases}):
            hooked = module(x)
            trainables.set_strength(0.5)
            assert torch.allclose(module(x), (plain + hooked) / 2, atol=1e-5)
            trainables.set_strength(1.0)
        delta = trainables.adapter(name).delta()
        with torch.no_grad():
            module.weight += delta.diff
        assert torch.allclose(module(x), hooked, atol=1e-5) and not torch.allclose(plain, hooked, atol=1e-3)


def test_adafactor_resumes_in_the_same_bytes(tmp_path):
    test_a_run_cut_off_and_resumed_ends_in_the_same_bytes(tmp_path, {"optimizer": "adafactor"})
