"""What a comparison paints, its table, and its labelled pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.metrics.comparison import (
    KINDS,
    Cell,
    Way,
    expand_prompts,
    mentions,
    parse_ways,
    plan_columns,
    read_table,
    why_empty,
    with_class_words,
    write_table,
)
from mos_pack.mixofshow_core.metrics.drawing import DARK, LIGHT, THEMES, Bar, Panel, draw_grid, draw_scores

METHODS = ("exact", "sum", "average")


def test_ways_are_read_once_each_and_in_order():
    found = parse_ways("base, each\nSum, fused + regions,  sum, exact+regions, routed", METHODS)
    assert found == (Way("base"), Way("each"), Way("sum"), Way("exact", True), Way("routed", True))


def test_by_words_alone_and_behind_a_merge():
    ways = parse_ways("by words, Fused by words, sum by words + regions", METHODS)
    assert ways == (Way("by words"), Way("exact", words=True), Way("sum", True, True))
    columns, notes = plan_columns(ways, ("mara", "finn"), regions=True, connected=False)
    assert [(c.label, c.method, c.words) for c in columns] == [
        ("by words", "by words", False),
        ("fused by words", "exact", True),
        ("sum by words + regions", "sum", True),
    ]
    assert not notes and not columns[0].regions


@pytest.mark.parametrize(
    "text", ["", " , ", "fuse", "base + regions", "sum + masks", "sum +", "each by words", "by words + regions"]
)
def test_unknown_ways_say_what_exists(text):
    with pytest.raises(MixOfShowError, match="`ways` on Compare"):
        parse_ways(text, METHODS)


def test_prompts_become_rows():
    rows = expand_prompts("a photo of {name}\n\nmara and FINN in a park\na lake\n", ("mara", "finn"))
    assert [row.prompt for row in rows] == [
        "a photo of mara",
        "a photo of finn",
        "mara and FINN in a park",
        "a lake",
    ]
    assert [row.names for row in rows] == [("mara",), ("finn",), ("mara", "finn"), ()]
    assert [row.single for row in rows] == [True, True, False, False]
    with pytest.raises(MixOfShowError, match="empty"):
        expand_prompts(" \n", ("mara",))
    with pytest.raises(MixOfShowError, match="no connected concept has a name"):
        expand_prompts("{name}", ())


def test_names_are_whole_words():
    assert mentions("Mara, smiling", "mara") and mentions("<mara> at a lake", "mara")
    assert not mentions("mara-lynn and amara", "mara")
    classes = {"mara": "person", "mara-lynn": "woman"}
    assert with_class_words("mara-lynn with Mara person and <mara>", classes) == "woman with person and person"


def test_columns_and_what_stays_empty():
    ways = parse_ways("base, each, sum, fused + regions, routed", METHODS)
    columns, notes = plan_columns(ways, ("mara", "finn"), regions=True, connected=True)
    assert [column.label for column in columns] == [
        "base",
        "mara alone",
        "finn alone",
        "sum",
        "fused + regions",
        "routed",
        "connected",
    ]
    assert not notes and {column.kind for column in columns} == set(KINDS)
    single, both, other = expand_prompts("{name}\nmara and finn\na lake", ("mara",))
    assert why_empty(single, columns[1], ("mara",)) == "" and "not in" in why_empty(single, columns[2], ("finn",))
    assert "no regions" in why_empty(single, columns[4], ()) and why_empty(both, columns[4], ()) == ""
    assert why_empty(other, columns[2], ("finn",)) == ""  # a prompt that names nobody shows drift
    fewer, notes = plan_columns(ways, ("mara", "finn"), regions=False, connected=False)
    assert [c.label for c in fewer] == ["base", "mara alone", "finn alone", "sum"]
    assert notes == ("fused + regions is left out: no regions.", "routed is left out: no regions.")
    with pytest.raises(MixOfShowError, match="nothing to paint"):
        plan_columns(parse_ways("routed", METHODS), ("mara",), False, False)


def test_one_concept_is_not_merged():
    columns, notes = plan_columns(parse_ways("base, sum, routed", METHODS), ("mara",), True, False)
    assert [c.label for c in columns] == ["base", "routed"] and "nothing to merge" in notes[0]


def test_table_survives_the_wire_and_refuses_damage():
    cells = (Cell(0, 0, "base", "base", "mara", "person", ("mara",), 5, 0),)
    text = write_table(cells, {"notes": []})
    assert read_table(text) == cells and json.loads(text)["version"] == 1
    assert read_table("a photo") is None and read_table('{"table": "another"}') is None
    with pytest.raises(MixOfShowError, match="cannot be read"):
        read_table(text.replace('"noise"', '"noize"'))
    with pytest.raises(MixOfShowError, match="cannot be read"):
        read_table(text[:-3])


def pictures(value: int, count: int = 2, side: int = 64):
    return [np.full((side, side, 3), value, np.uint8) for _ in range(count)]


@pytest.mark.parametrize("theme", THEMES.values())
def test_grid_shows_every_picture_in_its_place(theme):
    cells = {(0, 0): pictures(40), (0, 1): pictures(200), (1, 1): pictures(120)}
    image = draw_grid(
        cells,
        ["a photo of mara", "mara \u4eba"],
        [("base", KINDS[0]), ("sum", KINDS[2])],
        {(1, 0): "not in this prompt"},
        "Compare",
        "seed 1",
        theme,
    )
    pixels = np.asarray(image)
    assert all((pixels == value).all(2).sum() == 2 * 128 * 128 for value in (40, 200, 120))
    ink = tuple(int(theme.ink[n : n + 2], 16) for n in (1, 3, 5))
    assert (pixels == ink).all(2).sum() > 50  # labels were written
    columns = [np.nonzero((pixels == value).all(2).any(0))[0].min() for value in (40, 200)]
    assert columns[1] - columns[0] == 132


def test_grid_shrinks_big_pictures_and_refuses_absurd_sizes():
    image = draw_grid({(0, 0): pictures(9, 1, 1024)}, ["a"], [("base", KINDS[0])], {}, "t", "f")
    assert (np.asarray(image) == 9).all(2).sum() == 256 * 256
    with pytest.raises(MixOfShowError, match="fewer prompts"):
        draw_grid({(0, 0): pictures(9, 400, 256)}, ["a"] * 40, [("base", KINDS[0])] * 40, {}, "t", "f")


def test_colours_are_apart_for_everybody():
    """Contrast of every kind against its background, and of all kinds among themselves, also without red or green."""

    def light(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted((light(a), light(b)))
        return (high + 0.05) / (low + 0.05)

    for theme in (LIGHT, DARK):
        assert contrast(theme.ink, theme.back) > 12 and contrast(theme.faint, theme.back) > 4.5
        assert all(contrast(colour, theme.back) > 2.8 for colour in theme.kinds)
        assert len(set(theme.kinds)) == len(KINDS)


def test_scores_are_drawn_to_scale():
    bars = [Bar("sum", KINDS[2], [0.2, 0.4], (0.3, 0.2, 0.4)), Bar("routed", KINDS[3], [0.8], (0.8, 0.8, 0.8))]
    image = draw_scores([Panel("Like the references", "cosine", bars)], "Scores", ["evaluator: x"], LIGHT)
    pixels = np.asarray(image)
    colour = tuple(int(LIGHT.kinds[2][n : n + 2], 16) for n in (1, 3, 5))
    drawn = (pixels == colour).all(2)
    drawn[: 74 + 16] = False  # the legend
    across = np.nonzero(drawn.any(0))[0]
    axis = 960 - 20 - 190 - (20 + 190)
    assert abs((across.max() - across.min()) - 0.2 * axis) < 4
