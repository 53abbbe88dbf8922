"""The one rule for names in texts."""

import pytest
from mos_pack.mixofshow_core.names import names_in, replace_names, starts_with_name
from mos_pack.mixofshow_core.training.captions import with_name


@pytest.mark.parametrize(
    "text",
    [
        "mara", "a photo of Mara, smiling", "(mara:1.2)", "character:mara, smiling", "mara/finn",
        "mara\u7684\u7167\u7247",
        "\u5199\u771fmara", "\uff4d\uff41\uff52\uff41", "mara's hat", "mara\uac00",
    ],
)  # fmt: skip
def test_a_name_is_found(text):
    assert names_in(text, ["mara"])
    assert with_name(text, "mara") == text


@pytest.mark.parametrize(
    "text",
    ["maras", "tamara", "mara-lynn", "<mara-1>", "mara_2", "mara2", "embedding:people\\mara", "embedding:mara",
     "<lora:mara:0.8>", "\u00e9mara", ""],
)  # fmt: skip
def test_other_words_are_not(text):
    assert not names_in(text, ["mara"])


def test_the_longest_name_wins_and_the_rest_stays_to_the_letter():
    targets = {"mara": "A", "mara-lynn": "B", "<mara>": "C"}
    text = "\uff2d\uff21\uff32\uff21\uff0cmara-lynn, <Mara> embedding:mara <lora:mara:1>"
    assert replace_names(text, targets) == "A\uff0cB, C embedding:mara <lora:mara:1>"
    assert replace_names("\uff0cplain", targets) == "\uff0cplain" and replace_names("mara", {}) == "mara"
    assert replace_names("f\u0131nn, ma\u017fa", {"finn": "F", "masa": "M"}) == "F, M"  # case folds beyond lower()
    assert starts_with_name("Mara, x", "mara") and not starts_with_name("x mara", "mara")
