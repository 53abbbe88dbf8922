"""Words on a stock sampler: shown where something is lost; the front end takes them away when the next run has none."""

from mos_tests.browser.front_end import LOAD_API, empty_queue, wait_for_run
from mos_tests.host.pack.test_server import sampling_graph

REGIONS = """{"version": 1, "regions": [{"id": "a", "prompt": "a dog",
    "shape": {"type": "rect", "x": 0, "y": 0, "width": 0.5, "height": 1}}]}"""
SAID = """() => window.app.graph.nodes.find(node => node.type === 'KSampler').widgets
    .find(widget => widget.name === '$$node-text-preview')?.value ?? ''"""


MEND = """() => { const by = type => window.app.graph.nodes.find(node => node.type === type);
    by('MixOfShowPlace').connect(0, by('KSampler'), 0); }"""
RUN = "async () => { await window.app.extensionManager.command.execute('Comfy.QueuePrompt') }"


def test_a_sampler_says_what_is_lost_until_it_is_mended(mouse, server):
    empty_queue(server)
    graph = sampling_graph()
    del graph["3"]
    inputs = {"editor": REGIONS, "width": 128, "height": 64}
    graph["8"] = {"class_type": "MixOfShowRegions", "inputs": inputs}
    inputs = {"model": ["1", 0], "clip": ["1", 1], "prompt": "a cat", "negative": "", "regions": ["8", 0]}
    graph["2"] = {"class_type": "MixOfShowPlace", "inputs": inputs}
    seed = 7 if mouse.renderer == "classic" else 8  # each renderer its own run
    graph["5"]["inputs"] |= {"model": ["1", 0], "positive": ["2", 1], "negative": ["2", 2], "seed": seed}
    mouse.run_js(LOAD_API, graph)
    for said in (True, False):
        before = set(server.get("/history?max_items=64"))
        mouse.run_js(RUN)
        wait_for_run(server, before, 120)
        mouse.page.wait_for_timeout(1000)
        text = mouse.run_js(SAID)
        assert ("Wire Place's model output" in text) == said, text
        mouse.run_js(MEND)
    assert not mouse.problems, mouse.problems
