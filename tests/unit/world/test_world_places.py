"""Who stands where: sentences are grouped by what they ask, and judged by it."""

from mos_world.drawing.captions import IN_A_ROW, IN_A_STACK, Scene, Subject
from mos_world.judges import places
from mos_world.judges.scores import Case
from PIL import Image

CAT, DOG = {"class": "cat"}, {"class": "dog"}
PAIR = Case("", (CAT, DOG), Scene((Subject(0, "cat", "flat"), Subject(0, "dog", "flat")), "red", ""))


def test_every_sentence_with_a_place_is_asked_once_and_in_both_orders():
    placed = [form for group in places.GROUPS if group.placed for form in group.forms]
    assert sorted(placed) == sorted(IN_A_ROW + IN_A_STACK)
    first, second = (places.plan(group, [PAIR]) for group in places.GROUPS[:2])
    assert len(first) == len(second) == 4
    assert all(case.prompt.index("cat") < case.prompt.index("dog") for case in first)
    assert all(case.prompt.index("dog") < case.prompt.index("cat") for case in second)
    assert {case.prompt[-16:] for case in first + second} == {", red background"}


def test_a_swap_is_wrong_only_where_a_place_was_said():
    assert places.verdict((CAT, DOG), (CAT, DOG), True) == "right"
    assert places.verdict((DOG, CAT), (CAT, DOG), True) == "swapped"
    assert places.verdict((DOG, CAT), (CAT, DOG), False) == "right"
    for placed in (True, False):
        assert places.verdict((CAT, CAT), (CAT, DOG), placed) == "other"
        assert places.verdict((CAT, {"class": "cup"}), (CAT, DOG), placed) == "other"


def test_fields_are_cut_along_the_longer_side():
    for size, second in (((128, 64), (64, 0)), ((64, 128), (0, 64))):
        picture = Image.new("RGB", size, "white")
        picture.paste("black", (*second, second[0] + 64, second[1] + 64))
        fields = places.cut(picture)
        assert [f.size for f in fields] == [(64, 64)] * 2
        assert [f.getpixel((5, 5))[0] for f in fields] == [255, 0]


def test_sentences_of_one_pair_are_counted_together():
    """Four sentences of two pairs, in the order of the plan: intervals are over pairs."""
    assert places.shares(["right", "other", "right", "other", "right", "other", "right", "right"], "right", 2) == [
        1,
        0.25,
    ]


def test_a_page_keeps_the_rows_of_the_other_base(tmp_path):
    page, head = tmp_path / "world.md", ["| Sentence | Right |", "|---|---|"]
    page.write_text(f"Before\n{places.BEGIN}\nold\n| base A: x | 1 % |\n| base B: x | 2 % |\n{places.END}\nAfter\n")
    places.write_page(page, "A", [*head, "| base A: x | 3 % |", "| base A: y | 4 % |"])
    rows = "\n".join(["", *head, "| base A: x | 3 % |", "| base A: y | 4 % |", "| base B: x | 2 % |", ""])
    assert page.read_text() == f"Before\n{places.BEGIN}{rows}\n{places.END}\nAfter\n"
