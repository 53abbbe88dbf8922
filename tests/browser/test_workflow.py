"""Workflows in the real front end: they load without a missing node, run, and show their picture."""

import json
from pathlib import Path

from mos_tests.browser.front_end import LOAD, LOAD_API, missing_types, run_workflow, set_widget, wait_for_picture

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "example_workflows" / "01_train_fuse_place.json"
STOCK = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 48, "height": 32, "batch_size": 1, "color": 255}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def test_a_stock_workflow_shows_its_picture(page):
    """Proves the harness itself, with no node of ours."""
    page.evaluate(LOAD_API, STOCK)
    run_workflow(page)
    assert wait_for_picture(page, "PreviewImage", 60) == [{"width": 48, "height": 32}]


def test_our_nodes_are_registered(page):
    names = page.evaluate("() => Object.keys(window.LiteGraph.registered_node_types)")
    assert "MixOfShowPlace" in names and "MixOfShowTrain" in names


def test_workflow_01_runs_and_shows_its_picture(page, tmp_path):
    """The shipped file itself, with a few training steps in place of its few hundred: quality is the demo's subject."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    page.evaluate(LOAD, workflow)
    assert missing_types(page) == []
    for node_type, widget, value in (
        ("MixOfShowTrain", "steps", 4), ("MixOfShowFuse", "calibration", "quick"), ("EmptyLatentImage", "batch_size", 1)
    ):  # fmt: skip
        assert set_widget(page, node_type, widget, value) > 0, f"{node_type}.{widget} is gone from the workflow"
    run_workflow(page)
    try:
        sizes = wait_for_picture(page, "SaveImage", 400)
    finally:
        page.screenshot(path=str(tmp_path / "workflow.png"))
    assert sizes == [{"width": 128, "height": 64}]
    assert not page.problems, page.problems
