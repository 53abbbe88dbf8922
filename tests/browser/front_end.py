"""What the tests do to the front end: load a workflow, run it, look at a node's picture."""

import time

LOAD = "async (workflow) => { await window.app.loadGraphData(workflow, true, true) }"
LOAD_API = "async (graph) => { await window.app.loadApiJson(graph, 'test') }"
PICTURES = """(type) => window.app.graph.nodes.filter(node => node.type === type)
    .flatMap(node => (node.imgs ?? []).map(image => ({width: image.naturalWidth, height: image.naturalHeight})))"""
MISSING = """() => window.app.graph.nodes
    .filter(node => !(node.type in window.LiteGraph.registered_node_types)
        && !['Note', 'MarkdownNote', 'Reroute', 'PrimitiveNode'].includes(node.type))
    .map(node => node.type)"""

SET_WIDGET = """([type, name, value]) => window.app.graph.nodes.filter(node => node.type === type)
    .map(node => node.widgets.find(widget => widget.name === name)).filter(widget => widget)
    .map(widget => { widget.value = value }).length"""
LOOK_AT = """(type) => window.app.canvas.centerOnNode(window.app.graph.nodes.find(node => node.type === type))"""
ERRORS = """() => [...document.querySelectorAll('.comfy-error-report, [data-testid=error-dialog], .p-dialog')]
    .map(element => element.innerText.slice(0, 2000)).join('\\n')"""


# Without a GPU the processor paints every frame, and a page that nobody looks at paints on. So frames come some 30
# times a second, and none while the page is asleep.
SLEEPER = """(() => { const draw = window.requestAnimationFrame.bind(window), due = new Map();
    let asleep, asked, last = 0;
    const ask = () => { if (asleep || asked || !due.size) return;
        asked = true;
        setTimeout(() => draw(time => { asked = false;
            const works = [...due.values()]; due.clear();
            for (const work of works) try { work(time) } catch (error) { reportError(error) } // as the browser does
            ask() }), 25) };
    window.requestAnimationFrame = (work) => { due.set(++last, work); ask(); return last };
    window.cancelAnimationFrame = (key) => { due.delete(key) };
    window.mosSleeps = (now) => { asleep = now; ask() };
})()"""
SLEEPS = "(asleep) => window.mosSleeps?.(asleep)"


def set_widget(page, node_type: str, name: str, value) -> int:
    """Sets a widget on every node of this type; returns how many had it."""
    return page.evaluate(SET_WIDGET, [node_type, name, value])


def missing_types(page) -> list[str]:
    return page.evaluate(MISSING)


def run_workflow(page) -> None:
    """Queues what is loaded, through the front end's own command: the same one that the Run button calls."""
    shown = [picture for node_type in ("SaveImage", "PreviewImage") for picture in page.evaluate(PICTURES, node_type)]
    assert not shown, f"pictures of an earlier run: {shown}"
    page.evaluate("async () => { await window.app.extensionManager.command.execute('Comfy.QueuePrompt') }")


def wait_for_picture(page, node_type: str, seconds: float) -> list[dict]:
    """Sizes of the pictures that the nodes of this type show, once there is one; a dialog of the page is a failure.

    The node is moved into view first: the front end loads a node's pictures only when it draws the node.
    """
    page.evaluate(LOOK_AT, node_type)
    shown = f"(type) => ({PICTURES})(type).some(size => size.width > 0) || ({ERRORS})() !== ''"
    page.wait_for_function(shown, arg=node_type, timeout=seconds * 1000)
    dialog = page.evaluate(ERRORS)
    assert not dialog, f"the front end shows a dialog: {dialog}"
    return page.evaluate(PICTURES, node_type)


def wait_for_run(server, before: set[str], seconds: float) -> tuple[dict, dict]:
    """(graph, outputs) of the run whose id is not among `before`, once it has ended well."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        history = server.get("/history?max_items=64")
        for run in (history[key] for key in set(history) - before):
            assert run["status"]["status_str"] != "error", run["status"]["messages"]
            if run["status"]["completed"]:
                return run["prompt"][2], run["outputs"]
        time.sleep(0.5)
    raise AssertionError(f"the run did not end within {seconds:.0f} s: {server.tail()}")


def empty_queue(server, timeout: float = 60) -> None:
    """Cancels what a test left behind; a job that has not begun yet hears no interrupt, so ask until it ends."""
    server.post("/queue", {"clear": True})
    end = time.monotonic() + timeout
    while server.get("/queue")["queue_running"] and time.monotonic() < end:
        server.interrupt()
        time.sleep(0.5)
