"""Every error that gives advice about names, words and lists: the advice is taken, and works."""

import json
from dataclasses import replace

import pytest
from mos_pack.mixofshow_core.concept import COMMUNITY, BaseInfo, Concept, ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.native import write_concept
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.nodes.bridge.evaluating.evaluation import Comparison
from mos_pack.nodes.bridge.formats import exporting
from mos_pack.nodes.bridge.formats.load import check_triggers
from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_pack.nodes.concepts import MixOfShowLoadConcept
from mos_pack.nodes.export import MixOfShowExport
from mos_pack.nodes.place import MixOfShowPlace
from mos_pack.nodes.regions import MixOfShowRegions
from mos_tests.host.builders import make_concept, tiny_plan
from mos_tests.host.placing.test_routing import box, regions
from mos_tests.unit.builders import make_entry


@pytest.fixture(scope="module")
def uses(tiny_sd15):
    return tuple(ConceptUse(make_concept(tiny_sd15, name, n)) for n, name in enumerate(("mara", "tom", "ann"), 1))


def fuse(base, uses, folder, **settings):
    return fuse_uses(base.model, base.clip, uses, "sum", tiny_plan(), FusionSettings(**settings), folder).concept


def fused(base, uses, folder):
    """MODEL and CLIP as Fuse gives them."""
    concept = fuse(base, uses, folder)
    model, clip = apply_deltas(base.model, base.clip, concept.deltas)
    return model, register_concepts(clip, [ConceptUse(concept)])


def place(base, prompt, placed, concepts=None, pair=None):
    return MixOfShowPlace.one(*(pair or (base.model, base.clip)), prompt, "", placed, concepts).result


def test_several_concepts_without_regions_are_told_apart_by_their_words(tiny_sd15, uses):
    """Both were errors once: no regions at all, and regions for others than the prompt names."""
    place(tiny_sd15, "mara, tom and ann", None, uses)
    place(tiny_sd15, "tom and ann", regions({"prompt": "mara"}), uses)


def test_a_region_that_names_two(tiny_sd15, uses, tmp_path):
    both = regions({"prompt": "mara and tom"})
    with pytest.raises(MixOfShowError, match="region 'r0' names 2 unfused concepts; name only mara or tom there"):
        place(tiny_sd15, "a", both, uses)
    place(tiny_sd15, "a", regions({"prompt": "tom"}), uses)
    place(tiny_sd15, "a", both, pair=fused(tiny_sd15, uses, tmp_path))


def test_a_bracketed_name_that_nobody_knows(tiny_sd15, uses, tmp_path):
    clip = register_concepts(tiny_sd15.clip, uses[:2])
    with pytest.raises(MixOfShowError, match="names concept <ann>.* Known: mara, tom. Write one of these, or connect"):
        encode_layered(clip, "<ann>", 16)
    encode_layered(clip, "<tom>", 16)
    encode_layered(register_concepts(clip, uses[2:]), "<ann>", 16)
    encode_layered(fused(tiny_sd15, uses, tmp_path)[1], "<ann>", 16)


def test_a_region_with_an_unknown_concept(tiny_sd15, uses):
    text = json.dumps({"version": 1, "regions": [{"id": "a", "shape": box(0, 1), "concept": "nora"}]})
    with pytest.raises(MixOfShowError, match="region 'a' names concept 'nora', which is not connected: mara, tom, ann"):
        MixOfShowRegions.execute(text, 64, 64, uses)
    drawn = MixOfShowRegions.execute(text, 64, 64)[0]
    with pytest.raises(MixOfShowError, match="region 'a' names concept 'nora', .* Known: mara, tom, ann"):
        place(tiny_sd15, "a", drawn, uses)
    place(tiny_sd15, "a", MixOfShowRegions.execute(text.replace("nora", "ann"), 64, 64, uses)[0], uses)


