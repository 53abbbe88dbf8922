"""The training workflows run through a real server: the graphs as shipped, with a step or two in place of many."""

import pytest
from mos_tests.host.test_place import picture
from mos_world.graphs import build_workflow, to_api
from mos_world.training_workflows import WORKFLOWS
from safetensors import safe_open


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_runs(server, name):
    info = server.object_info()
    graph = to_api(build_workflow(WORKFLOWS[name](), info), info)
    for node in graph.values():
        if node["class_type"] == "MixOfShowTrain":
            node["inputs"] |= {"steps": 2, "save_as": f"workflow_{node['inputs']['save_as']}"}
        if node["class_type"] == "MixOfShowTrainSettings":
            node["inputs"]["prior_pictures"] = 1
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 1
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"]["batch_size"] = 1
    outputs = server.run(graph)
    saved = [key for key, node in graph.items() if node["class_type"] == "SaveImage"]
    assert len(saved) == 2 and all(picture(server, outputs, key).size == (64, 64) for key in saved)
    path = next(outputs[key]["text"][0] for key, node in graph.items() if node["class_type"] == "PreviewAny")
    with safe_open(path, framework="pt") as file:
        keys, metadata = set(file.keys()), file.metadata()["mixofshow"]
    assert any(key.endswith(".diff") for key in keys) == name.startswith("11")
    assert metadata.count('"class_word"') + metadata.count('"class":') == (2 if name.startswith("12") else 1)
    assert ('"loss_mask":"object"' in metadata.replace(" ", "")) == name.startswith("09")
