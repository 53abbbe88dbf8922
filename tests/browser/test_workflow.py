"""The harness in the real front end, and that it knows our nodes."""

from mos_tests.browser.front_end import LOAD_API, empty_queue, run_workflow
from mos_tests.browser.templates import shown_pictures


def test_a_stock_workflow_shows_its_picture(desk, server):
    """Proves the harness itself, with no node of ours."""
    width = 48 if desk.renderer == "classic" else 40  # nothing is taken from the host's cache
    image = {"width": width, "height": 32, "batch_size": 1, "color": 255}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    empty_queue(server)
    desk.run_js(LOAD_API, graph)
    run_workflow(desk.page)
    assert shown_pictures(desk, "2") == [(width, 32)]


def test_our_nodes_are_registered(desk):
    names = desk.run_js("() => Object.keys(window.LiteGraph.registered_node_types)")
    assert "MixOfShowPlace" in names and "MixOfShowTrain" in names
