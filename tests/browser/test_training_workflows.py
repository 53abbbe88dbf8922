"""The training workflows as shipped, in the real front end: no missing node, they run, and both rows are shown."""

import json

import pytest
from mos_tests.browser.front_end import LOAD, missing_types, run_workflow, set_widget, wait_for_picture
from mos_tests.host.runtime import ROOT
from mos_world.training_workflows import WORKFLOWS


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_runs_and_shows_its_pictures(page, name):
    """A few steps in place of a few hundred; every other widget as it ships."""
    page.evaluate(LOAD, json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8")))
    assert missing_types(page) == []
    changes = [("MixOfShowTrain", "steps", 2), ("EmptyLatentImage", "batch_size", 1), ("KSampler", "steps", 2)]
    if name.startswith("11"):
        changes.append(("MixOfShowTrainSettings", "prior_pictures", 1))
    for node_type, widget, value in changes:
        assert set_widget(page, node_type, widget, value) > 0, f"{node_type}.{widget} is gone from the workflow"
    run_workflow(page)
    assert wait_for_picture(page, "SaveImage", 300)[0] == {"width": 64, "height": 64}
    assert not page.problems, page.problems
