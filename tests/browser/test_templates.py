"""The shipped workflows in the real front end: what it would queue is what the file says, in both renderers."""

import json

import pytest
from mos_tests.browser.editor import RENDERERS, open_editor
from mos_tests.browser.front_end import LOAD, empty_queue, run_workflow, wait_for_run
from mos_tests.host.runtime import ROOT
from mos_world.workflows.graphs import input_specs, is_widget, to_api

FILES = sorted((ROOT / "example_workflows").glob("*.json"))
QUEUED = "async () => (await window.app.graphToPrompt()).output"
ORDER = """(type) => { const node = window.LiteGraph.createNode(type);
    return (node.widgets ?? []).filter(widget => widget.serialize !== false).map(widget => widget.name) }"""
# Where the front end once put the seed's control value, and the two nodes that had it.
CONTROLLED = {"MixOfShowFusionSettings": 18, "MixOfShowCompare": 5}


@pytest.fixture(scope="module", params=RENDERERS)
def desk(request, browser, server):
    yield from open_editor(browser, server, request.param)


@pytest.fixture(scope="module")
def object_info(server):
    return server.object_info()


def queued(desk, workflow: dict) -> dict:
    """{node: inputs} as the Run button would send them."""
    desk.run_js(LOAD, workflow)
    stock = {"PreviewAny": {"preview"}}  # what the front end adds to a node that is not ours
    return {
        key: {name: value for name, value in node["inputs"].items() if name not in stock.get(node["class_type"], ())}
        for key, node in desk.run_js(QUEUED).items()
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_queued_is_what_the_file_says(desk, object_info, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    wanted = {key: node["inputs"] for key, node in to_api(workflow, object_info).items()}
    assert queued(desk, workflow) == wanted


@pytest.mark.parametrize("name", ["04_fuse_three_add_one", "13_compare_and_score"])
def test_a_workflow_saved_with_the_seeds_control_value_loads_the_same(desk, object_info, name):
    workflow = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    wanted = {key: node["inputs"] for key, node in to_api(workflow, object_info).items()}
    touched = [node for node in workflow["nodes"] if node["type"] in CONTROLLED]
    assert touched
    for node in touched:
        node["widgets_values"].insert(CONTROLLED[node["type"]], "randomize")
    assert queued(desk, workflow) == wanted


def test_our_nodes_have_the_widgets_that_the_server_names_and_no_other(desk, object_info):
    """A widget that the front end adds by itself shifts every value behind it in files that were made without it."""
    for name, info in object_info.items():
        if not name.startswith("MixOfShow") or name == "MixOfShowRegions":  # drawn by our editor
            continue
        wanted = [key for key, spec in input_specs(info).items() if is_widget(*spec)]
        assert desk.run_js(ORDER, name) == wanted, name


def test_numbers_that_stand_for_the_preset_say_so_on_the_node(desk):
    label = """([type, name]) => { const node = window.LiteGraph.createNode(type);
        return node.widgets.find(widget => widget.name === name).label }"""
    assert desk.run_js(label, ["MixOfShowTrainSettings", "min_snr"]) == "min_snr (-1: preset)"
    assert desk.run_js(label, ["MixOfShowTrainSettings", "flip"]) in ("flip", None)


def test_a_node_shows_its_own_words_after_a_run_and_saves_none_of_them(desk, server, concepts):
    strength = 0.5 if desk.renderer == "classic" else 0.6  # nothing is taken from the host's cache
    inputs = {"file": "mixofshow/known_mara.safetensors", "strength": strength}
    graph = {
        "1": {"class_type": "MixOfShowLoadConcept", "inputs": inputs},
        "2": {"class_type": "MixOfShowInspect", "inputs": {"concepts": ["1", 0]}},
    }
    desk.run_js("async (graph) => { await window.app.loadApiJson(graph, 'test') }", graph)
    empty_queue(server)
    before = set(server.get("/history?max_items=64"))
    run_workflow(desk.page)
    _, outputs = wait_for_run(server, before, 60)
    shown = """(type) => window.app.graph.nodes.find(node => node.type === type).widgets
        ?.find(widget => widget.name === 'mixofshow_result')?.value ?? ''"""
    for key, name in (("1", "MixOfShowLoadConcept"), ("2", "MixOfShowInspect")):
        desk.page.wait_for_function(f"(type) => ({shown})(type) !== ''", arg=name, timeout=10_000)
        assert desk.run_js(shown, name) == outputs[key]["text"][0] and "mara" in outputs[key]["text"][0]
    assert not any("result" in name for node in desk.run_js(QUEUED).values() for name in node["inputs"])
    saved = desk.run_js("() => JSON.stringify(window.app.graph.serialize().nodes.map(node => node.widgets_values))")
    assert outputs["2"]["text"][0].splitlines()[0] not in saved.replace("known_mara", "")
    assert not desk.problems, desk.problems
