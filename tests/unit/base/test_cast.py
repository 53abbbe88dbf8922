"""The cast's JSON, and what the files beside a LoRA say: both come from outside, none may do harm."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from mos_pack.mixofshow_core.cast import EMPTY, MAX_ROWS, CastRow, parse_cast
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.side_files import plain, side_facts
from mos_pack.mixofshow_core.names import name_of_file

SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "docs" / "cast.schema.json").read_text(encoding="utf-8"))


def cast(*rows, **top):
    return json.dumps({"version": 1, "rows": list(rows), **top})


def test_rows_are_read_with_their_defaults():
    rows = (CastRow("a.safetensors"), CastRow("b.safetensors", False, "bo", "bo man", 0.5, 0.0, "style"))
    assert parse_cast(cast({"file": "a.safetensors"}, asdict(rows[1]))) == rows
    assert parse_cast(EMPTY) == parse_cast("") == ()


def test_the_schema_names_the_fields_of_a_row():
    assert set(SCHEMA["$defs"]["row"]["properties"]) == set(CastRow.__dataclass_fields__)
    assert SCHEMA["properties"]["rows"]["maxItems"] == MAX_ROWS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", '"version": 1'),
        (cast(extra=1), "nothing else"),
        (cast(5), "Row 1.*object"),
        (cast({"file": "a", "on": 1}), "Row 1.*on must be true"),
        (cast({"file": 3}), "Row 1.*file must be a text"),
        (cast({"file": "a"}, {"file": "b", "strength": "x"}), "Row 2.*strength must be a number"),
        (cast({"file": "a", "text_strength": 99}), "text_strength must be a number from -10 to 10"),
        (cast({"file": "a", "role": "hero"}), "use one of auto, concept"),
        (cast({"filee": "a"}), "unknown fields: filee"),
        (cast({"name": "x"}), "Row 1 of the cast has no file"),
        (cast(*[{"file": "a"}] * 500), "500 rows; at most 64"),
        ('{"version": 1, "rows": [' + "[" * 5000 + "]" * 5000 + "]}", "no JSON|object"),
        (" " * 300_000, "characters"),
    ],
)
def test_bad_casts_name_the_row_and_the_field(text, words):
    with pytest.raises(MixOfShowError, match=words):
        parse_cast(text)


def test_a_row_that_is_off_may_have_no_file():
    assert parse_cast(cast({"on": False})) == (CastRow("", False),)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("alice", "alice"),
        ("Alice (v2.1) [xl]", "Alice_v2_1_xl"),
        ("123-girl", "lora_123-girl"),
        ("???", "lora"),
        ("ren\u00e9e", "ren\u00e9e"),
        ("\u7f8e\u54b2 v2", "\u7f8e\u54b2_v2"),
        ("x" * 90, "x" * 64),
        ("-a-", "a"),
    ],
)
def test_a_file_name_becomes_a_legal_name(stem, name):
    assert name_of_file(stem) == name


@pytest.fixture
def lora(tmp_path):
    path = tmp_path / "alice v1.safetensors"
    path.write_bytes(b"")
    return path


def beside(lora, suffix, content):
    lora.with_name(lora.stem + suffix).write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )


def test_the_first_place_that_names_a_trigger_wins(lora):
    header = {"modelspec.trigger_phrase": "from header"}
    assert side_facts(lora, {}).trigger == ""
    assert (side_facts(lora, header).trigger, side_facts(lora, header).source) == ("from header", "header")
    for suffix, content, wanted in (
        (".txt", "from text\nmore", "from text"),
        (".json", {"activation text": "from a1111 <lora:alice:1>"}, "from a1111"),
        (".civitai.info", {"trainedWords": ["from civitai", "alice dress"]}, "from civitai"),
        (".metadata.json", {"civitai": {"trainedWords": ["from manager"]}}, "from manager"),
    ):
        beside(lora, suffix, content)
        facts = side_facts(lora, header)
        assert facts.trigger == wanted and facts.source == f"alice v1{suffix}"
    assert "alice dress" in facts.suggestions and "from header" in facts.suggestions


def test_tags_only_suggest(lora):
    facts = side_facts(lora, {"ss_tag_frequency": json.dumps({"10_x": {"1girl": 3, "alice": 9}})})
    assert facts.trigger == "" and facts.suggestions == ("alice", "1girl")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "5",
        '{"trainedWords": 3}',
        '{"trainedWords": [{"a": 1}, null, ""]}',
        "[" * 100_000,
        '{"trainedWords": ["<script>alert(1)</script>"], "x": 1}',
        '{"trainedWords": ["' + "long " * 5000 + '"]}',
        '{"trainedWords": ["\\u0000\\u0007"]}',
    ],
)
def test_broken_and_hostile_side_files_are_no_error(lora, content):
    for suffix in (".metadata.json", ".civitai.info", ".json"):
        beside(lora, suffix, content)
    facts = side_facts(lora, {"ss_tag_frequency": content})
    assert "<" not in facts.trigger and len(facts.trigger) < 20


def test_a_huge_side_file_is_passed_over(lora):
    beside(lora, ".civitai.info", json.dumps({"trainedWords": ["alice"], "x": "y" * 2**21}))
    assert side_facts(lora, {}).trigger == ""


def test_pictures_beside_a_file_are_found(lora):
    assert side_facts(lora, {}).picture is None
    lora.with_name("alice v1.webp").write_bytes(b"x")
    lora.with_name("alice v1.preview.png").write_bytes(b"x")
    assert side_facts(lora, {}).picture.name == "alice v1.preview.png"


def test_plain_text_only():
    assert plain("<p>a&amp;b</p>\n c,") == "a&b c"
    assert plain(5) == plain("x" * 300) == ""
