"""docs/regions.schema.json says the same as the strict parser: fields, limits, choices."""

import json
from dataclasses import fields
from pathlib import Path

from mos_pack.mixofshow_core.regional import schema as code

SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "docs" / "regions.schema.json").read_text(encoding="utf-8"))


def names(kind: type) -> set[str]:
    return {entry.name for entry in fields(kind)}


def test_the_fields_are_the_same():
    region = SCHEMA["$defs"]["region"]["properties"]
    assert set(SCHEMA["properties"]) == names(code.RegionSet) | {"version"}
    assert set(SCHEMA["properties"]["background"]["properties"]) == names(code.Background)
    assert set(region) == names(code.Region)


def test_the_shapes_are_the_same():
    found = {}
    for entry in SCHEMA["$defs"]["shape"]["oneOf"]:
        kind = entry["properties"]["type"]
        for name in kind.get("enum", [kind.get("const")]):
            found[name] = set(entry["properties"]) - {"type"}
    assert found == {name: names(kind) for name, kind in code.SHAPES.items()}


def test_the_limits_are_the_same():
    top, region = SCHEMA["properties"], SCHEMA["$defs"]["region"]["properties"]
    assert top["version"]["const"] == code.VERSION
    assert (top["width"]["minimum"], top["height"]["maximum"]) == (code.MIN_SIDE, code.MAX_SIDE)
    assert top["regions"]["maxItems"] == code.MAX_REGIONS
    assert (region["prompt"]["maxLength"], region["name"]["maxLength"]) == (code.MAX_TEXT, code.MAX_NAME)
    assert (tuple(top["overlap"]["enum"]), tuple(top["edges"]["enum"])) == (code.OVERLAPS, code.EDGES)
    assert region["id"]["pattern"] == f"^{code.IDENTIFIER.pattern}$"
