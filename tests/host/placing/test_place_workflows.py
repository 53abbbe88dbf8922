"""The placing workflows run through a real server: the graphs as shipped, with a step or two in place of many."""

import pytest
from mos_tests.host.nodes.listening import listening
from mos_tests.host.nodes.test_words_on_nodes import assert_every_node_speaks
from mos_tests.host.placing.test_place import picture
from mos_world.workflows.graphs import build_workflow, to_api
from mos_world.workflows.placing import WORKFLOWS


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_runs(server, name):
    info = server.object_info()
    graph = to_api(build_workflow(WORKFLOWS[name](), info), info)
    for node in graph.values():
        if node["class_type"] == "MixOfShowTrain":
            node["inputs"] |= {"steps": 1, "save_as": f"workflow_{node['inputs']['save_as']}"}
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 2
    with listening(server) as heard:
        outputs = server.run(graph)
    assert_every_node_speaks(graph, outputs, heard)
    saved = next(key for key, node in graph.items() if node["class_type"] == "SaveImage")
    regions = next(node["inputs"] for node in graph.values() if node["class_type"] == "MixOfShowRegions")
    assert picture(server, outputs, saved).size == (regions["width"], regions["height"])
    coverage = next(key for key, node in graph.items() if node["class_type"] == "MixOfShowCoverage")
    assert "mara" in outputs[coverage]["text"][0] and len(outputs[coverage]["images"]) >= 2
