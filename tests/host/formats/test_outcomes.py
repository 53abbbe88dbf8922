"""Files of other programs, by their key lists: what is used of each is what docs/formats.md says."""

import re

import pytest
from mos_tests.host.formats import outcomes

LISTS = outcomes.lists()
WHOLE = ("dora", "glora", "loha", "lokr", "oft")  # become whole matrices, so that a part of their layers must do
STEP = 16


def told(label):
    """The page's row of a file, by columns."""
    row = re.search(rf"^\| {re.escape(label)} \|.*$", outcomes.PAGE.read_text(encoding="utf-8"), re.M)
    return row and [cell.strip() for cell in row.group().strip("|").split("|")]


@pytest.fixture(scope="module")
def base():
    return outcomes.RandomBase()


@pytest.mark.parametrize("label", LISTS)
def test_the_page_tells_what_becomes_of_a_file(label, base, tmp_path):
    step = STEP if label.startswith("tool-") and any(kind in label for kind in WHOLE) else 1
    keys = outcomes.every(LISTS[label], step)
    found = outcomes.read_label(label, keys, tmp_path, base)
    if step == 1:
        assert [cell.strip() for cell in found.row().strip("|").split("|")] == told(label)
    else:
        _, layers, used, _, remark = told(label)
        assert remark == found.remark and (used == layers) == (found.used == found.layers)


def test_the_page_has_no_other_rows():
    text = outcomes.PAGE.read_text(encoding="utf-8")
    table = text[text.index(outcomes.BEGIN) : text.index(outcomes.END)]
    assert len(re.findall(r"^\| (?:published|tool|list)-", table, re.M)) == len(LISTS)
