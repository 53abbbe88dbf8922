"""Lists of concepts and bases: what is refused, and that the advice in each refusal works."""

from dataclasses import replace

import pytest
from mos_pack.mixofshow_core.concept import COMMUNITY, BaseInfo, Concept, ConceptUse, Word
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.fitting import check_base, check_list, with_unique_words
from mos_pack.mixofshow_core.renaming import renamed
from mos_tests.unit.builders import make_concept, make_entry


def use(name="mara", seed=0, path="", **facts):
    return ConceptUse(make_concept(name, seed, **facts), path=path or f"{name}-{seed}.safetensors")


def test_two_runs_of_one_name_are_told_apart_by_the_name_field():
    """Two people's mara: the same name, the same words, other weights."""
    first, second = use(seed=1), use(seed=2)
    with pytest.raises(MixOfShowError, match=r"mara-1.safetensors and mara-2.safetensors both use 'mara'; .*`name`"):
        check_list([first, second])
    check_list([first, replace(second, concept=renamed(second.concept, "mara-b"))])


def test_the_same_concept_twice_goes_when_one_is_removed():
    one = use()
    with pytest.raises(MixOfShowError, match="listed twice.*remove one"):
        check_list([one, replace(one, strength=0.5)])
    check_list([one])


def test_two_fused_files_that_share_a_concept_are_told_apart_entry_by_entry():
    entries = {name: make_entry(name, seed=n) for n, name in enumerate(("mara", "tom", "ann"))}
    fused = [
        ConceptUse(Concept((entries["mara"], entries[other]), {}, BaseInfo("sd15")), path=f"{other}.safetensors")
        for other in ("tom", "ann")
    ]
    with pytest.raises(MixOfShowError, match="both use 'mara'; .*old=new"):
        check_list(fused)
    check_list([fused[0], replace(fused[1], concept=renamed(fused[1].concept, "mara=mara-b"))])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["mara", "tom"]),
        ("mara=ann", ["ann", "tom"]),
        ("MARA = ann, <tom>=tim", ["ann", "tim"]),
        ("mara=tom, tom=mara", ["tom", "mara"]),
        ("tom=tim\nmara=ann", ["ann", "tim"]),
    ],
)
def test_some_of_several_are_renamed(text, names):
    both = Concept((make_entry("mara"), make_entry("tom", seed=1)), {}, BaseInfo("sd15"))
    assert [entry.name for entry in renamed(both, text).entries] == names
    assert [entry.id for entry in renamed(both, text).entries] == [entry.id for entry in both.entries]


@pytest.mark.parametrize(
    ("text", "message", "advice"),
    [
        ("ann", r"holds 2 concepts \(mara, tom\).*`mara=mara-b`", "mara=mara-b"),
        ("nora=ann", "renames nora, which is not in this file: it holds mara, tom", "tom=ann"),
        ("mara=tom", "calls two concepts of this file 'tom'; choose another name", "mara=tim"),
        ("mara=", "write old=new.*`mara=mara-b, tom=tim`", "mara=mara-b, tom=tim"),
        ("mara=a, mara=b", "every old name once", "mara=a"),
    ],
)
def test_a_wrong_renaming_says_how_it_is_written(text, message, advice):
    both = Concept((make_entry("mara"), make_entry("tom", seed=1)), {}, BaseInfo("sd15"))
    with pytest.raises(MixOfShowError, match=message):
        renamed(both, text)
    assert renamed(both, advice) != both


def test_a_renamed_lora_is_no_longer_named_by_its_file():
    lora = Concept((make_entry("x", words=0),), {}, BaseInfo("sd15"), {"source": COMMUNITY, "named_by": "file"})
    assert renamed(lora, "ann").training == {"source": COMMUNITY}


def test_words_belong_to_their_concept():
    """Custom Diffusion and Mix-of-Show call what they learn <new1>: two such files are no clash."""
    entries = [replace(make_entry(name, words=1, seed=n), words=(Word("<new1>"),)) for n, name in enumerate("ab")]
    check_list([ConceptUse(Concept((entry,), {}, BaseInfo("sd15"))) for entry in entries])
    unique, notes = with_unique_words([*entries, replace(entries[1], name="c")])
    assert [entry.words[0].text for entry in unique] == ["<new1>", "<b-1>", "<c-1>"]
    assert notes[0] == "the word <new1> of b is called <b-1> here: another concept has it"
    taken = replace(entries[0], words=(Word("<b-1>"),))
    assert [entry.words[0].text for entry in with_unique_words([taken, *entries])[0]] == ["<b-1>", "<new1>", "<b-1-2>"]
    Concept(unique, {}, BaseInfo("sd15"))  # a file can hold them


def test_a_list_of_two_families_is_refused():
    xl = use("tom", family="sdxl", layers=70)
    with pytest.raises(MixOfShowError, match="made for SD1.5, tom-0.safetensors for SDXL; .*Remove one"):
        check_list([use(), xl])
    check_list([xl])
    check_list([use(), use("tom", family="unknown")])


SDXL, SDXL_V = BaseInfo("sdxl", "a" * 16, 70), BaseInfo("sdxl-v", "a" * 16, 70)


def xl(family="sdxl", source=None):
    concept = make_concept(family=family, layers=70)
    return [ConceptUse(replace(concept, training={"source": source} if source else {}))]


def test_another_family_says_which_checkpoint_to_connect():
    with pytest.raises(MixOfShowError, match="made for SDXL, but MODEL is SD1.5. Connect a checkpoint of SDXL"):
        check_base(BaseInfo("sd15", None, 16), xl())
    assert check_base(SDXL, xl()) == [
        "Concept mara was trained on base ffffffffffffffff; MODEL is aaaaaaaaaaaaaaaa (same family, that is fine)."
    ]


def test_another_prediction_says_what_to_do():
    with pytest.raises(MixOfShowError, match="predicts noise, but MODEL predicts v. If a ModelSamplingDiscrete.*away"):
        check_base(SDXL_V, xl())
    with pytest.raises(MixOfShowError, match=r"predicts v, but MODEL predicts noise. .*put a ModelSamplingDiscrete"):
        check_base(SDXL, xl("sdxl-v"))
    assert check_base(SDXL_V, xl("sdxl-v")) and check_base(SDXL, xl())
    assert check_base(SDXL_V, xl(source=COMMUNITY))  # a LoRA of others does not say what its base predicts
    check_base(replace(SDXL, fingerprint=None), xl("sdxl-v"), knows_prediction=False)


def test_another_number_of_layers_says_which_base_to_connect():
    with pytest.raises(MixOfShowError, match="for 70 cross-attention layers; MODEL has 11. Connect the base"):
        check_base(BaseInfo("sdxl", None, 11), xl())
    check_base(BaseInfo("sdxl", None, 70), xl())
