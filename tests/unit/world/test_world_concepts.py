"""The kept concept pictures are complete, and the recipes run in order, once."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
CONCEPTS = ROOT / "world" / "data" / "concepts"
COUNTS = {"character": 10, "object": 10, "scene": 3, "style": 3}
EXACT = ("character", "object", "scene")


def pictures(folder):
    return [path for path in sorted(folder.glob("*.png")) if not path.name.endswith(".mask.png")]


@pytest.mark.parametrize("kind", COUNTS)
def test_every_concept_has_its_pictures_captions_and_masks(kind):
    listed = json.loads((CONCEPTS / "concepts.json").read_text())[kind]
    folders = {folder.name: folder for folder in (CONCEPTS / kind).iterdir()}
    assert set(listed) == set(folders) and len(folders) == COUNTS[kind]
    for name, folder in folders.items():
        for part, count in (("train", 10), ("test", 12)):
            files = pictures(folder / part)
            assert len(files) == count
            for path in files:
                assert name in path.with_suffix(".txt").read_text()
                mask = path.with_suffix(".mask.png")
                assert mask.exists() == (kind in EXACT)
                if mask.exists():
                    assert Image.open(mask).size == Image.open(path).size
    others = ROOT / "world" / "data" / "identities" if kind == "character" else CONCEPTS / "lookalikes" / kind
    assert len({folder.name for folder in others.iterdir()} - set(folders)) >= 10


def test_the_pictures_stay_small():
    assert sum(path.stat().st_size for path in CONCEPTS.rglob("*") if path.is_file()) < 12e6


@pytest.fixture
def recipes(monkeypatch):
    spec = importlib.util.spec_from_file_location("mos_recipes", ROOT / "world" / "recipes.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mos_recipes", module)
    spec.loader.exec_module(module)
    return module


def test_recipes_skip_what_is_done_and_stop_at_a_failure(recipes, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "DONE", tmp_path / "done")
    fine, broken = recipes.Step("fine", "", "", ("this",)), recipes.Step("broken", "", "", ("no_such_module",))
    monkeypatch.setattr(recipes, "STEPS", (fine, broken))
    assert recipes.run_step(fine) and not recipes.run_step(broken)
    assert recipes.choose_steps([], False) == [broken]
    assert recipes.choose_steps([], True) == [fine, broken]
    assert recipes.choose_steps(["fine"], False) == [fine]
    monkeypatch.setattr(sys, "argv", ["recipes"])
    assert recipes.main() == 1
