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
