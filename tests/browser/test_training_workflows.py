"""The training workflows as shipped, in the real front end: no missing node, they run, both rows and the file fit."""

import io
import json

import pytest
from mos_tests.browser.front_end import LOAD, missing_types, run_workflow, set_widget, wait_for_picture, wait_for_run
from mos_tests.host.runtime import ROOT
from mos_world.training_workflows import WORKFLOWS
from PIL import Image
from safetensors import safe_open


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_runs_and_shows_its_pictures(page, server, name):
    """A few steps in place of a few hundred; every other widget as it ships."""
    page.evaluate(LOAD, json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8")))
    assert missing_types(page) == []
    changes = [("MixOfShowTrain", "steps", 2), ("EmptyLatentImage", "batch_size", 1), ("KSampler", "steps", 2)]
    if name.startswith("11"):
        changes.append(("MixOfShowTrainSettings", "prior_pictures", 1))
    for node_type, widget, value in changes:
        assert set_widget(page, node_type, widget, value) > 0, f"{node_type}.{widget} is gone from the workflow"
    before = set(server.get("/history?max_items=64"))
    run_workflow(page)
    assert wait_for_picture(page, "SaveImage", 300)[0] == {"width": 64, "height": 64}
    assert not page.problems, page.problems
    graph, outputs = wait_for_run(server, before, 60)
    saved = [key for key, node in graph.items() if node["class_type"] == "SaveImage"]
    files = [Image.open(io.BytesIO(server.image(outputs[key]["images"][0]))) for key in saved]
    assert [file.size for file in files] == [(64, 64)] * 2
    path = next(outputs[key]["text"][0] for key, node in graph.items() if node["class_type"] == "PreviewAny")
    with safe_open(path, framework="pt") as file:
        keys, metadata = set(file.keys()), file.metadata()["mixofshow"]
    assert any(key.endswith(".diff") for key in keys) == name.startswith("11")
    assert metadata.count('"class_word"') + metadata.count('"class":') == (2 if name.startswith("12") else 1)
    assert ('"loss_mask":"object"' in metadata.replace(" ", "")) == name.startswith("09")
