"""A set from real life: two characters, a style, a slider and a few-step LoRA, in four dialects, one without text."""

import pytest
import torch
from mos_tests.host.builders import tiny_plan
from mos_tests.host.formats.test_load_concept import file_of
from safetensors.torch import save_file

KERNEL = "diffusion_model.input_blocks.1.0.in_layers.2"


@pytest.fixture(scope="module")
def community(tiny_sd15, tmp_path_factory):
    """Uses by label, read from files as their makers' tools write them."""
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    folder = tmp_path_factory.mktemp("community")
    recipes = {
        "anna": ("kohya", 1.0, {"trigger": "ohwx woman"}),
        "finn": ("peft", 1.0, {"name": "finn"}),
        "ink": ("loha", 0.8, {"name": "ink", "role": "style"}),
        "slider": ("kohya", -0.5, {}),
        "fewstep": ("lokr", 1.0, {}),
    }
    uses = {}
    for n, (label, (dialect, strength, facts)) in enumerate(recipes.items()):
        tensors = {key: value * (1 + 0.1 * n) for key, value in file_of(dialect, tiny_sd15, "sd15").items()}
        if label == "ink":
            tensors = {key: value for key, value in tensors.items() if not key.startswith("lora_te")}
        save_file(tensors, folder / f"{label}.safetensors")
        found = read_with_host(folder / f"{label}.safetensors", facts.get("name", ""))
        uses[label] = ConceptUse(
            found.concept, strength, facts.get("role", "auto"), facts.get("trigger", ""), f"{label}.safetensors"
        )
    return uses


def test_a_set_from_real_life_is_fused_and_explained(tiny_sd15, community, tmp_path):
    from mos_pack.mixofshow_core.fusion.plot import draw_report
    from mos_pack.mixofshow_core.fusion.report import format_report
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
    from mos_pack.nodes.bridge.host.model import apply_deltas

    roles = [use.resolved_role for use in community.values()]
    assert roles == ["concept", "concept", "style", "add-on", "add-on"]
    plan = tiny_plan(steps=1, prior_pictures=0)
    with torch.inference_mode():
        result = fuse_uses(
            tiny_sd15.model,
            tiny_sd15.clip,
            tuple(community.values()),
            "exact",
            plan,
            FusionSettings(size="exact"),
            tmp_path,
        )
    assert {name for use in community.values() for name in use.concept.deltas} == set(result.concept.deltas)
    apply_deltas(tiny_sd15.model, tiny_sd15.clip, result.concept.deltas)
    summary = result.summary
    lost = {
        key: sum(v for figures in summary["roles"].values() for v in figures[key] if v is not None)
        for key in ("residual", "residual_average")
    }
    assert lost["residual"] < lost["residual_average"]
    ink = summary["concepts"].index("ink")
    spatial = summary["roles"]["spatial"]  # the style's change is the weakest by far, so it gives way, but less than
    assert spatial["residual"][ink] < spatial["residual_sum"][ink]  # where the others are only added to it
    assert summary["roles"]["text"]["residual"][ink] is None
    # 3x3 kernels: the mean over the three that are solved, and the slider as it is.
    own = {label: community[label].concept.deltas[KERNEL].dense() for label in ("anna", "slider")}
    fused = result.concept.deltas[KERNEL].dense()
    assert torch.allclose(fused, own["anna"] / 3 - 0.5 * own["slider"], atol=1e-5)
    text = format_report(summary, result.notes)
    for wanted in (
        "ink (style 0.8)",
        "add-ons, added as they are",
        "slider (-0.5)",
        "fewstep",
        "rule: mean",
        "changes nothing here",
        "Conflict foreseen",
        "cannot be solved (kernels",
        "merged (",
    ):
        assert wanted.lower() in text.lower(), (wanted, text)
    assert draw_report(summary).width == 960


def test_the_same_set_merges_by_weights_alone(tiny_sd15, community, tmp_path):
    """sum: what stacking LoraLoaders gives; ties and dare: dense answers, cut to factors where that is smaller."""
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.bridge.fusing.fusion import fuse_uses

    uses = tuple(community.values())
    for method in ("sum", "ties", "dare", "svd"):
        result = fuse_uses(
            tiny_sd15.model, tiny_sd15.clip, uses, method, tiny_plan(), FusionSettings(max_rank=8), tmp_path
        )
        assert not (tmp_path / "statistics").exists()
        name = next(n for n in result.concept.deltas if n.endswith("attn1.to_q"))
        delta = result.concept.deltas[name]
        if method == "sum":
            continue
        changes = [u.concept.deltas[name].dense() * u.strength for u in uses]
        assert bool(torch.isfinite(delta.dense()).all()) and delta.dense().shape == changes[0].shape
        assert not torch.allclose(delta.dense(), sum(changes), atol=1e-4)
    exact = fuse_uses(tiny_sd15.model, tiny_sd15.clip, uses, "sum", tiny_plan(), FusionSettings(size="exact"), tmp_path)
    turned = fuse_uses(
        tiny_sd15.model,
        tiny_sd15.clip,
        uses[::-1],
        "sum",
        tiny_plan(),
        FusionSettings(size="exact"),
        tmp_path / "turned",
    )
    assert turned.concept.content_hash == exact.concept.content_hash
    for name, delta in exact.concept.deltas.items():
        changes = [
            u.concept.deltas[name].dense().reshape(delta.dense().shape) * u.strength
            for u in uses
            if name in u.concept.deltas
        ]
        assert torch.allclose(delta.dense(), sum(changes), atol=1e-4), name


def test_statistics_of_another_plan_or_strength_are_not_used(tiny_sd15, community, tmp_path):
    from dataclasses import replace

    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.bridge.fusing.fusion import fuse_uses

    def files(plan, **facts):
        uses = (community["anna"], replace(community["finn"], **facts))
        settings = FusionSettings(stages=("cross_kv",))
        fuse_uses(tiny_sd15.model, tiny_sd15.clip, uses, "exact", plan, settings, tmp_path)
        return {path.name for path in (tmp_path / "statistics").iterdir()}

    plan = tiny_plan(steps=1, prior_pictures=0)
    first = files(plan)
    stronger = files(plan, strength=1.5)
    assert len(first) == 3 and len(stronger) == 4  # only that concept again
    other = files(replace(plan, templates=("a statue of {}",)))
    assert len(other) == 7 and first < stronger < other
