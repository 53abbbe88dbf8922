"""Fusion on the real host with tiny random bases: statistics, closed form, outputs, store, files."""

import pytest
import torch
from mos_tests.host.builders import make_concept, tiny_plan


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One statistics folder for tests that only need some fusion of the same concepts."""
    return tmp_path_factory.mktemp("fusion")


def bridge():
    from mos_pack.nodes.bridge.fusing import calibration, fusion
    from mos_pack.nodes.bridge.host import model, text

    return calibration, fusion, model, text


def uses_of(base, count=2, **facts):
    from mos_pack.mixofshow_core.concept import ConceptUse

    return tuple(ConceptUse(make_concept(base, f"person{n}", n + 1, **facts), 1.0) for n in range(count))


def run(base, uses, folder, method="exact", settings=None, plan=None):
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings

    fusion = bridge()[1]
    with torch.inference_mode():
        return fusion.fuse_uses(
            base.model, base.clip, uses, method, plan or tiny_plan(), settings or FusionSettings(size="exact"), folder
        )


def all_groups(base):
    from mos_pack.mixofshow_core.families.nets import layer_groups
    from mos_pack.mixofshow_core.families.text import layer_groups_text

    _, _, model, _ = bridge()
    groups = [g for n, m in model.text_models_of(base.clip).items() for g in layer_groups_text(m, n)]
    return groups + list(layer_groups(model.net_of(base.model)))


def bytes_of(concept):
    return {name: (d.up.numpy().tobytes(), d.down.numpy().tobytes()) for name, d in concept.deltas.items()}


def test_refined_float32_factors_give_the_same_fusion(tiny_sd15, shared, monkeypatch):
    """What a GPU with slow float64 does, forced on the CPU for a whole fusion."""
    from mos_pack.mixofshow_core import linalg
    from mos_pack.mixofshow_core.fusion.arithmetic import Arithmetic
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.bridge.fusing import stages

    uses = uses_of(tiny_sd15)
    exact = run(tiny_sd15, uses, shared).concept
    monkeypatch.setattr(stages, "arithmetic_on", lambda device, free: Arithmetic(device, 0.5 * free, coarse=True))
    factors, factor_coarsely = [], linalg._factor_coarsely
    monkeypatch.setattr(
        linalg, "_factor_coarsely", lambda *given: factors.append(factor_coarsely(*given)) or factors[-1]
    )
    again = run(tiny_sd15, uses, shared, settings=FusionSettings(size="exact", seed=1)).concept  # not the kept one
    assert len(factors) > 20 and None not in factors
    for name, delta in exact.deltas.items():
        wanted = delta.dense()
        assert float((again.deltas[name].dense() - wanted).norm() / wanted.norm()) < 1e-6


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_group_is_seen_and_the_result_beats_sum_and_average(family, request, shared):
    base = request.getfixturevalue(f"tiny_{family}")
    result = run(base, uses_of(base), shared)
    roles = result.summary["roles"]
    assert set(roles) == {"text", "cross_kv", "spatial"}
    assert sum(r["groups"] for r in roles.values()) == len(all_groups(base))
    for figures in roles.values():
        lost = {key: sum(figures[key]) for key in ("residual", "residual_sum", "residual_average")}
        assert lost["residual"] < lost["residual_average"] and lost["residual"] < lost["residual_sum"]
    assert len(result.concept.deltas) == sum(len(g.members) for g in all_groups(base))
    assert all(d.rank == 4 for d in result.concept.deltas.values())


def test_model_is_left_as_it_was(tiny_sd15, tmp_path):
    model = bridge()[2]
    unet, names = model.net_of(tiny_sd15.model), [m for g in all_groups(tiny_sd15) for m in g.members]
    parts = [
        (tiny_sd15.model, [n for n in names if n.startswith("diff")]),
        (tiny_sd15.clip.patcher, [n for n in names if n.startswith("text")]),
    ]
    before = [model.effective_weights(patcher, chosen) for patcher, chosen in parts]
    run(tiny_sd15, uses_of(tiny_sd15), tmp_path)
    after = [model.effective_weights(patcher, chosen) for patcher, chosen in parts]
    assert all(torch.equal(x[n], y[n]) for x, y in zip(before, after, strict=True) for n in x)
    assert not tiny_sd15.model.patches and not tiny_sd15.model.model_options["transformer_options"].get("patches")
    for module in (unet, tiny_sd15.clip.cond_stage_model):
        assert not any(child._forward_pre_hooks for child in module.modules())


def test_cancel_removes_every_hook(tiny_sd15, tmp_path):
    import comfy.model_management as management

    calibration, _, model, text = bridge()
    use = uses_of(tiny_sd15, 1)[0]
    clip = text.register_concepts(tiny_sd15.clip, [use])
    ticks = []

    def tick(sort):
        ticks.append(1)
        if len(ticks) == 4:  # in the middle of sampling: 2 prompts, then steps
            raise management.InterruptProcessingException()

    with pytest.raises(management.InterruptProcessingException), torch.inference_mode():
        calibration.collect(
            tiny_sd15.model, clip, all_groups(tiny_sd15), ["person0", "a person0"], ["person0"], tiny_plan(), tick
        )
    for module in (model.net_of(tiny_sd15.model), clip.cond_stage_model):
        assert not any(child._forward_pre_hooks for child in module.modules())


def test_grams_equal_stored_rows(tiny_sd15, tmp_path):
    """Streaming statistics against activations recorded independently: spatial, text and K, V."""
    calibration, _, model, text = bridge()
    use = uses_of(tiny_sd15, 1)[0]
    clip = text.register_concepts(tiny_sd15.clip, [use])
    base, clip = model.apply_deltas(tiny_sd15.model, clip, use.concept.deltas)
    groups = all_groups(tiny_sd15)
    spatial = [g for g in groups if g.name.endswith("attn1.out")][-1]  # late: text has reached its input
    words = next(g for g in groups if g.name.endswith("self_attn.out"))
    kv = [g for g in groups if g.role == "cross_kv"][5]
    linears = model.named_linears(base, clip)
    rows = {spatial.name: [], words.name: [], kv.name: []}
    hooks = [
        linears[g.members[0]].register_forward_pre_hook(
            lambda module, args, name=g.name: rows[name].append(args[0].detach().clone())
        )
        for g in (spatial, words, kv)
    ]
    prompt = "photo of a person0"
    try:
        with torch.inference_mode():
            grams = calibration.collect(base, clip, groups, [prompt], [prompt], tiny_plan(steps=3))
    finally:
        for hook in hooks:
            hook.remove()

    def close(gram, wanted):
        assert float((gram.matrix - wanted).norm() / wanted.norm()) < 1e-5

    def mean(x, weights):
        return (x * weights[:, None]).mT @ x / weights.sum()

    # Spatial: the sampler's conditional half, every step. Which half is which is read off K's own input.
    layer = text.encode_layered(clip, prompt, 16).layers[5]
    seen = []
    for batch, context in zip(rows[spatial.name], rows[kv.name], strict=True):
        conditional = [torch.allclose(part, layer, atol=1e-4) for part in context]
        assert sum(conditional) == 1
        seen += [part for part, flag in zip(batch, conditional, strict=True) if flag]
    x = torch.cat([part.double() for part in seen])
    assert len(seen) == 3
    close(grams[spatial.name], x.mT @ x / len(x))

    kinds = text.token_kinds(clip, prompt)["clip_l"].flatten()
    weights = torch.where(kinds == text.EOS_PAD, 1.0 / (kinds == text.EOS_PAD).sum(), 1.0).double()
    weights[kinds == text.BOS] = 0
    close(grams[kv.name], mean(layer.double(), weights))
    # Text: mean section and 16 layer sections of the watched call (collecting encodes once more for the picture).
    hidden = rows[words.name][0].double()
    assert hidden.shape[:2] == (17, 77)
    close(grams[words.name], mean(hidden.flatten(0, 1), weights.repeat(17)))


def test_order_and_removal(tiny_sd15, tmp_path):
    """Each of these collects its own statistics, except the removal, which finds them in the store."""
    uses, plan = uses_of(tiny_sd15, 3), tiny_plan(steps=1, prior_pictures=0)
    together = run(tiny_sd15, uses, tmp_path / "a", plan=plan)
    shuffled = run(tiny_sd15, (uses[2], uses[0], uses[1]), tmp_path / "b", plan=plan)
    assert bytes_of(together.concept) == bytes_of(shuffled.concept)
    assert together.concept.content_hash == shuffled.concept.content_hash
    fewer = run(tiny_sd15, uses[:2], tmp_path / "a", plan=plan)
    fresh = run(tiny_sd15, uses[:2], tmp_path / "c", plan=plan)
    assert bytes_of(fewer.concept) == bytes_of(fresh.concept)


def test_statistics_and_finished_fusions_are_found_again(tiny_sd15, tmp_path, monkeypatch):
    from mos_pack.nodes.bridge.fusing import stages as fusion_stages

    uses = uses_of(tiny_sd15, 2)
    first = run(tiny_sd15, uses, tmp_path)
    files = {p.name: p.stat().st_size for p in (tmp_path / "statistics").iterdir()}
    assert len(files) == 3  # the prior and two concepts

    def never(*_, **__):
        raise AssertionError("collected again")

    monkeypatch.setattr(fusion_stages, "collect", never)
    again = run(tiny_sd15, uses, tmp_path)
    assert bytes_of(again.concept) == bytes_of(first.concept) and "Loaded" in again.notes[0]
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings

    free = FusionSettings({"text": 1e-4, "cross_kv": 1e-4, "spatial": 1e-4}, size="exact")
    other = run(tiny_sd15, uses, tmp_path, settings=free)  # only a solve: the statistics are there
    assert bytes_of(other.concept) != bytes_of(first.concept)


def test_without_anchors_the_residual_is_smallest(tiny_sd15, shared):
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings

    zero = {"text": 0.0, "cross_kv": 0.0, "spatial": 0.0}
    uses = uses_of(tiny_sd15, 2)
    free = run(tiny_sd15, uses, shared, settings=FusionSettings(zero, zero, size="exact")).summary["roles"]
    anchored = run(tiny_sd15, uses, shared).summary["roles"]
    for role in zero:
        assert sum(free[role]["residual"]) < sum(anchored[role]["residual"])
        assert free[role]["drift"] > anchored[role]["drift"]


def test_weights_and_rank_reach_the_solve(tiny_sd15, shared, monkeypatch):
    """A weight is one solve on the same statistics; a cut concept is another concept."""
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.bridge.fusing import stages as fusion_stages

    uses = uses_of(tiny_sd15, 2)
    alone = run(tiny_sd15, uses[:1], shared, settings=FusionSettings(concept_rank=1, size="exact"))
    assert {delta.rank for delta in alone.concept.deltas.values()} == {1}
    plain = run(tiny_sd15, uses, shared)
    monkeypatch.setattr(fusion_stages, "collect", None)  # nothing may be looked at again
    heavy = run(tiny_sd15, uses, shared, settings=FusionSettings(weights={"Person1": 20.0}, size="exact"))
    place = plain.summary["concepts"].index("person1")
    for role, figures in plain.summary["roles"].items():
        assert heavy.summary["roles"][role]["residual"][place] < figures["residual"][place]
    with pytest.raises(MixOfShowError, match="weight to nobody"):
        run(tiny_sd15, uses, shared, settings=FusionSettings(weights={"nobody": 2.0}))


def test_sum_equals_two_stock_lora_loaders(tiny_sd15, tmp_path):
    """Parity of our plain sum, and of our files in the host's own loader, on effective weights."""
    import comfy.sd
    import comfy.utils
    from mos_pack.mixofshow_core.formats.native import write_concept

    _, _, model, _ = bridge()
    uses = uses_of(tiny_sd15, 2)
    stock_model, stock_clip = tiny_sd15.model, tiny_sd15.clip
    for n, use in enumerate(uses):
        path = tmp_path / f"{n}.safetensors"
        write_concept(path, use.concept)
        lora = comfy.utils.load_torch_file(str(path))
        stock_model, stock_clip = comfy.sd.load_lora_for_models(stock_model, stock_clip, lora, 1.0, 1.0)
    result = run(tiny_sd15, uses, tmp_path / "cache", "sum")
    ours, words = model.apply_deltas(tiny_sd15.model, tiny_sd15.clip, result.concept.deltas)
    for a, b in ((stock_model, ours), (stock_clip.patcher, words.patcher)):
        is_text = a is not stock_model
        names = [n for n in result.concept.deltas if n.startswith("text_encoders.") == is_text]
        wanted, got = model.effective_weights(a, names), model.effective_weights(b, names)
        assert names and all(torch.allclose(wanted[n], got[n], atol=1e-6) for n in names)