def test_compare_with_a_clip_that_knows_the_names(tiny_sd15, uses, tmp_path):
    pair = fused(tiny_sd15, uses, tmp_path)
    with pytest.raises(MixOfShowError, match="CLIP already knows mara, tom, ann. Connect MODEL and CLIP of the base"):
        Comparison(*pair, tiny_sd15.vae, uses)
    Comparison(tiny_sd15.model, tiny_sd15.clip, tiny_sd15.vae, uses, other=pair)


def test_export_of_several(tiny_sd15, uses, tmp_path):
    with pytest.raises(MixOfShowError, match="3 concepts are connected .*fuse them first, or export each by itself"):
        MixOfShowExport.execute(uses, "concept", "auto", "several")
    MixOfShowExport.execute((ConceptUse(fuse(tiny_sd15, uses, tmp_path)),), "concept", "auto", "several")
    for use in uses:
        MixOfShowExport.execute((use,), "concept", "auto", "several")


def test_an_empty_list(tiny_sd15, tmp_path, uses):
    with pytest.raises(MixOfShowError, match="`concepts` is empty: connect Load Concept"):
        fuse(tiny_sd15, (), tmp_path)
    exporting.concept_folder().mkdir(parents=True, exist_ok=True)
    write_concept(exporting.concept_folder() / "advice.safetensors", uses[0].concept)
    fuse(tiny_sd15, MixOfShowLoadConcept.execute("mixofshow/advice.safetensors").result[0], tmp_path)


def test_weights_of_fusion_settings(tiny_sd15, uses, tmp_path):
    with pytest.raises(MixOfShowError, match="gives a weight to nora, but the solved concepts are .*correct the name"):
        fuse(tiny_sd15, uses, tmp_path, weights={"nora": 2.0})
    fuse(tiny_sd15, uses, tmp_path, weights={"ann": 2.0})
    same = [ConceptUse(use.concept, path=f"{n}/x.safetensors") for n, use in enumerate(uses)]
    with pytest.raises(MixOfShowError, match=r"has x, which 3 concepts go by \(ann, x; mara, x; tom, x\).*only one of"):
        fuse(tiny_sd15, same, tmp_path, weights={"x": 2.0})
    fuse(tiny_sd15, same, tmp_path, weights={"tom": 2.0})


def test_words_of_another_family(tiny_sd15, tiny_sdxl):
    """A file whose family is not known, and whose words have rows for one text encoder."""
    concept = Concept((make_entry("mara", layers=1, widths={"clip_l": 64}),), {}, BaseInfo("unknown"))
    clip = register_concepts(tiny_sdxl.clip, [ConceptUse(concept)])
    with pytest.raises(MixOfShowError, match="'mara' has learned words for clip_l only, and CLIP .* clip_g"):
        encode_layered(clip, "mara", 70)
    encode_layered(register_concepts(tiny_sd15.clip, [ConceptUse(concept)]), "mara", 16)
    encode_layered(register_concepts(tiny_sdxl.clip, [ConceptUse(make_concept(tiny_sdxl, "mara", 1))]), "mara", 70)


def test_words_for_another_number_of_layers(tiny_sd15):
    entry = make_entry("mara", layers=7, widths={"clip_l": 64})
    clip = register_concepts(tiny_sd15.clip, [ConceptUse(Concept((entry,), {}, BaseInfo("unknown")))])
    with pytest.raises(MixOfShowError, match="for 7 cross-attention layers; MODEL has 16. Take MODEL and CLIP"):
        encode_layered(clip, "mara", 16)
    right = ConceptUse(make_concept(tiny_sd15, "mara", 1))
    assert encode_layered(register_concepts(tiny_sd15.clip, [right]), "mara", 16).layers.shape[0] == 16


def test_two_rows_with_one_trigger(tiny_sd15):
    loras = [
        ConceptUse(replace(make_concept(tiny_sd15, name, n), training={"source": COMMUNITY}), trigger="girl", path=name)
        for n, name in enumerate(("a", "b"))
    ]
    with pytest.raises(MixOfShowError, match="a and b both have the trigger 'girl'; .*another `trigger`, or empty"):
        check_triggers(loras)
    check_triggers([loras[0], replace(loras[1], trigger="woman")])
    check_triggers([loras[0], replace(loras[1], trigger="")])
