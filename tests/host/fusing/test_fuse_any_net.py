"""Fuse works on every net of the host: what reads one tensor is observed where no file lists it."""

import pytest
import torch
from mos_tests.host.builders import tiny_plan
from mos_tests.host.other_nets import NETS, random_lora, tiny_net
from safetensors.torch import save_file

KINDS = ("cosmos", "anima", *NETS)
RIDGE = 0.3  # sums are float32: with less, rounding shows where one direction has nearly all energy
PLAN = tiny_plan(steps=1, prior_pictures=0)


QUICK = ("cosmos", "flux")  # the others: slow


@pytest.fixture(params=[pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS])
def base(request, tiny_sd15):
    """(model, clip, how names of one of its LoRA dialects begin)"""
    if request.param in NETS:
        return tiny_net(request.param), tiny_sd15.clip, NETS[request.param][-1]
    own = request.getfixturevalue(f"tiny_{request.param}")
    return own.model, own.clip, "lora_unet_"


def read(model, tensors, folder, name, clip=None):
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.nodes.bridge.formats.foreign import read_with_host
    from mos_pack.nodes.bridge.formats.live import LiveWeights

    save_file(tensors, folder / f"{name}.safetensors")
    found = read_with_host(folder / f"{name}.safetensors", name, LiveWeights(model, clip))
    assert not found.skipped
    return ConceptUse(found.concept, 1.0, "concept", trigger=name)


def fuse(model, clip, uses, folder):
    from mos_pack.mixofshow_core.families.layers import LAYER_ROLES
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.bridge.fusing.fusion import fuse_uses

    roles = {"ridge": dict.fromkeys(LAYER_ROLES, RIDGE), "prior": dict.fromkeys(LAYER_ROLES, 0.0)}
    with torch.inference_mode():
        return fuse_uses(model, clip, uses, "exact", PLAN, FusionSettings(size="exact", **roles), folder)


def weights(model):
    from mos_pack.nodes.bridge.host.model import effective

    return {key: effective(entry, key) for key, entry in model.get_key_patches().items() if entry[0][0].dim() == 2}


def test_one_lora_is_what_the_stock_loader_makes(base, tmp_path):
    import comfy.sd
    from mos_pack.nodes.bridge.host.model import apply_deltas

    model, clip, start = base
    lora = random_lora(model, start, 1)
    use = read(model, lora, tmp_path, "ann")
    fused = fuse(model, clip, [use], tmp_path)
    ours = weights(apply_deltas(model, None, fused.concept.deltas)[0])
    stock = weights(comfy.sd.load_lora_for_models(model, None, dict(lora), 1.0, 0.0)[0])
    plain = weights(model)
    changed = [key for key in stock if not torch.equal(stock[key], plain[key])]
    assert len(changed) == len(fused.concept.deltas) > 5
    for key in stock:
        torch.testing.assert_close(ours[key], stock[key], rtol=0, atol=1e-6)


def test_two_loras_are_fused_as_least_squares_says(base, tmp_path):
    """The D that is nearest to D_k on the inputs of each concept, with a ridge: as a direct solver of LAPACK's says."""
    from mos_pack.mixofshow_core.families.nets import layer_groups
    from mos_pack.mixofshow_core.fusion.plan import concept_prompts, picture_prompts
    from mos_pack.nodes.bridge.fusing import calibration
    from mos_pack.nodes.bridge.fusing.observe import observed_groups
    from mos_pack.nodes.bridge.host.model import apply_deltas, net_of
    from mos_pack.nodes.bridge.host.text import register_concepts

    model, clip, start = base
    uses = [
        read(model, random_lora(model, start, seed, every=3), tmp_path, name) for seed, name in ((1, "ann"), (2, "bob"))
    ]
    fused = fuse(model, clip, uses, tmp_path).concept.deltas
    with torch.inference_mode():
        listed = layer_groups(net_of(model)) or observed_groups(model, clip)
        groups = [group for group in listed if set(group.members) & set(fused)][::2]
        rows = []
        for use in uses:
            own, words = apply_deltas(model, register_concepts(clip, [use]), use.concept.deltas)
            texts = concept_prompts(PLAN, use), picture_prompts(PLAN, use)
            rows.append(calibration.collect(own, words, groups, *texts, PLAN))
    for group in groups:
        x = [_rows(found[group.name].matrix) for found in rows]
        ridge = (RIDGE * torch.cat(x).square().sum() / x[0].shape[1]).sqrt() * torch.eye(x[0].shape[1])
        for member in set(group.members) & set(fused):
            parts = [use.concept.deltas[member].matrix().mT for use in uses]
            wanted = [
                *(rows @ part for rows, part in zip(x, parts, strict=True)),
                torch.zeros(len(ridge), parts[0].shape[1]),
            ]
            direct = torch.linalg.lstsq(torch.cat([*x, ridge]), torch.cat(wanted)).solution
            assert (fused[member].matrix().mT - direct).norm() < 1e-3 * direct.norm(), member


def test_a_language_model_is_fused_too(tiny_anima, tmp_path):
    names = [f"lora_te_layers_0_self_attn_{slot}_proj" for slot in "qo"]
    uses = []
    for seed, name in ((1, "ann"), (2, "bob")):
        generator, lora = (
            torch.Generator().manual_seed(seed),
            random_lora(tiny_anima.model, "lora_unet_", seed, every=9),
        )
        for slot, (out, width) in zip(names, ((512, 64), (64, 512)), strict=True):
            lora[f"{slot}.lora_up.weight"] = torch.randn(out, 2, generator=generator) * 0.1
            lora[f"{slot}.lora_down.weight"] = torch.randn(2, width, generator=generator) * 0.1
        uses.append(read(tiny_anima.model, lora, tmp_path, name, tiny_anima.clip))
    result = fuse(tiny_anima.model, tiny_anima.clip, uses, tmp_path)
    assert result.summary["roles"]["text"]["groups"] == 2
    lost = result.summary["roles"]["text"]
    assert sum(lost["residual"]) < sum(lost["residual_average"])


def _rows(gram: torch.Tensor) -> torch.Tensor:
    """X with X^T X = the Gram."""
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp(min=0).sqrt()[:, None] * vectors.mT