def test_one_concept_is_applied_unchanged(tiny_sd15, tmp_path):
    use = uses_of(tiny_sd15, 1)[0]
    result = run(tiny_sd15, (use,), tmp_path)
    for name, delta in use.concept.deltas.items():
        assert torch.equal(result.concept.deltas[name].dense(), delta.dense())
    assert not (tmp_path / "statistics").exists()


def test_add_on_is_active_and_added_as_it_is(tiny_sd15, shared):
    from mos_pack.mixofshow_core.concept import Concept, ConceptUse

    two = uses_of(tiny_sd15, 2)
    extra = make_concept(tiny_sd15, "slider", 9)
    add_on = ConceptUse(Concept((), extra.deltas, extra.base), 0.5)
    assert add_on.resolved_role == "add-on"
    plain, with_add_on = run(tiny_sd15, two, shared), run(tiny_sd15, (*two, add_on), shared)
    name = next(n for n in extra.deltas if n.endswith("attn2.to_q"))
    fused, own = with_add_on.concept.deltas[name], extra.deltas[name]
    assert torch.equal(fused.up[:, -2:], own.up)
    assert torch.allclose(fused.down[-2:], 0.5 * own.scale * own.down)
    assert not torch.equal(fused.down[:-2], plain.concept.deltas[name].down)  # other inputs were seen


