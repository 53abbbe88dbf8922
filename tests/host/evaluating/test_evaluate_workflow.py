"""The workflow about looking and measuring runs through a real server as shipped, with a step in place of many."""

import json

from mos_tests.host.nodes.listening import listening
from mos_tests.host.nodes.test_words_on_nodes import assert_every_node_speaks
from mos_tests.host.placing.test_place import picture
from mos_tests.host.runtime import ROOT
from mos_world.workflows.evaluation import WORKFLOWS
from mos_world.workflows.graphs import build_workflow, to_api


def test_workflow_runs(server):
    info = server.object_info()
    (name, steps), *_ = WORKFLOWS.items()
    built = build_workflow(steps(), info)
    shipped = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    for ours, theirs in zip(built["nodes"], shipped["nodes"], strict=True):
        if "outputs" in theirs:  # newer hosts let SaveImage and PreviewAny hand on what they show
            ours["outputs"] = ours["outputs"][: len(theirs["outputs"])]
    assert shipped == built, "run `python -m world.workflows.write` to write the workflows anew"
    graph = to_api(built, info)
    for node in graph.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "MixOfShowTrain":
            inputs |= {"steps": 1, "save_as": f"score_{inputs['save_as']}"}
        if kind == "MixOfShowCompare":
            inputs |= {"steps": 1, "ways": inputs["ways"].replace("fused", "average")}  # no calibration here
        if kind == "EmptyLatentImage":
            inputs["batch_size"] = 1
    with listening(server) as heard:
        outputs = server.run(graph)
    assert_every_node_speaks(graph, outputs, heard)
    report = next(o["text"][0] for o in outputs.values() if "text" in o and "evaluator:" in o["text"][0])
    assert "recognises nobody" in report and "mara alone (2 pictures)" in report and "references: mara 8" in report
    for key, node in graph.items():
        if node["class_type"] == "SaveImage":
            assert picture(server, outputs, key).width > 600
