"""The quick table: workflow 01's settings reach Compare, halves are scored with the right names, the page is whole."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("benchmarks", "world", "tests")


@pytest.fixture(scope="module")
def quick():
    """benchmarks/claims/quick.py is run from the repository's root and calls its neighbours by full name."""
    before = dict(sys.modules)
    for room in ROOMS:
        sys.modules[room] = ModuleType(room)
        sys.modules[room].__path__ = [str(ROOT / room)]
    yield importlib.import_module("benchmarks.claims.quick")
    for name in set(sys.modules) - set(before):
        if name.split(".")[0] in ROOMS:
            del sys.modules[name]
    sys.modules.update({room: before[room] for room in ROOMS if room in before})


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture
def workflow():
    return {
        "base": node("MixOfShowDemoModel", base="SD1.5 kind"),
        "data": node("MixOfShowDataset", name="mara"),
        "train": node("MixOfShowTrain", model=["base", 0], dataset=["data", 0], save_as="mara"),
        "fuse": node(
            "MixOfShowFuse",
            model=["base", 0],
            clip=["base", 1],
            concepts=["train", 0],
            method="exact",
            calibration="quick",
            save_as="",
        ),
        "regions": node("MixOfShowRegions", editor="{}", width=128, height=64),
        "place": node(
            "MixOfShowPlace",
            model=["fuse", 0],
            clip=["fuse", 1],
            prompt="mara and finn",
            negative="bad",
            regions=["regions", 0],
        ),
        "latent": node("EmptyLatentImage", width=128, height=64, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["place", 0],
            steps=17,
            cfg=2.5,
            sampler_name="euler",
            scheduler="karras",
            seed=9,
            denoise=1.0,
        ),
        "save": node("SaveImage", images=["sampler", 0], filename_prefix="x"),
    }


def test_workflow_settings_reach_compare(quick, workflow):
    graph = quick.comparison_graph(workflow, seed=3, count=5)
    kinds = [entry["class_type"] for entry in graph.values()]
    assert "MixOfShowFuse" not in kinds and "KSampler" not in kinds and kinds.count("MixOfShowCompare") == 2
    together, alone = (graph[f"{key}-compare"]["inputs"] for key in ("together", "alone"))
    wanted = {
        "steps": 17,
        "cfg": 2.5,
        "sampler_name": "euler",
        "scheduler": "karras",
        "seed": 3,
        "negative": "bad",
        "model": ["base", 0],
        "clip": ["base", 1],
        "vae": ["base", 2],
        "concepts": ["train", 0],
        "calibration": "quick",
    }
    assert wanted.items() <= together.items() and wanted.items() <= alone.items()
    assert together["regions"] == ["regions", 0] and "regions" not in alone
    assert together["prompts"] == "mara and finn" and "{name}" in alone["prompts"]
    assert graph["together-latent"]["inputs"] == {"width": 128, "height": 64, "batch_size": 5}
    assert graph["alone-latent"]["inputs"]["width"] == 64


def cell(column, kind, prompt, names, noise):
    return {"column": column, "kind": kind, "prompt": prompt, "names": names, "noise": noise}


def painted():
    found = []
    for noise in range(2):
        for n, name in enumerate(("mara", "finn")):
            found += [
                (cell(column, kind, f"a photo of {name}", [name], noise), np.full((64, 64, 3), 10 + n, np.uint8))
                for column, kind in (("base", "base"), (f"{name} alone", "one concept"))
            ]
        wide = np.concatenate([np.full((64, 64, 3), 10 + n, np.uint8) for n in range(2)], 1)
        found += [
            (cell(column, kind, "mara and finn", ["mara", "finn"], noise), wide)
            for column, kind in (("base", "base"), ("fused + regions", "with regions"))
        ]
    return found


def test_every_half_is_scored_against_who_should_be_there(quick):
    rows = quick.gather(painted())
    assert list(rows) == ["base, one person", "mara alone", "finn alone", "base", "fused + regions"]
    for title, (_, parts) in rows.items():
        assert sum(len(pictures) for pictures, _ in parts) == (2 if "alone" in title else 4)
        for pictures, name in parts:
            assert pictures.shape[1:] == (64, 64, 3) and (pictures == {"mara": 10, "finn": 11}[name]).all()


def test_the_page_has_its_command_its_figures_and_its_pictures(quick, tmp_path):
    rows = quick.gather(painted())
    figures = {
        "nearest": 0.75,
        "low": 0.5,
        "high": 1.0,
        "right": 0.25,
        "swapped": 0.1,
        "nobody": 0.2,
        "similarity": 0.61,
        "count": 4,
    }
    scores = {title: dict(figures) for title in rows}
    facts = {
        "command": "python dev.py bench --quick",
        "commit": "abc1234",
        "seed": 1,
        "pictures": 2,
        "machine": "2 CPU cores",
        "base": "f00d",
        "seconds": 90,
    }
    (tmp_path / "images").mkdir()
    quick.draw(painted(), scores, {title: kind for title, (kind, _) in rows.items()}, "facts", tmp_path / "images")
    quick.write_page(scores, {"chance": 1 / 12, "ceiling_concepts": 0.83}, facts, tmp_path)
    page = (tmp_path / "quick.md").read_text()
    for text in (
        "`python dev.py bench --quick` at abc1234",
        "| fused + regions | 75 % [50, 100] | 25 % | 10 % |",
        "missed",
        "1.5 minutes",
        "Chance is 8 %",
    ):
        assert text in page, text
    for name in ("quick.jpg", "quick-scores.png"):
        assert f"(images/{name})" in page and (tmp_path / "images" / name).stat().st_size > 1000
    assert json.loads((tmp_path / "quick.json").read_text())["scores"]["base"]["nearest"] == 0.75
