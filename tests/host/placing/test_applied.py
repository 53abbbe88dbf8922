"""No concept acts twice, whatever the order of Fuse, Place and a stock LoRA loader; and the tooltips agree with it."""

import re
from dataclasses import replace
from pathlib import Path

import folder_paths
import pytest
import torch
from mos_pack.mixofshow_core.concept import Concept, ConceptUse
from mos_pack.mixofshow_core.delta import Dense
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.native import read_concept, write_concept
from mos_pack.nodes.bridge.evaluating.evaluation import Comparison
from mos_pack.nodes.bridge.host.applied import apply_once, carries, check_unapplied
from mos_pack.nodes.bridge.host.text import register_concepts
from mos_pack.nodes.fuse import MixOfShowFuse
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.placing.test_routing import box, gap, make_use, regions, sample

PROMPTS = "a street", "bad"


@pytest.fixture
def base(tiny_sd15):
    return tiny_sd15


@pytest.fixture
def uses(base):
    return make_use(base, "mara", 1), make_use(base, "tom", 2)


def fuse(base, uses, model=None, clip=None):
    return MixOfShowFuse.execute(model or base.model, clip or base.clip, uses, "sum", "standard").result


def place(model, clip, concepts=None, spec=None):
    shown = MixOfShowPlace.one(model, clip, *PROMPTS, spec or regions({"prompt": "mara in a hat"}), concepts)
    return shown.result, "\n".join((shown.ui and shown.ui.as_dict()["text"]) or ())


def test_fuses_three_outputs_into_place_are_the_fused_model(base, uses, tmp_path):
    model, clip, fused, *_ = fuse(base, uses)
    wanted = sample(place(model, clip)[0])
    write_concept(tmp_path / "both.safetensors", fused[0].concept)
    loaded = ConceptUse(read_concept(tmp_path / "both.safetensors"))
    for concepts in (fused, (loaded,), uses[:1]):
        found, said = place(model, clip, concepts)
        assert torch.equal(sample(found), wanted)
        assert "part of MODEL already" in said
    once = sample(place(base.model, base.clip, uses[:1])[0])
    assert not torch.equal(once, wanted), "unfused, it is routed as ever"


def test_a_model_and_a_clip_that_do_not_belong_together_are_refused(base, uses):
    model, clip, fused, *_ = fuse(base, uses)
    with pytest.raises(MixOfShowError, match="part of MODEL already, but not of CLIP"):
        place(model, base.clip, fused)
    found = place(base.model, clip, uses[:1])[0]  # the reverse: routed in MODEL, its words' encoder from Fuse
    assert found[1][0][1]["model_conds"]["mixofshow_regions"].cond.routes is not None


@pytest.mark.parametrize("role", ["style", "add-on"])
def test_place_behind_place_applies_an_add_on_once(base, uses, role):
    style = ConceptUse(uses[1].concept, 0.5, role)
    once = place(base.model, base.clip, [style])[0]
    again, said = place(once[0], base.clip, [style])
    assert torch.equal(sample(again), sample(once)) and "part of MODEL already" in said
    twice = place(once[0], base.clip, [ConceptUse(make_use(base, "other", 3).concept, 0.5, role)])[0]
    assert not torch.equal(sample(twice), sample(once)), "another one is applied"


def test_fuse_refuses_what_is_part_of_its_base(base, uses):
    model, clip, *_ = fuse(base, uses)
    style = ConceptUse(uses[1].concept, 0.5, "add-on")
    placed = place(base.model, base.clip, [style])[0][0]
    wrong = ((model, clip), uses), ((base.model, clip), uses), ((placed, base.clip), (uses[0], style))
    for bases, concepts in wrong:
        with pytest.raises(MixOfShowError, match=r"Fuse: .* already .*would act twice.*before that node"):
            fuse(base, concepts, *bases)
    fuse(base, uses)  # the remedy
    fuse(base, (make_use(base, "new", 3),), model, clip)  # others go on top


def test_compare_refuses_it_too(base, uses):
    model, clip, *_ = fuse(base, uses)
    for pair in ((model, base.clip), (model, clip)):
        with pytest.raises(MixOfShowError, match="Compare: "):
            Comparison(*pair, base.vae, uses)
    Comparison(base.model, base.clip, base.vae, uses)


def test_a_stock_loader_of_the_same_file_counts(base, uses, tmp_path):
    import comfy.sd
    import comfy.utils

    path = tmp_path / "mara.safetensors"
    write_concept(path, uses[0].concept)
    model, clip = comfy.sd.load_lora_for_models(base.model, base.clip, comfy.utils.load_torch_file(str(path)), 0.7, 0.7)
    with pytest.raises(MixOfShowError, match=r"MODEL and CLIP already.*LoRA loader"):
        check_unapplied(model, clip, uses, "Fuse")
    assert carries(model, uses[0].concept) and not carries(model, uses[1].concept)
    found, said = place(model, register_concepts(clip, uses[:1]), uses[:1])
    assert "part of MODEL already" in said
    assert torch.equal(sample(found), sample(place(model, register_concepts(clip, uses[:1]))[0]))


def called(use, name, **more):
    """The same file under another name."""
    (entry,) = use.concept.entries
    return ConceptUse(replace(use.concept, entries=(replace(entry, name=name, id=name),)), use.strength, **more)


