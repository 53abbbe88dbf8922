"""The one rule for names in texts."""

import pytest
from mos_pack.mixofshow_core.concept import ConceptEntry, Word, check_unique_names
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.dialect import safe_concept_name, safe_word
from mos_pack.mixofshow_core.names import (
    is_name,
    is_word,
    name_of_file,
    names_in,
    near_names,
    normal,
    replace_names,
    starts_with_name,
)
from mos_pack.mixofshow_core.training.captions import with_name


@pytest.mark.parametrize(
    "text",
    [
        "mara",
        "a photo of Mara, smiling",
        "(mara:1.2)",
        "character:mara, smiling",
        "mara/finn",
        "mara\u7684\u7167\u7247",
        "\u5199\u771fmara",
        "\uff4d\uff41\uff52\uff41",
        "mara's hat",
        "mara\uac00",
    ],
)
def test_a_name_is_found(text):
    assert names_in(text, ["mara"])
    assert with_name(text, "mara") == text


@pytest.mark.parametrize(
    "text",
    [
        "maras",
        "tamara",
        "mara-lynn",
        "<mara-1>",
        "mara_2",
        "mara2",
        "embedding:people\\mara",
        "embedding:mara",
        "<lora:mara:0.8>",
        "\u00e9mara",
        "",
    ],
)
def test_other_words_are_not(text):
    assert not names_in(text, ["mara"])


def test_the_longest_name_wins_and_the_rest_stays_to_the_letter():
    targets = {"mara": "A", "mara-lynn": "B", "<mara>": "C"}
    text = "\uff2d\uff21\uff32\uff21\uff0cmara-lynn, <Mara> embedding:mara <lora:mara:1>"
    assert replace_names(text, targets) == "A\uff0cB, C embedding:mara <lora:mara:1>"
    assert replace_names("\uff0cplain", targets) == "\uff0cplain" and replace_names("mara", {}) == "mara"
    assert replace_names("f\u0131nn, ma\u017fa", {"finn": "F", "masa": "M"}) == "F, M"  # case folds beyond lower()
    assert starts_with_name("Mara, x", "mara") and not starts_with_name("x mara", "mara")


MISAKI, MEENA, ZOE, ANNA_RU = "\u7f8e\u54b2", "\u092e\u0940\u0928\u093e", "Zo\u00eb", "\u0410\u043d\u043d\u0430"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        (MISAKI, f"{MISAKI}\u304c\u7b11\u3046", True),
        (MISAKI, f"\u5199\u771f{MISAKI}", True),
        (MISAKI, f"a photo of {MISAKI}, smiling", True),
        (MISAKI, "\u7f8e\u3057\u3044", False),
        ("\ubbfc\uc9c0", "\ubbfc\uc9c0\uac00 \uc6c3\ub294\ub2e4", True),
        ("\ubbfc\uc9c0", "\u1106\u1175\u11ab\u110c\u1175\uac00", True),  # jamo, as macOS writes file names
        (MEENA, f"{MEENA} \u0939\u0902\u0938\u0924\u0940", True),
        ("\u092e\u0940\u0928", MEENA, False),  # a vowel sign
        (ZOE, "zoe\u0308 in a hat", True),
        (ZOE, "ZO\u00cb", True),
        (ZOE, "zoe", False),
        (ZOE, "zo\u00ebs", False),
        ("Stra\u00dfe", "die STRASSE", True),
        ("\u0130rem", "irem", True),
        ("\u0130rem", "\u0130REM", True),
        (ANNA_RU, "\u0430\u043d\u043d\u0430 \u0438", True),
        (ANNA_RU, "\u0430\u043d\u043d\u0430\u043c", False),
        ("\u30ac\u30eb", "\uff76\uff9e\uff99", True),
        ("mara", "ma\u200dra", True),
        ("fi", "\ufb01", True),
        ("f", "\ufb01", False),  # half of a ligature is no letter
        ("\u03a3\u03c9\u03c3", "\u03c3\u03c9\u03c2", True),
    ],
)
def test_names_in_any_script_are_found_whole(name, text, found):
    assert names_in(text, [name]) is found
    assert is_name(normal(name))