def test_mistakes_are_named_before_any_work(tiny_sd15, tiny_sdxl, tmp_path):
    from dataclasses import replace

    from mos_pack.mixofshow_core.concept import Concept, ConceptUse
    from mos_pack.mixofshow_core.errors import MixOfShowError

    a, b = uses_of(tiny_sd15, 2)
    with pytest.raises(MixOfShowError, match="listed twice"):
        run(tiny_sd15, (a, replace(a, path="x.safetensors")), tmp_path)
    clash = ConceptUse(make_concept(tiny_sd15, "person0", 77), 1.0, "auto", "", "second.safetensors")
    with pytest.raises(MixOfShowError, match=r"person0.*second\.safetensors.*`name`"):
        run(tiny_sd15, (a, clash), tmp_path)
    with pytest.raises(MixOfShowError, match="family"):
        run(tiny_sdxl, (a, b), tmp_path)
    silent = ConceptUse(Concept((), b.concept.deltas, b.concept.base), 1.0, "concept", "", "lora.safetensors")
    with pytest.raises(MixOfShowError, match="trigger"):
        run(tiny_sd15, (a, silent), tmp_path)
    with pytest.raises(MixOfShowError, match="empty"):
        run(tiny_sd15, (), tmp_path)
    assert not (tmp_path / "statistics").exists()


