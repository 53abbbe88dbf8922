"""The region editor in the real front end, driven by mouse, touch and keys as a person does."""

import json
from contextlib import contextmanager

from mos_tests.browser.front_end import SLEEPER

FIND = "window.app.canvas.graph.nodes.find(node => node.type === 'MixOfShowRegions')"
READY = "() => window.app?.graph && window.LiteGraph?.registered_node_types?.MixOfShowRegions"
RENDERERS = ["classic", "nodes2"]
SCREEN = {"width": 1400, "height": 1000}
GRAPH = {
    "1": {"class_type": "MixOfShowRegions", "inputs": {"width": 256, "height": 192}},
    "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}
# Known noise of a front end without a network, none of it ours.
NOISE = (
    "Failed to load resource",
    "Content Security Policy",
    "reading 'id'",
    "api.comfy.org",
    "net::ERR_FAILED",
    "Jobs API",
    "Failed to fetch: 404",
    "core workflow templates",  # the host's own, which the tests do not install
    "JobsApiError",  # front end 1.58 on a host that has no such list
)


class EditorPage:
    """One page of the real front end with one MixOfShowRegions node."""

    def __init__(self, browser, server, renderer: str):
        """renderer: one of RENDERERS."""
        self.server, self.renderer = server, renderer
        self.problems: list[str] = []
        server.post("/settings", {"Comfy.VueNodes.Enabled": renderer == "nodes2", "Comfy.TutorialCompleted": True})
        self.context = browser.new_context(viewport=SCREEN)
        self.context.add_init_script(SLEEPER)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.note(str(error)))
        self.page.on("console", lambda message: self.note(message.text) if message.type == "error" else None)
        self.page.goto(server.url, timeout=120_000)
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.wait_for_timeout(500)

    @classmethod
    def on(cls, other: "EditorPage") -> "EditorPage":
        """Another one's page, looked at as this class does."""
        found = cls.__new__(cls)
        found.__dict__ = other.__dict__
        return found

    def note(self, text: str) -> None:
        if not any(noise in text for noise in NOISE):
            self.problems.append(text)

    def close(self) -> None:
        self.context.close()

    @contextmanager
    def as_tablet(self):
        """Fingers, and two device pixels per pixel."""
        session = self.context.new_cdp_session(self.page)

        def become(touch: bool) -> None:
            screen = SCREEN | {"deviceScaleFactor": 1 + touch, "mobile": False}
            session.send("Emulation.setDeviceMetricsOverride", screen)
            session.send("Emulation.setTouchEmulationEnabled", {"enabled": touch})

        become(True)
        try:
            yield
        finally:
            become(False)

    def run_js(self, code: str, argument=None):
        return self.page.evaluate(code, argument)

    def load(self, regions: list | None = None, zoom: float = 1.0) -> None:
        """A fresh workflow: our node, its masks shown as pictures."""
        graph = json.loads(json.dumps(GRAPH))
        graph["1"]["inputs"]["editor"] = document(regions or [])
        self.load_graph(graph, zoom)

    def load_graph(self, graph: dict, zoom: float = 1.0) -> None:
        # An API graph has no places. The front end finds some, which Nodes 2.0 may draw long after the graph itself has
        # forgotten them; so it is loaded a second time as the file of a person, where every node has its place.
        self.run_js(
            """async (graph) => { const {app} = window; app.canvas.setGraph(app.rootGraph ?? app.graph);
            await app.loadApiJson(graph, 'test');
            const file = JSON.parse(JSON.stringify((app.rootGraph ?? app.graph).serialize()));
            file.nodes.sort((a, b) => a.id - b.id).forEach((node, n) => { node.pos = [900 * n, 100] });
            file.extra.workflowRendererVersion = LiteGraph.vueNodesMode ? 'Vue' : 'LG';
            await app.loadGraphData(file) }""",
            graph,
        )
        self.look(zoom)
        self.root.wait_for()

    def look(self, zoom: float = 1.0) -> None:
        """Moves the view so that our node lies at the top left (its toolbar and canvas on the screen)."""
        self.run_js(
            f"""(zoom) => {{ const {{ds}} = window.app.canvas, [x, y] = {FIND}.pos; ds.scale = zoom;
            ds.offset = zoom > 1 ? [90 / zoom - x, -60 / zoom - y] : [140 / zoom - x, 160 / zoom - y];
            window.app.canvas.setDirty(true, true) }}""",
            zoom,
        )
        seen = None
        for _ in range(25):  # a busy machine measures the nodes late, which would count as a step of the next gesture
            self.page.wait_for_timeout(200)
            before, seen = seen, self.run_js("() => JSON.stringify((app.rootGraph ?? app.graph).serialize())")
            if seen == before:
                break
        self.run_js("() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")

    @property
    def value(self) -> str:
        return self.run_js(f"() => {FIND}.widgets.find(widget => widget.name === 'editor').value")

    @property
    def regions(self) -> list[dict]:
        return json.loads(self.value)["regions"]

    @property
    def undo_steps(self) -> int:
        self.page.wait_for_timeout(150)
        return self.run_js("() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length")

    def command(self, name: str) -> None:
        self.run_js("async (name) => { await window.app.extensionManager.command.execute(name) }", name)
        self.page.wait_for_timeout(400)

    @property
    def root(self):
        """The editor on the screen; the host keeps those of closed subgraphs in the page, hidden."""
        return self.page.locator(".mos-editor:not(.mos-cast):visible")

    def canvas(self) -> dict:
        """Where the drawn canvas lies on the screen, in CSS pixels: the largest of its proportions with the padding."""
        across, down = self.run_js(
            f"() => ['width', 'height'].map(name => {FIND}.widgets.find(widget => widget.name === name).value)"
        )
        box = self.root.locator(".mos-stage canvas").bounding_box()
        pad = 14 * box["width"] / self.root.locator(".mos-stage").evaluate("stage => stage.clientWidth")
        factor = min((box["width"] - 2 * pad) / across, (box["height"] - 2 * pad) / down)
        width, height = across * factor, down * factor
        return {
            "x": box["x"] + (box["width"] - width) / 2,
            "y": box["y"] + (box["height"] - height) / 2,
            "width": width,
            "height": height,
        }

    def at(self, x: float, y: float) -> tuple[float, float]:
        area = self.canvas()
        return area["x"] + x * area["width"], area["y"] + y * area["height"]

    def tool(self, name: str) -> None:
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        button = self.root.locator(f"[data-tool={name}]")
        try:
            button.click(timeout=10_000)
        except PlaywrightTimeout:  # a busy front end fits the view to a new graph after we have set it
            self.look()
            button.click()

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 5) -> None:
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=steps)
        self.page.mouse.up()
        self.page.wait_for_timeout(80)

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))
        self.page.wait_for_timeout(80)

    def touch_drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.touch_pull(self.at(*start), self.at(*end))

    def touch_pull(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Between two places of the screen."""
        session = self.context.new_cdp_session(self.page)
        (x1, y1), (x2, y2) = start, end

        def send(kind: str, points: list[dict]) -> None:
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        send("touchStart", [{"x": x1, "y": y1}])
        for n in range(1, 5):
            send("touchMove", [{"x": x1 + (x2 - x1) * n / 4, "y": y1 + (y2 - y1) * n / 4}])
        send("touchEnd", [])
        self.page.wait_for_timeout(120)

    def field(self, label: str):
        return self.root.locator(f".mos-field:visible:has(> span:text-is('{label}')) > :is(input, textarea)").first

    def run(self, seconds: float = 60) -> None:
        """Presses Run and waits for the new pictures of the masks."""
        before = self.server.get("/history?max_items=64")
        self.command("Comfy.QueuePrompt")
        for _ in range(int(seconds * 5)):
            now = self.server.get("/history?max_items=64")
            if any(now[key]["status"]["completed"] for key in set(now) - set(before)):
                return
            self.page.wait_for_timeout(200)
        raise AssertionError(f"the graph did not finish: {self.server.tail()}")

    def masks(self) -> list[bytes]:
        """The produced masks of the last run, as 8-bit grey rows."""
        import io

        from PIL import Image

        newest = list(self.server.get("/history?max_items=1").values())[-1]
        entries = newest["outputs"]["3"]["images"]
        return [Image.open(io.BytesIO(self.server.image(entry))).convert("L").tobytes() for entry in entries]


def document(regions: list, **more) -> str:
    return json.dumps({"version": 1, "width": 256, "height": 192, "regions": regions} | more)


def rectangle(key: str, x: float, y: float, width: float, height: float, **more) -> dict:
    return {"id": key, "shape": {"type": "rect", "x": x, "y": y, "width": width, "height": height}} | more
