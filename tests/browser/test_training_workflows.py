"""The training workflows as shipped, in the real front end: no missing node, they run, both rows and the file fit."""

import io
import json

import pytest
from mos_tests.browser.editor import RENDERERS, open_editor
from mos_tests.browser.front_end import (
    LOAD,
    LOOK_AT,
    empty_queue,
    missing_types,
    run_workflow,
    set_widget,
    wait_for_picture,
    wait_for_run,
)
from mos_tests.host.runtime import ROOT
from mos_world.workflows.training import WORKFLOWS
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


@pytest.fixture(scope="module", params=RENDERERS)
def desk(request, browser, server):
    yield from open_editor(browser, server, request.param)


def test_train_ends_with_its_labelled_sheet_and_not_with_the_last_live_preview(desk, server):
    """What the node shows is what it sent as its result, once; the live previews before it are gone."""
    desk.run_js(LOAD, json.loads((ROOT / "example_workflows" / "10_style.json").read_text(encoding="utf-8")))
    steps = 25 if desk.renderer == "classic" else 26  # the first live preview comes at 25; each renderer its own run
    set_widget(desk.page, "MixOfShowTrain", "steps", steps)
    set_widget(desk.page, "MixOfShowTrain", "save_as", f"sheet {desk.renderer}")
    set_widget(desk.page, "KSampler", "steps", 1)
    empty_queue(server)
    before = set(server.get("/history?max_items=64"))
    run_workflow(desk.page)
    graph, outputs = wait_for_run(server, before, 300)
    key = next(key for key, node in graph.items() if node["class_type"] == "MixOfShowTrain")
    sheet = Image.open(io.BytesIO(server.image(outputs[key]["images"][0])))
    assert sheet.width == 3 * 64 and sheet.height > 64  # three strengths under their labels
    assert f"{steps} steps" in outputs[key]["text"][0] and "saved: " in outputs[key]["text"][0]
    desk.page.evaluate(LOOK_AT, "MixOfShowTrain")
    pictures = {
        "classic": "(window.app.graph.getNodeById(Number(key)).imgs ?? [])",
        "nodes2": "[...document.querySelectorAll(`[data-node-id='${key}'] img`)]",
    }[desk.renderer]
    drawn = f"(key) => {pictures}.map(image => image.naturalWidth / image.naturalHeight)"
    desk.page.wait_for_function(f"(key) => ({drawn})(key).some(shape => shape > 0)", arg=key, timeout=10_000)
    desk.page.wait_for_timeout(500)
    shapes = desk.run_js(drawn, key)  # Nodes 2.0 keeps the last live picture beside the result: both are the sheet
    assert shapes and all(abs(shape - sheet.width / sheet.height) < 0.03 for shape in shapes)
    assert not desk.problems, desk.problems
