"""The shipped workflows are what world/workflows says."""

import json

import pytest
from mos_tests.host.runtime import ROOT
from mos_world.workflows.graphs import build_workflow
from mos_world.workflows.write import WORKFLOWS


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_file_is_what_the_recipe_builds(server, name):
    shipped = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    wanted = build_workflow(WORKFLOWS[name](), server.object_info())
    for ours, theirs in zip(wanted["nodes"], shipped["nodes"], strict=True):
        if "outputs" in theirs:  # newer hosts let SaveImage and PreviewAny hand on what they show
            ours["outputs"] = ours["outputs"][: len(theirs["outputs"])]
    assert shipped == wanted, "run `python -m world.workflows.write` to write the workflows anew"


def test_no_file_without_a_recipe():
    assert {path.stem for path in (ROOT / "example_workflows").glob("*.json")} == set(WORKFLOWS)
