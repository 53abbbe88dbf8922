"""What the tests do with a shipped workflow: open it from the templates browser, shorten it, look where nodes lie."""

from __future__ import annotations

from contextlib import suppress

PACK = "mixofshow"
# What takes long as shipped -> what is enough to see it run.
SHORT = (
    ("MixOfShowTrain", "steps", 2),
    ("MixOfShowTrainSettings", "prior_pictures", 1),
    ("KSampler", "steps", 2),
    ("EmptyLatentImage", "batch_size", 1),
    ("MixOfShowFuse", "calibration", "quick"),
    ("MixOfShowCompare", "calibration", "quick"),
    ("MixOfShowCompare", "steps", 1),
)
CLOSE = "async () => { const all = window.app.extensionManager.workflow; await all.closeWorkflow(all.activeWorkflow) }"
# [title, left, top, right, bottom] of every node on the canvas, title bars included.
BOXES = """() => window.app.graph.nodes.map(node => {
    const drawn = document.querySelector(`[data-node-id='${node.id}']`), {scale, offset} = window.app.canvas.ds;
    const name = `${node.id} ${node.title}`;
    if (drawn) {
        const {left, top, right, bottom} = drawn.getBoundingClientRect();
        return [name, left / scale - offset[0], top / scale - offset[1], right / scale - offset[0],
            bottom / scale - offset[1]];
    }
    const [x, y, width, height] = node.getBounding(new Float32Array(4));
    return [name, x, y, x + width, y + height];
})"""
# The checkpoint loader becomes the small base: the same outputs, so that every wire is drawn again.
SMALL_BASE = """() => { const {graph} = window.app, old = graph.nodes.find(n => n.type === 'CheckpointLoaderSimple');
    const base = window.LiteGraph.createNode('MixOfShowDemoModel');
    base.pos = [...old.pos]; base.size = [...old.size]; graph.add(base);
    old.outputs.forEach((output, slot) => [...output.links ?? []].forEach(id => {
        const {target_id, target_slot} = graph.links.get?.(id) ?? graph.links[id];
        base.connect(slot, graph.getNodeById(target_id), target_slot) }));
    graph.remove(old);
    for (const latent of graph.nodes.filter(node => node.type === 'EmptyLatentImage'))
        for (const widget of latent.widgets) if (widget.name === 'width') widget.value = 128;
            else if (widget.name === 'height') widget.value = 64 }"""
PICTURES = {
    "classic": "(window.app.graph.getNodeById(Number(key)).imgs ?? [])",
    "nodes2": "[...document.querySelectorAll(`[data-node-id='${key}'] img`)]",
}
# Nothing fades, spins, blurs or casts a shadow: without a GPU the processor paints every frame of that, and opening a
# template costs four times as much.
STILL = """*, *::before, *::after { backdrop-filter: none !important; filter: none !important;
    box-shadow: none !important; animation-duration: 1ms !important; animation-iteration-count: 1 !important;
    transition-duration: 1ms !important }"""
STAND_STILL = """(rules) => { if (document.getElementById('stand-still')) return;
    const style = document.createElement('style'); style.id = 'stand-still'; style.textContent = rules;
    document.head.append(style) }"""
MORE_CLICKS = 2  # on a template's card, before it counts as one that does not open
# The templates dialog stands there, does not leave and shows nobody that it is fetching a file.
DEAF = """dialogs => dialogs.some(dialog => !dialog.matches('[class*=leave]')
    && !dialog.querySelector('[role=progressbar], .animate-spin'))"""
SLACK = 2.0  # pixels of the canvas: rounding of the screen at a small zoom


def open_template(desk, name: str, film=None) -> None:
    """By the mouse: Templates, our pack under Extensions, the workflow's card. ``film``: shows the cards, too."""
    page = desk.page
    if film is None:
        desk.run_js(STAND_STILL, STILL)
    desk.command("Comfy.BrowseTemplates")
    dialog = page.locator("[role=dialog]:has([data-testid=template-workflows-content])")
    dialog.get_by_text(PACK, exact=True).first.click(timeout=60_000)
    if film is not None:
        film.take_cards(desk, dialog)
    before = desk.run_js("() => window.app.graph.id")
    choose(dialog, name)
    page.wait_for_function("(old) => window.app.graph.id !== old && window.app.graph.nodes.length", arg=before)
    settle(desk)


def choose(dialog, name: str) -> None:
    """Clicks a card until its dialog goes, as a person would. The front end makes all cards anew when its filters
    change; a card that is replaced between the mouse's press and its release hears no click."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    card = dialog.locator(f"[data-testid='template-workflow-{name}']")
    card.click(timeout=60_000)
    for _ in range(MORE_CLICKS):
        try:
            return dialog.wait_for(state="hidden", timeout=5_000)
        except PlaywrightTimeout:
            if dialog.evaluate_all(DEAF):
                with suppress(PlaywrightTimeout):  # the click before was heard after all, and the card goes
                    card.click(timeout=5_000)
    dialog.wait_for(state="hidden", timeout=60_000)


def close_workflow(desk) -> None:
    """Closes its tab and what it left on the page; the changes are not asked about."""
    desk.run_js(CLOSE)


def settle(desk) -> None:
    """Until two looks at the nodes say the same: a busy front end measures and draws them late."""
    seen = None
    for _ in range(40):
        desk.page.wait_for_timeout(150)
        before, seen = seen, [[round(x) if isinstance(x, float) else x for x in box] for box in desk.run_js(BOXES)]
        if seen == before:
            return


def overlaps(desk) -> list[str]:
    """Pairs of nodes of which one covers the other, in words."""
    settle(desk)
    boxes, found = desk.run_js(BOXES), []
    for n, (one, left, top, right, bottom) in enumerate(boxes):
        for other, x1, y1, x2, y2 in boxes[n + 1 :]:
            across, down = min(right, x2) - max(left, x1), min(bottom, y2) - max(top, y1)
            if across > SLACK and down > SLACK:
                found.append(f"{one} and {other}: {across:.0f} x {down:.0f}")
    return found


def shown_pictures(desk, key: str) -> list[tuple[int, int]]:
    """Sizes of the pictures that node ``key`` shows, once they are loaded."""
    drawn = f"(key) => {PICTURES[desk.renderer]}.map(image => [image.naturalWidth, image.naturalHeight])"
    desk.run_js("(key) => window.app.canvas.centerOnNode(window.app.graph.getNodeById(Number(key)))", key)
    desk.page.wait_for_function(f"(key) => ({drawn})(key).some(size => size[0] > 0)", arg=key, timeout=20_000)
    return [tuple(size) for size in desk.run_js(drawn, key)]


def executed_nodes(server, prompt_id: str) -> dict[str, str]:
    """Key -> kind of the nodes that a finished run did not take from the host's cache."""
    entry = server.get(f"/history/{prompt_id}")[prompt_id]
    graph = entry["prompt"][2]
    cached = next(data["nodes"] for name, data in entry["status"]["messages"] if name == "execution_cached")
    return {key: node["class_type"] for key, node in graph.items() if key not in cached}


def silent_nodes(run: dict[str, str], outputs: dict) -> list[str]:
    """Kinds of our nodes that were run and show neither words nor a picture on themselves."""
    shown = {key: outputs.get(key, {}) for key, kind in run.items() if kind.startswith("MixOfShow")}
    spoken = {key for key, out in shown.items() if "".join(out.get("text", ())).strip() or out.get("images")}
    return [run[key] for key in shown if key not in spoken]
