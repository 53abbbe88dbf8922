"""What a prompt says of one of several."""

import re

import pytest
from mos_pack.mixofshow_core.regional.clauses import clauses, said_of


def named(text):
    return {"mara", "finn", "omara"} & set(re.findall(r"\w+", text))


def test_it_is_parted_where_one_speaks_of_another():
    assert clauses("mara on the left and finn on the right, green background") == [
        "mara on the left",
        "finn on the right",
        "green background",
    ]
    assert clauses("a lake. Mist;\nmara AND finn，snow & ice") == ["a lake", "Mist", "mara", "finn", "snow", "ice"]
    assert clauses("sand, (mara and finn, wet:1.2), 1.5 m") == ["sand", "(mara and finn, wet:1.2)", "1.5 m"]
    assert clauses(r"mara \(film, 1999) and ((finn, tom)") == [r"mara \(film", "1999)", "((finn, tom)"]
    assert clauses(" , ") == clauses("") == []


@pytest.mark.parametrize(
    ("prompt", "who", "wanted"),
    [
        (
            "mara on the left, finn in the middle and omara on the right, at night",
            "finn",
            "finn in the middle, at night",
        ),
        ("mara hugs finn, omara looks on", "finn", "mara hugs finn"),
        ("a photo, (finn and mara:1.2) and omara", "mara", "a photo, (finn and mara:1.2)"),
        ("a hat and omara", "finn", "a hat"),
        ("finn and a dog,  at night", "finn", "finn and a dog,  at night"),
        ("a lake", "finn", "a lake"),
    ],
)
def test_what_is_said_of_one_is_what_names_nobody_else(prompt, who, wanted):
    assert said_of(prompt, who, named) == wanted


def test_who_is_named_across_a_comma_keeps_the_whole_prompt():
    prompt = "red, dragon beside mara, and finn"

    def phrases(text):
        return {name for name, words in {"dragon": "red, dragon", "finn": "finn"}.items() if words in text}

    assert said_of(prompt, "dragon", phrases) == prompt
