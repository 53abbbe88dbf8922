"""What our nodes say beside their results, in the real front end: a line while they work, words after a cancel, and
what goes wrong while their conditioning is sampled."""

import json

from mos_tests.browser.editor import RENDERERS
from mos_tests.browser.front_end import empty_queue, run_workflow, wait_for_run
from mos_tests.host.training.test_train_nodes import graph as train_graph

WORDS = """([type, name]) => (window.app.rootGraph ?? window.app.graph).nodes.find(node => node.type === type).widgets
    ?.find(widget => widget.name === name)?.value ?? ''"""
EDITOR = json.dumps(
    {
        "version": 1,
        "regions": [
            {"id": "left", "shape": {"type": "rect", "x": 0, "y": 0, "width": 0.5, "height": 1}, "prompt": "a dog"},
        ],
    }
)
PLACING = {
    "1": {"class_type": "MosTestTinyBase", "inputs": {"family": "sd15", "seed": 0, "native_size": 0}},
    "2": {
        "class_type": "MixOfShowPlace",
        "inputs": {"model": ["1", 0], "clip": ["1", 1], "prompt": "a cat", "negative": "", "regions": ["8", 0]},
    },
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 192, "batch_size": 1}},
    "5": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["2", 0],
            "positive": ["2", 1],
            "negative": ["2", 2],
            "latent_image": ["4", 0],
            "seed": 1,
            "steps": 2,
            "cfg": 4.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        },
    },
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
    "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
    "8": {"class_type": "MixOfShowRegions", "inputs": {"editor": EDITOR, "width": 128, "height": 64}},
}
RESULT, LINE = "mixofshow_result", "$$node-text-preview"


def load(desk, graph: dict) -> None:
    desk.run_js("async (graph) => { await window.app.loadApiJson(graph, 'test') }", json.loads(json.dumps(graph)))


def wait_for_words(desk, kind: str, name: str, part: str, seconds: float) -> str:
    desk.page.wait_for_function(
        f"([type, name, part]) => ({WORDS})([type, name]).includes(part)",
        arg=[kind, name, part],
        timeout=seconds * 1000,
        polling=50,
    )
    return desk.run_js(WORDS, [kind, name])


def test_a_cancelled_training_keeps_on_its_node_what_was_saved(desk, server):
    """An interrupted node returns nothing, so these words come by themselves; the line of progress goes."""
    keep = ("base", "data", "settings", "train")
    name = f"cancelled {desk.renderer}"
    nodes = {key: node for key, node in train_graph(steps=9000, save_as=name).items() if key in keep}
    nodes["data"]["inputs"] |= {"folder": "demo:mara", "name": "mara"}
    numbers = {key: str(number) for number, key in enumerate(nodes, 1)}
    graph = json.loads(json.dumps({numbers[key]: node for key, node in nodes.items()}))
    for node in graph.values():
        for value in node["inputs"].values():
            if isinstance(value, list):
                value[0] = numbers[value[0]]
    load(desk, graph)
    empty_queue(server)
    run_workflow(desk.page)
    line = wait_for_words(desk, "MixOfShowTrain", LINE, "step ", 120)
    assert " of 9000, loss " in line
    server.interrupt()
    text = wait_for_words(desk, "MixOfShowTrain", RESULT, "Stopped at step", 60)
    assert f"{name}-step" in text and "queue the same settings again" in text
    desk.page.wait_for_timeout(1500)  # the front end has heard of the end of the run
    assert desk.run_js(WORDS, ["MixOfShowTrain", LINE]) == ""
    assert desk.run_js(WORDS, ["MixOfShowTrain", RESULT]) == text


def test_what_goes_wrong_while_sampling_stays_on_place_and_is_said_once(desk, server):
    graph = json.loads(json.dumps(PLACING))
    graph["1"]["inputs"]["seed"] = RENDERERS.index(desk.renderer)  # nothing that the other renderer's run left
    # The front end would draw a new seed for the base after every run; so the second takes Place from the host's cache.
    still = """() => window.app.graph.nodes.flatMap(node => node.widgets ?? [])
        .filter(widget => widget.name === 'control_after_generate').forEach(widget => { widget.value = 'fixed' })"""
    for seed in (1, 2):
        graph["5"]["inputs"]["seed"] = seed + 10 * RENDERERS.index(desk.renderer)
        if seed == 1:
            load(desk, graph)
            desk.run_js(still)
        else:
            desk.run_js(
                """(seed) => { window.app.graph.nodes.find(node => node.type === 'KSampler').widgets
                .find(widget => widget.name === 'seed').value = seed }""",
                graph["5"]["inputs"]["seed"],
            )
        empty_queue(server)
        before = set(server.get("/history?max_items=64"))
        run_workflow_again(desk.page)
        wait_for_run(server, before, 60)
        text = wait_for_words(desk, "MixOfShowPlace", RESULT, "WARNING: The latent is 8 x 24", 20)
        desk.page.wait_for_timeout(500)
        assert text.count("The latent is") == 1 and "plain text" in text
    desk.run_js(
        """() => { const size = window.app.graph.nodes.find(node => node.type === 'EmptyLatentImage').widgets;
        for (const [name, value] of [['width', 128], ['height', 64]]) size.find(w => w.name === name).value = value }"""
    )
    before = set(server.get("/history?max_items=64"))
    run_workflow_again(desk.page)
    wait_for_run(server, before, 60)
    desk.page.wait_for_timeout(1000)
    assert "The latent is" not in desk.run_js(WORDS, ["MixOfShowPlace", RESULT])  # no longer true, no longer there
    assert not desk.problems, desk.problems


def run_workflow_again(page) -> None:
    page.evaluate("async () => { await window.app.extensionManager.command.execute('Comfy.QueuePrompt') }")


TOASTS = """() => [...document.querySelectorAll('.p-toast-message, [class*=pointer-events-auto]')]
    .map(toast => toast.innerText).filter(text => text.includes('nobody.safetensors') && text.includes('not found'))"""


def test_what_is_refused_before_a_run_is_read_in_a_toast_too(desk, server):
    """Two files that are not there: the host's validation answers with no event, only to the request."""
    rows = [{"file": "nobody.safetensors"}, {"file": "nobody.safetensors", "on": False}]
    cast = {"class_type": "MixOfShowCast", "inputs": {"cast": json.dumps({"version": 1, "rows": rows})}}
    load(desk, {"1": cast, "2": {"class_type": "MixOfShowInspect", "inputs": {"concepts": ["1", 0]}}})
    empty_queue(server)
    run_workflow(desk.page)
    desk.page.wait_for_function(f"() => ({TOASTS})().length", timeout=30_000)
    (said,) = desk.run_js(TOASTS)
    assert said.strip().startswith("Mix-of-Show Cast") and "row 1:" in said and "row 2" not in said
    desk.run_js("""() => { document.querySelectorAll('.p-dialog-close-button').forEach(button => button.click());
        window.app.extensionManager.toast.removeAll?.() }""")
    desk.problems.clear()  # the host's answer 400 is logged
