"""The fields that the registry reads, as far as they can be checked without asking it."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture
def fields():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_registry_can_name_version_and_show_the_pack(fields):
    project, comfy = fields["project"], fields["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9_-]{0,99}", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["description"] and comfy["PublisherId"] and comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert (ROOT / project["license"]["file"]).is_file() and (ROOT / project["readme"]).is_file()
    assert {"S102", "S307", "E702"} <= set(fields["tool"]["ruff"]["lint"]["select"]), "the registry runs these rules"


def test_only_the_address_is_left_to_fill_in(fields):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "urls" in fields["project"] or "# The one thing to fill in" in text
    filled = tomllib.loads(text.replace("# [project.urls]", "[project.urls]").replace("# Repository", "Repository"))
    assert list(filled["project"]["urls"]) == ["Repository"], "what stands below the address becomes one"
    assert {"control", "cluster", "sign"} <= set(filled["project"]["optional-dependencies"])
    address = fields["project"].get("urls", {}).get("Repository", "https://")
    assert address.startswith("https://"), "the registry links to the address"
