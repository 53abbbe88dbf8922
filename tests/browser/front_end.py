"""What the tests do to the front end: load a workflow, run it, look at a node's picture."""

LOAD = "async (workflow) => { await window.app.loadGraphData(workflow, true, true) }"
LOAD_API = "async (graph) => { await window.app.loadApiJson(graph, 'test') }"
PICTURES = """(type) => window.app.graph.nodes.filter(node => node.type === type)
    .flatMap(node => (node.imgs ?? []).map(image => ({width: image.naturalWidth, height: image.naturalHeight})))"""
MISSING = """() => window.app.graph.nodes
    .filter(node => !(node.type in window.LiteGraph.registered_node_types)
        && !['Note', 'MarkdownNote', 'Reroute', 'PrimitiveNode'].includes(node.type))
    .map(node => node.type)"""


def missing_types(page) -> list[str]:
    return page.evaluate(MISSING)


def run_workflow(page) -> None:
    """Queues what is loaded, through the front end's own command: the same one that the Run button calls."""
    page.evaluate("async () => { await window.app.extensionManager.command.execute('Comfy.QueuePrompt') }")


def wait_for_picture(page, node_type: str, seconds: float) -> list[dict]:
    """Sizes of the pictures that the nodes of this type show, once there is one."""
    page.wait_for_function(f"(type) => ({PICTURES})(type).some(size => size.width > 0)", arg=node_type,
                           timeout=seconds * 1000)  # fmt: skip
    return page.evaluate(PICTURES, node_type)