def test_one_file_under_two_names_is_not_added_twice(base, uses):
    twin = called(uses[0], "anna")
    with pytest.raises(MixOfShowError, match=r"Fuse: .*\(mara\) and .*\(anna\) hold the very same changes.*Remove one"):
        fuse(base, (uses[0], twin))
    with pytest.raises(MixOfShowError, match="Compare: .*very same changes"):
        Comparison(base.model, base.clip, base.vae, (uses[0], twin))
    for role in ("concept", "add-on"):  # in one place, and everywhere: twice there
        with pytest.raises(MixOfShowError, match="Place: .*very same changes"):
            place(
                base.model, base.clip, [ConceptUse(uses[0].concept, 1.0, role), called(uses[0], "anna", role="add-on")]
            )
    both = regions({"prompt": "mara", "shape": box(0, 0.5)}, {"prompt": "anna", "shape": box(0.5, 1)})
    assert "region 'r1'" in place(base.model, base.clip, [uses[0], twin], both)[1], "the remedy: each in a place"


def test_a_renamed_copy_of_what_is_fused_counts(base, uses):
    model, clip, *_ = fuse(base, uses)
    assert "part of MODEL already" in place(model, clip, [called(uses[0], "anna")], regions({"prompt": "a hat"}))[1]
    with pytest.raises(MixOfShowError, match="would act twice"):
        fuse(base, (called(uses[0], "anna"),), model, clip)


def test_whole_weights_are_applied_and_known_again(base, uses):
    """As Custom Diffusion learns them: the host looks into the place where the mark stands."""
    whole = {name: Dense(delta.dense()) for name, delta in uses[0].concept.deltas.items()}
    use = replace(uses[0], concept=replace(uses[0].concept, deltas=whole))
    model, clip, *_ = fuse(base, (use,))
    wanted = fuse(base, uses[:1])
    assert carries(model, use.concept) and carries(clip.patcher, use.concept)
    found, low_rank = (sample(place(*pair)[0]) for pair in ((model, clip), wanted[:2]))
    assert gap(found, low_rank) < 1e-4 < gap(found, sample(place(base.model, base.clip)[0]))


def test_what_a_merge_of_models_brings_along_counts(base, uses):
    from comfy_extras.nodes_model_merging import CLIPMergeSimple, ModelMergeSimple

    import nodes as stock

    write_concept(Path(folder_paths.get_folder_paths("loras")[0]) / "merged.safetensors", uses[0].concept)
    by_loader = stock.LoraLoader().load_lora(base.model, base.clip, "merged.safetensors", 0.8, 0.8)
    for model, clip in (fuse(base, uses)[:2], by_loader):
        half = ModelMergeSimple().merge(base.model, model, 0.5)[0], CLIPMergeSimple().merge(base.clip, clip, 0.5)[0]
        with pytest.raises(MixOfShowError, match="part of MODEL and CLIP already"):
            check_unapplied(*half, uses[:1], "Fuse")
        check_unapplied(*half, [make_use(base, "new", 3)], "Fuse")
        nothing_of_it = ModelMergeSimple().merge(base.model, model, 1.0)[0]
        check_unapplied(nothing_of_it, base.clip, uses[:1], "Fuse")


def test_words_alone_are_never_applied(base, uses):
    """Textual inversion changes no weight: nothing can act twice."""
    words = ConceptUse(Concept(uses[0].concept.entries, {}, uses[0].concept.base))
    assert not carries(base.model, words.concept)
    model, clip = apply_once(base.model, base.clip, uses[0])
    assert carries(model, uses[0].concept) and carries(clip.patcher, uses[0].concept)
    assert not carries(base.model, uses[0].concept) and not carries(model, words.concept)


def sockets(listed, kind):
    """(node, socket, tooltip) of every input and of every output of one of our own types."""
    inputs, outputs = [], []
    for name, info in listed.items():
        for key, spec in {**info["input"].get("required", {}), **info["input"].get("optional", {})}.items():
            if spec[0] == kind:
                inputs.append((name, key, spec[1].get("tooltip", "")))
        tips = info.get("output_tooltips") or [None] * len(info["output"])
        outputs += [(name, o, tips[n] or "") for n, o in enumerate(info["output"]) if o == kind]
    return inputs, outputs


@pytest.mark.parametrize("kind", ["MIXOFSHOW_CONCEPTS", "MIXOFSHOW_REGIONS", "MIXOFSHOW_DATASET", "MIXOFSHOW_SETTINGS"])
def test_the_two_ends_of_our_wires_say_the_same(server, kind):
    """A node that one end names has the other end; what an end wants left open is not sent there by the other."""
    listed = {name: info for name, info in server.object_info().items() if name.startswith("MixOfShow")}
    titles = {info["display_name"].removeprefix("Mix-of-Show "): name for name, info in listed.items()}

    def named(text):
        found = re.findall("|".join(sorted(map(re.escape, titles), key=len, reverse=True)), text)
        return {titles[title] for title in found}

    inputs, outputs = sockets(listed, kind)
    assert all(tip for *_, tip in (*inputs, *outputs)), "every end explains itself"
    takers, givers = {name for name, *_ in inputs}, {name for name, *_ in outputs}
    for name, _, tip in outputs:
        first = tip.split(".")[0]
        assert named(first) and named(first) <= takers, f"{name} sends to {named(first) - takers or 'nobody'}: {tip}"
    for name, key, tip in inputs:
        for source in re.findall(r"[Ff]rom ([^.;:]+)", tip):
            assert named(source) <= givers, f"{name}.{key} is given by {named(source) - givers}: {tip}"
        for other in re.findall(r"[Ll]eave (?:it )?open after ([^.:;]+)", tip):
            for giver in named(other):
                (said,) = (text for node, _, text in outputs if node == giver)
                assert name not in named(said.split(".")[0]), f"{giver} sends to {name}, which wants to be left open"
