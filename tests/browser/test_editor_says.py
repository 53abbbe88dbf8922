"""What the region editor tells a person: on an empty canvas, of names, of what its numbers are, and of errors."""

from mos_tests.browser.editor import FIND, GRAPH, document, rectangle


def test_a_new_node_is_empty_says_what_to_do_and_names_what_claims_nothing(mouse):
    """A person adds the node, drags at once, and types: no tool, no list, no region that was there before."""
    mouse.load_graph(GRAPH)  # says nothing of the editor's value: it is the one of a new node
    assert mouse.regions == []
    assert "Draw a box" in mouse.root.locator(".mos-empty:visible").inner_text()
    mouse.drag((0.1, 0.1), (0.6, 0.6))
    [region] = mouse.regions
    assert region["shape"]["type"] == "rect" and not mouse.root.locator(".mos-empty").is_visible()
    row = mouse.root.locator(".mos-row").first
    figures = mouse.root.locator(".mos-foot")
    assert "claims nothing" in row.inner_text() and "0 % covered" in figures.inner_text()
    mouse.field("Negative").fill("a hat")
    row.get_by_text("negative only").wait_for()
    mouse.field("Prompt").fill("a dog")
    row.get_by_text("25 %").wait_for()
    assert "25 % covered" in figures.inner_text() and "claims nothing" not in mouse.root.inner_text()
    assert not mouse.problems, mouse.problems


CHOOSE = """([title, name, value]) => { const node = window.app.graph.nodes.find(node => node.title === title);
    const widget = node.widgets.find(widget => widget.name === name);
    widget.value = value; widget.callback?.(value, window.app.canvas, node) }"""


def test_names_in_the_chosen_files_are_offered_before_any_run_and_unknown_ones_marked_at_once(mouse):
    """No name is typed on the nodes; the run's own list must not outlive a change of the file either."""
    loader = {"class_type": "MixOfShowLoadConcept", "_meta": {"title": "first"}}
    file = "mixofshow/known_{}.safetensors"
    drawn = document([rectangle("a", 0, 0, 0.5, 1, name="A", concept="finn", prompt="x")])
    mouse.load_graph(
        {
            "1": {
                "class_type": "MixOfShowRegions",
                "inputs": {"width": 256, "height": 192, "editor": drawn, "concepts": ["5", 0]},
            },
            "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
            "4": loader | {"inputs": {"file": file.format("mara")}},
            "5": {
                "class_type": "MixOfShowLoadConcept",
                "_meta": {"title": "second"},
                "inputs": {"file": file.format("finn"), "concepts": ["4", 0]},
            },
        }
    )
    row = mouse.root.locator(".mos-row").first
    mark = row.locator(".mos-warn[title^='No connected concept has this name']")
    mouse.click(0.25, 0.5)
    concept = mouse.field("Concept")
    concept.click()
    offered = "field => [...field.list.options].map(option => option.value).sort().join()"
    for _ in range(50):
        if concept.evaluate(offered) == "finn,mara":
            break
        mouse.page.wait_for_timeout(100)
    assert concept.evaluate(offered) == "finn,mara" and mark.count() == 0
    mouse.run_js(CHOOSE, ["second", "file", file.format("mara")])
    mark.wait_for(timeout=5_000)
    assert concept.get_attribute("aria-invalid") == "true"
    mouse.run_js(CHOOSE, ["second", "file", file.format("finn")])
    mark.wait_for(state="detached", timeout=5_000)
    mouse.run()
    mouse.run_js(CHOOSE, ["second", "name", "otto"])
    mark.wait_for(timeout=5_000)  # as many sources as in the run, but others
    assert "mara" in mark.get_attribute("title") and "otto" in mark.get_attribute("title")
    assert not mouse.problems, mouse.problems