def test_what_is_replaced_is_what_stands_in_the_text():
    text = "x zoe\u0308, \uff3a\uff2f\u00cb; \u0130"
    assert replace_names(text, {ZOE: "Z"}) == "x Z, Z; \u0130"
    assert replace_names(f"\u5199\u771f{MISAKI}\u3001x", {MISAKI: "M"}) == "\u5199\u771fM\u3001x"
    assert replace_names("x<mara>y \uff1cmara\uff1e", {"<mara>": "M", "mara": "N"}) == "xMy M"


def test_names_and_words_have_one_stored_form_and_one_compared_form():
    entry = ConceptEntry("id", "\uff2d\uff41\uff52\uff41")
    assert entry.name == "Mara" and ConceptEntry("id", "Zoe\u0308").name == ZOE
    assert Word("<\uff4d\uff41\uff52\uff41-1>").text == "<mara-1>"
    for name in (MISAKI, MEENA, ZOE, ANNA_RU, "\u0e21\u0e32\u0e25\u0e35", "\u0647\u062f\u0649", "mara-lynn_2"):
        assert ConceptEntry("id", name).name == name and Word(f"<{name}-1>")
    for name in ("", "2mara", "-mara", "two words", "a.b", "\u0301a", "\U0001f600", "a/b", "x" * 65):
        with pytest.raises(MixOfShowError, match="letters of any script"):
            ConceptEntry("id", name)
    for first, second in ((ZOE, "ZOE\u0308"), ("\uff4d\uff41\uff52\uff41", "MARA"), ("stra\u00dfe", "STRASSE")):
        with pytest.raises(MixOfShowError, match="both use"):
            check_unique_names([ConceptEntry("a", first), ConceptEntry("b", second)], "here")


@pytest.mark.parametrize(
    ("text", "name"),
    [("\u7f8e\u54b2 (v2)", "\u7f8e\u54b2-v2"), ("<potter 1>", "potter-1"), ("???", "concept"), ("7up", "concept-7up")],
)
def test_names_of_other_programs_become_legal(text, name):
    assert safe_concept_name(text).rstrip("-") == name
    assert is_word(safe_word(text)) and is_name(name_of_file(text))


def test_captions_in_any_script():
    assert with_name("\u5199\u771f", MISAKI) == f"{MISAKI}, \u5199\u771f"
    assert with_name(f"{MISAKI}\u306e\u5199\u771f", MISAKI) == f"{MISAKI}\u306e\u5199\u771f"


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("marra", "mara"),
        ("amra", "mara"),
        ("maro", "mara"),
        ("maar", "mara"),
        ("Marra", "mara"),
        ("maras", "mara"),
        ("fin", ""),
        ("fnin", "finn"),
        ("mara-lyn", "mara-lynn"),
        ("mara_2", ""),
        ("mara2", "mara"),
        ("mrara", "mara"),
        ("arma", ""),
        ("\uff4d\uff41\uff52\uff52\uff41", "mara"),
        ("lagunes", ""),
        ("tamara", ""),
    ],
)
def test_a_word_one_slip_from_a_name_is_found(word, name):
    names = ["mara", "finn", "mara-lynn", "lagun"]
    found = near_names(f"a photo of {word}, smiling", names)
    assert [near for _, near in found] == ([name] if name else [])


@pytest.mark.parametrize(
    "text",
    [
        "mara's hat",
        "MARA",
        "(mara:1.2), mara/finn",
        "embedding:marra",
        "<lora:marra:1>",
        "<marra>",
        "tom and tim",
        "",
        "a fine day",
    ],
)
def test_names_file_names_short_words_and_common_words_are_no_slips(text):
    assert near_names(text, ["mara", "finn", "tam"], {"fine"}.__contains__) == []


def test_a_slip_is_told_once_and_never_of_a_word_that_is_a_name_itself():
    assert near_names("marra, Marra and mara with maria", ["mara", "maria"]) == [("marra", "mara")]
