"""Training in the real front end: what the node shows at its end."""

import io
import json

from mos_tests.browser.front_end import LOAD, LOOK_AT, empty_queue, run_workflow, set_widget, wait_for_run
from mos_tests.host.runtime import ROOT
from PIL import Image


def test_train_ends_with_its_labelled_sheet_and_not_with_the_last_live_preview(desk, server):
    """What the node shows is what it sent as its result, once; the live previews before it are gone."""
    template = ROOT / "example_workflows" / "09_object_with_masks.json"  # the first with Train Settings
    desk.run_js(LOAD, json.loads(template.read_text(encoding="utf-8")))
    steps = 4 if desk.renderer == "classic" else 5  # each renderer its own run
    set_widget(desk.page, "MixOfShowTrain", "steps", steps)
    assert set_widget(desk.page, "MixOfShowTrainSettings", "preview_every", 2) == 1
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
    wanted = f"shape => Math.abs(shape - {sheet.width / sheet.height}) < 0.03"
    # Nodes 2.0 keeps the last live picture beside the result: both are the sheet once the page has had time to load it.
    all_are = f"(key) => {{ const shapes = ({drawn})(key); return shapes.length && shapes.every({wanted}) }}"
    try:
        desk.page.wait_for_function(all_are, arg=key, timeout=20_000)
    except Exception as error:
        raise AssertionError(f"{desk.run_js(drawn, key)} for {sheet.size}") from error
    assert not desk.problems, desk.problems