def test_the_toolbar_stands_still_and_badges_agree_with_names(mouse):
    mouse.load([rectangle("a", 0.1, 0.1, 0.3, 0.3, name="Region 1")])
    mouse.run_js(f"() => {{ const node = {FIND}; node.setSize([780, 640]) }}")
    mouse.look()
    bar, stage = mouse.root.locator(".mos-bar"), mouse.root.locator(".mos-stage")
    before = bar.bounding_box(), stage.bounding_box()
    brush = mouse.root.get_by_label("Brush size")
    assert brush.evaluate("field => getComputedStyle(field).visibility") == "hidden"
    for tool in ("brush", "eraser", "select"):
        mouse.tool(tool)
        mouse.page.wait_for_timeout(100)
        assert (bar.bounding_box(), stage.bounding_box()) == before, tool
        assert brush.is_visible() == (tool != "select")
    line = mouse.root.locator("[data-tool=select]").bounding_box()["height"]
    assert before[0]["height"] < 2 * line, "one line, also at the node's smallest width"
    mouse.tool("rect")
    mouse.drag((0.5, 0.5), (0.9, 0.9))
    rows = mouse.root.locator(".mos-row").all_inner_texts()
    assert [row.split()[:3] for row in rows[:2]] == [["2", "Region", "2"], ["1", "Region", "1"]]
    assert not mouse.problems, mouse.problems


def test_undo_brings_back_what_the_browsers_own_undo_took_from_a_field(mouse):
    mouse.load([rectangle("a", 0.1, 0.1, 0.8, 0.8)])
    mouse.click(0.5, 0.5)
    for label in ("Prompt", "Negative", "Concept"):
        field = mouse.field(label)
        field.click()
        mouse.page.keyboard.type("frog")
        mouse.page.keyboard.press("Control+z")
        assert field.input_value() != "frog", "the browser's undo"
        mouse.root.get_by_role("button", name="Undo (Ctrl+Z)").click()
        mouse.page.wait_for_timeout(150)
        assert field.input_value() == "frog" == mouse.regions[0][label.lower()], label
    assert not mouse.problems, mouse.problems


# The toasts of front end 1.32, and those of 1.58 (whose nodes have that class, too).
TOAST = """() => [...document.querySelectorAll('.p-toast-message, [class*=pointer-events-auto]')]
    .filter(found => !found.querySelector('.mos-editor')).map(toast => toast.innerText)
    .find(text => text.includes("names concept 'zoe', which CLIP does not know"))"""


def test_an_error_is_read_in_a_toast_and_its_region_is_shown_in_the_editor(mouse):
    """The error is Place's; the region that it names is marked in the Regions node up the wire, until it is edited."""
    boxes = [
        rectangle("a", 0, 0, 0.5, 1, name="left", prompt="a dog"),
        rectangle("b", 0.5, 0, 0.5, 1, name="right", prompt="x", concept="zoe"),
    ]
    mouse.load_graph(
        {
            "1": {"class_type": "MixOfShowRegions", "inputs": {"width": 256, "height": 192, "editor": document(boxes)}},
            "2": {"class_type": "MosTestTinyBase", "inputs": {"family": "sd15", "seed": 0}},
            "3": {
                "class_type": "MixOfShowPlace",
                "inputs": {"model": ["2", 0], "clip": ["2", 1], "prompt": "two", "negative": "", "regions": ["1", 0]},
            },
            "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 1]}},
        }
    )
    mouse.click(0.25, 0.5)
    mouse.command("Comfy.QueuePrompt")
    mouse.page.wait_for_function(f"() => ({TOAST})() !== undefined", timeout=60_000)
    said = mouse.run_js(TOAST).strip()
    assert said.startswith("Mix-of-Show Place") and "Place: region 'right'" in said
    marked = mouse.root.locator(".mos-blamed")
    marked.wait_for()
    assert marked.count() == 1 and "right" in marked.inner_text() and "aria-current" in marked.inner_html()
    assert mouse.field("Name").input_value() == "right", "it is chosen, with its fields"
    assert "names concept 'zoe'" in mouse.root.locator(".mos-say").inner_text()
    mouse.run_js("""() => { document.querySelectorAll('.p-dialog-close-button').forEach(button => button.click());
        window.app.extensionManager.toast.removeAll?.() }""")
    mouse.field("Concept").fill("")
    marked.wait_for(state="detached")
