"""Other programs' prompt syntax is named, ordinary words are not."""

import pytest
from mos_pack.mixofshow_core.regional.syntax import note_foreign_syntax


@pytest.mark.parametrize("piece", ["<lora:alice:0.8>", "BREAK", "AND", "MASK(0 0.5)", "<lyco:x>"])
def test_foreign_syntax_is_named_with_its_place(piece):
    (note,) = note_foreign_syntax([("prompt", "a cat"), ("prompt of region 'left'", f"mara {piece} smiling")])
    assert repr(piece) in note and "region 'left'" in note
    assert "Cast" in note or "instead" in note or "comma" in note or "parts" in note


def test_ordinary_text_is_not():
    text = "mara and finn, (breakfast:1.2), a mask (white), <mara-1> embedding:people, Andes, breaking"
    assert note_foreign_syntax([("prompt", text)]) == []