def spread(result):
    """Every fused change as one long vector."""
    return torch.cat([d.dense().flatten() for _, d in sorted(result.concept.deltas.items())])


def test_staged_looks_behind_the_fused_stages_and_refine_at_the_fused_model(tiny_sd15, tmp_path):
    """Staged: same text encoder as own, other K,V and spatial answers; K,V read the fused encoder's contexts."""
    import json

    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.mixofshow_core.fusion.store import StatisticsStore
    from safetensors import safe_open

    uses, plan = uses_of(tiny_sd15, 2), tiny_plan(steps=1)
    calibration, _, model, text = bridge()
    own = run(tiny_sd15, uses, tmp_path, plan=plan)
    staged = run(tiny_sd15, uses, tmp_path, plan=plan, settings=FusionSettings(mode="staged", size="exact"))
    roles = {"text_encoders": True, "attn2.to_k": False, "output_blocks.8.1.transformer_blocks.0.attn1.to_q": False}
    for part, same in roles.items():
        names = [n for n in own.concept.deltas if part in n]
        equal = [torch.equal(own.concept.deltas[n].down, staged.concept.deltas[n].down) for n in names]
        assert names and all(equal) == same and any(equal) == same, part
    shuffled = run(
        tiny_sd15, uses[::-1], tmp_path / "b", plan=plan, settings=FusionSettings(mode="staged", size="exact")
    )
    assert bytes_of(shuffled.concept) == bytes_of(staged.concept)
    # The K,V statistics of the staged run are the contexts of base + fused text encoder.
    fused_text = {n: d for n, d in staged.concept.deltas.items() if n.startswith("text_")}
    kv = [g for g in all_groups(tiny_sd15) if g.role == "cross_kv"]
    clip = model.apply_deltas(None, text.register_concepts(tiny_sd15.clip, uses[:1]), fused_text)[1]
    with torch.inference_mode():
        grams = calibration.collect(tiny_sd15.model, clip, kv, ["photo of a person0", "person0"], (), plan)
    found = []
    for path in (tmp_path / "statistics").iterdir():
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["mixofshow.statistics"])
        if header["manifest"]["mode"] == "staged cross_kv" and "photo of a person0" in header["manifest"]["prompts"]:
            found.append(StatisticsStore(tmp_path / "statistics").load(header["identity"], frozenset()))
    assert len(found) == 1
    for group in kv:
        assert torch.allclose(found[0].grams[group.name].matrix, grams[group.name].matrix, atol=1e-5)
    refined = run(tiny_sd15, uses, tmp_path, plan=plan, settings=FusionSettings(refine=1, size="exact"))
    assert len(refined.summary["residuals"]) == 2
    assert float((spread(refined) - spread(own)).norm() / spread(own).norm()) > 1e-3


