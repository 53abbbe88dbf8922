"""Fusing and routing together: layers with places fused, every word read by its own concept in Place."""

from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptEntry
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.nets import role_of
from mos_pack.mixofshow_core.fusion.apart import reads_words
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_pack.nodes.fuse import MixOfShowFuse, MixOfShowFusionSettings
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.evaluating.test_evaluate import compare
from mos_tests.host.placing.test_routing import gap, make_use, payload, sample

OWN, FUSED = (FusionSettings(words=words, size="exact") for words in ("own", "fused"))


@pytest.fixture
def base(tiny_sd15):
    return tiny_sd15


@pytest.fixture
def uses(base):
    return make_use(base, "mara", 1, strength=0.8), make_use(base, "tom", 2)


def fuse(base, uses, settings=OWN):
    return MixOfShowFuse.execute(base.model, base.clip, uses, "sum", "quick", "", settings).result


def test_only_layers_with_places_are_fused_and_the_rest_is_handed_on(base, uses):
    model, clip, words, report, _ = fuse(base, uses)
    assert model.patches and not clip.patcher.patches
    assert all(role_of(f"diffusion_model.{key}") != "cross_kv" for key in model.patches)
    assert [use.label for use in words] == ["mara", "tom"] and words[0].strength == 0.8
    for use, whole in zip(words, uses, strict=True):
        wanted = {name: delta for name, delta in whole.concept.deltas.items() if reads_words(name)}
        assert use.concept.deltas == wanted and any(name.startswith("text_encoders.") for name in wanted)
    assert "connect CONCEPTS" in report


def without_words(use):
    """As a LoRA of others: called by a trigger, no word of its own."""
    plain = ConceptEntry(use.label, use.label, trigger="a person")
    return replace(use, concept=replace(use.concept, entries=(plain,)))


def test_plain_loras_that_share_their_words_are_told_what_keeps_them_apart(base, uses):
    """Two of them, fused whole: not one beside a learned word, and not where it is done already."""
    plain, told = tuple(map(without_words, uses)), "mara, tom have no learned words"
    for settings, chosen, says in (
        (FUSED, plain, True),
        (FUSED, uses, False),
        (FUSED, (plain[0], uses[1]), False),
        (OWN, plain, False),
    ):
        report = fuse(base, chosen, settings)[3]
        assert (told in report) == says and ("no learned words" in report) == says


def test_place_reads_every_word_by_its_own_and_looks_for_nobody(base, uses):
    model, clip, words, *_ = fuse(base, uses)
    _, positive, _ = placed = MixOfShowPlace.one(model, clip, "mara and tom", "bad", None, words).result
    found = payload(positive)
    assert found.routes.search is None and found.chosen is None and set(found.words.tolist()) == {-1, 0, 1}
    assert all(path.endswith(("attn2.to_k", "attn2.to_v")) for path in found.routes.factors)
    _, whole, _ = MixOfShowPlace.one(base.model, base.clip, "mara and tom", "bad", None, uses).result
    assert torch.equal(found.layers, payload(whole).layers), "the same text as routed"
    assert torch.isfinite(sample(placed)).all()


def test_one_name_is_that_concepts_text_over_the_fused_places(base, uses):
    model, clip, words, *_ = fuse(base, uses)
    patched, own = apply_deltas(model, clip, words[1].concept.deltas)
    wanted = sample(MixOfShowPlace.one(patched, own, "tom", "bad").result)
    assert gap(sample(MixOfShowPlace.one(model, clip, "tom", "bad", None, words).result), wanted) < 5e-5


def test_a_whole_concept_is_refused_where_only_its_words_are_wanted(base, uses):
    model, clip, *_ = fuse(base, uses)
    with pytest.raises(MixOfShowError, match="'mara' is part of MODEL already, but not of CLIP"):
        MixOfShowPlace.one(model, clip, "mara and tom", "", None, uses)


def test_by_default_everything_is_fused_and_keys_are_those_of_before(base, uses):
    *_, words, report, _ = fuse(base, uses, FusionSettings(size="exact"))
    assert len(words) == 1 and "connect CONCEPTS" not in report
    assert "words" not in FusionSettings().describe() and OWN.describe()["words"] == "own"


def test_settings_say_which_and_refuse_others():
    chosen = MixOfShowFusionSettings.define_schema().inputs[-1]
    assert chosen.id == "words" and chosen.options == ["fused", "own"]
    with pytest.raises(MixOfShowError, match="Fusion setting words is 'mine'"):
        FusionSettings(words="mine")


def test_compare_paints_by_words(base, uses):
    *_, pictures, table = compare(base, uses, "by words, sum by words", "mara and tom", negative="bad")
    assert [cell["column"] for cell in table["cells"]] == ["by words"] * 2 + ["sum by words"] * 2
    latents = sample(MixOfShowPlace.one(base.model, base.clip, "mara and tom", "bad", None, uses).result)
    assert len(pictures) == 4 and not torch.equal(pictures[0], pictures[2]) and torch.isfinite(latents).all()
