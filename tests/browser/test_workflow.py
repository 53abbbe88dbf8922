"""The harness in the real front end, and that it knows our nodes."""

from mos_tests.browser.front_end import LOAD_API, run_workflow, wait_for_picture

STOCK = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 48, "height": 32, "batch_size": 1, "color": 255}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def test_a_stock_workflow_shows_its_picture(page):
    """Proves the harness itself, with no node of ours."""
    page.evaluate(LOAD_API, STOCK)
    run_workflow(page)
    assert wait_for_picture(page, "PreviewImage", 60) == [{"width": 48, "height": 32}]


def test_our_nodes_are_registered(page):
    names = page.evaluate("() => Object.keys(window.LiteGraph.registered_node_types)")
    assert "MixOfShowPlace" in names and "MixOfShowTrain" in names