def test_a_stage_that_is_off_is_merged_by_the_rule(tiny_sd15, shared):
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings

    uses = uses_of(tiny_sd15, 2)
    result = run(tiny_sd15, uses, shared, settings=FusionSettings(stages=("cross_kv", "spatial"), size="exact"))
    name = next(n for n in result.concept.deltas if n.startswith("text_"))
    mean = sum(use.concept.deltas[name].dense() for use in uses) / 2
    assert torch.allclose(result.concept.deltas[name].dense(), mean, atol=1e-6)
    assert set(result.summary["roles"]) == {"cross_kv", "spatial"} and result.summary["layers"]["merged"]["layers"] > 0


def test_little_memory_means_blocks_with_the_same_answer_or_a_clear_no(tiny_sd15, tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings

    uses, plan = uses_of(tiny_sd15, 2), tiny_plan(steps=1, prior_pictures=0)
    whole = run(tiny_sd15, uses, tmp_path / "a", plan=plan)
    few = FusionSettings(size="exact", memory_gb=2e-3)
    blocks = run(tiny_sd15, uses, tmp_path / "b", plan=plan, settings=few)
    assert any("passes" in note for note in blocks.notes)
    assert len(list((tmp_path / "b" / "statistics").iterdir())) > 3
    assert bytes_of(blocks.concept) == bytes_of(whole.concept)
    with pytest.raises(MixOfShowError, match=r"Not enough memory.*memory_gb.*block"):
        run(tiny_sd15, uses, tmp_path / "c", plan=plan, settings=FusionSettings(memory_gb=1e-6))


def test_auto_size_is_said_before_saving_and_the_file_is_what_the_model_got(tiny_sd15, shared):
    from mos_pack.mixofshow_core.fusion.report import format_report
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings

    uses = uses_of(tiny_sd15, 2)
    result = run(tiny_sd15, uses, shared, settings=FusionSettings(max_rank=3))
    assert max(d.rank for d in result.concept.deltas.values()) == 3
    assert "MB" in result.summary["size"] and "ranks end at 3" in result.summary["size"]
    text = format_report(result.summary, result.notes)
    for wanted in ("Size auto", "Conflict foreseen", "Layers: ", "squared norm", "condition", "largest memory"):
        assert wanted in text, wanted
