"""The fusing workflows run through a real server: the graphs as shipped, with few steps, tiny files and a tiny base."""

import pytest
from mos_tests.host.formats.test_load_concept import file_of
from mos_tests.host.nodes.listening import listening
from mos_tests.host.nodes.test_words_on_nodes import assert_every_node_speaks
from mos_world.workflows.fusing import WORKFLOWS
from mos_world.workflows.graphs import build_workflow, to_api
from safetensors.torch import save_file


@pytest.fixture
def files(server, tiny_sd15):
    """One LoRA per Load Concept of the community workflow; title -> its name in the file widget."""
    folder = server.base / "models" / "loras"
    made = {}
    for n, (name, dialect) in enumerate(
        {"anna": "kohya", "ben": "peft", "ink": "loha", "slider": "kohya", "few_steps": "lokr"}.items()
    ):
        tensors = {key: value * (1 + 0.1 * n) for key, value in file_of(dialect, tiny_sd15, "sd15").items()}
        save_file(tensors, folder / f"wf_{name}.safetensors")
        made[name] = f"wf_{name}.safetensors"
    return made


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_runs(server, files, name):
    info = server.object_info()
    steps = WORKFLOWS[name]()
    graph = to_api(build_workflow(steps, info), info)
    titles = iter(step.title for step in steps.values() if step.type == "MixOfShowLoadConcept")
    for node in graph.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "MixOfShowTrain":
            inputs |= {"steps": 1, "save_as": f"workflow_{inputs['save_as']}"}
        if kind == "MixOfShowFuse":
            inputs["calibration"] = "quick"
        if kind == "MixOfShowLoadConcept":
            inputs["file"] = files[next(titles)]
        if kind == "CheckpointLoaderSimple":
            node.update(class_type="MosTestTinyBase", inputs={"family": "sd15", "seed": 0})
        if kind == "EmptyLatentImage":
            inputs |= {"width": 64, "height": 64}
        if kind == "KSampler":
            inputs["steps"] = 1
    with listening(server) as heard:
        outputs = server.run(graph)
    assert_every_node_speaks(graph, outputs, heard)
    texts = [str(outputs[key]["text"]) for key, node in graph.items() if node["class_type"] == "MixOfShowFuse"]
    assert texts and all("Layers: " in text and "Size auto" in text for text in texts)
    if "community" in name:
        assert "add-ons, added as they are" in texts[0] and "(style 0.8)" in texts[0]
    else:
        assert "of 2 concepts" in texts[0] and "of 3 concepts" in texts[1]
