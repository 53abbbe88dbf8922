"""The editor and the cast: chips, layouts, names while typing, what is off, the large editor, backdrops and masks."""

import json
from pathlib import Path

import pytest
from mos_pack.mixofshow_core.regional.raster import rasterize
from mos_pack.mixofshow_core.regional.schema import parse_regions
from mos_tests.browser.editor import GRAPH, document, rectangle
from PIL import Image

PICTURES = Path(__file__).resolve().parents[2] / ".cache"
FILES = ("people/Alice (v1).safetensors", "people/bob.safetensors")
ROWS = json.dumps({"version": 1, "rows": [{"file": file} for file in FILES]})


def with_cast(*regions, **more) -> dict:
    graph = json.loads(json.dumps(GRAPH)) | {"4": {"class_type": "MixOfShowCast", "inputs": {"cast": ROWS}}, **more}
    graph["1"]["inputs"] |= {"editor": document(list(regions)), "concepts": ["4", 0]}
    return graph


def middle(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def pull(mouse, start, end, release=True) -> None:
    mouse.page.mouse.move(*start)
    mouse.page.mouse.down()
    mouse.page.mouse.move(*end, steps=6)
    if release:
        mouse.page.mouse.up()
    mouse.page.wait_for_timeout(150)


def pixel(mouse, x: float, y: float) -> list[int]:
    """The colour of the canvas at these fractions."""
    left, top = mouse.at(x, y)
    return mouse.root.locator(".mos-stage canvas").evaluate(
        """(canvas, [x, y]) => { const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
        return [...canvas.getContext('2d').getImageData((x - box.x) * ratio, (y - box.y) * ratio, 1, 1).data] }""",
        [left, top],
    )


def wait_for_pixel(mouse, is_right, x=0.5, y=0.8) -> list[int]:
    for _ in range(60):
        if is_right(found := pixel(mouse, x, y)):
            return found
        mouse.page.wait_for_timeout(250)
    raise AssertionError(f"the canvas shows {found}")


def test_a_chip_dragged_onto_the_canvas_is_a_region_with_that_concept(mouse):
    mouse.load_graph(with_cast())
    chips = mouse.root.locator(".mos-chip")
    mouse.root.locator(".mos-chip .mos-thumb").wait_for()
    assert chips.all_inner_texts() == ["Alice_v1", "bob"]
    steps = mouse.undo_steps
    pull(mouse, middle(chips.nth(0)), mouse.at(0.25, 0.5))
    [region] = mouse.regions
    assert (region["concept"], region["name"], region["prompt"]) == ("Alice_v1", "Alice_v1", "")
    assert region["shape"]["x"] + region["shape"]["width"] / 2 == pytest.approx(0.25, abs=0.04)
    assert mouse.undo_steps == steps + 1, "one drag is one undo step of the graph"
    pull(mouse, middle(chips.nth(1)), mouse.at(0.7, 0.5), release=False)
    assert mouse.root.locator(".mos-row").count() == 3, "the region is shown while it is dragged"
    mouse.page.keyboard.press("Escape")
    mouse.page.wait_for_timeout(150)  # people let go later
    mouse.page.mouse.up()
    box = mouse.root.locator(".mos-panel").bounding_box()
    pull(mouse, middle(chips.nth(1)), (box["x"] + 30, box["y"] + box["height"] - 30))
    mouse.page.wait_for_timeout(150)
    assert len(mouse.regions) == 1, "taken back, and dropped beside the canvas"
    chips.nth(1).press("Enter")
    mouse.page.wait_for_timeout(150)
    colours = [entry["ui"]["color"] for entry in mouse.regions]
    assert [entry["concept"] for entry in mouse.regions] == ["Alice_v1", "bob"] and len(set(colours)) == 2
    assert mouse.root.locator("[data-region] .mos-thumb").count() == 1, (
        "a thumbnail in the list, for the one that has one"
    )
    mouse.tool("rect")
    mouse.drag((0.75, 0.05), (0.95, 0.3))
    chips.nth(1).click()
    mouse.page.wait_for_timeout(150)
    assert (len(mouse.regions), mouse.regions[2]["concept"]) == (3, "bob"), "the chosen region had none and gets it"
    mouse.page.screenshot(path=str(PICTURES / f"chips-{mouse.renderer}.png"))
    assert not mouse.problems, mouse.problems


@pytest.mark.usefixtures("concepts", "loras")
def test_fingers_drag_chips_and_rows(tablet):
    tablet.load_graph(with_cast())
    chips = tablet.root.locator(".mos-chip")
    tablet.root.locator(".mos-chip .mos-thumb").wait_for()
    for n, x in enumerate((0.25, 0.7)):
        tablet.touch_pull(middle(chips.nth(n)), tablet.at(x, 0.5))
        tablet.page.wait_for_timeout(150)
    assert [region["concept"] for region in tablet.regions] == ["Alice_v1", "bob"]
    rows = tablet.root.locator("[data-region] .mos-number")
    (x, y), (_, above) = middle(rows.nth(1)), middle(rows.nth(0))
    tablet.touch_pull((x, y), (x, above - 12))
    tablet.page.wait_for_timeout(150)
    assert [region["concept"] for region in tablet.regions] == ["bob", "Alice_v1"]


def test_layouts_switching_off_and_another_order(mouse):
    mouse.load_graph(with_cast())
    mouse.root.locator(".mos-chip").nth(1).wait_for()
    mouse.root.get_by_label("Layout").select_option("portraits")
    mouse.page.wait_for_timeout(150)
    assert [(entry["concept"], entry["shape"]["x"]) for entry in mouse.regions] == [("Alice_v1", 0.04), ("bob", 0.52)]
    mouse.root.get_by_label("Layout").select_option("rows3")
    mouse.page.wait_for_timeout(150)
    assert [round(entry["shape"]["y"], 2) for entry in mouse.regions] == [0, 0.33, 0.67]
    rows = mouse.root.locator("[data-region]")
    assert [row.get_attribute("data-region") for row in rows.all()] == ["r3", "r2", "r1"]
    box = rows.nth(0).bounding_box()
    pull(mouse, middle(rows.nth(2).locator(".mos-name")), (box["x"] + 60, box["y"] + 2))
    assert [entry["id"] for entry in mouse.regions] == ["r2", "r3", "r1"], "the lowest is the uppermost now"
    tick = rows.nth(0).locator("input[type=checkbox]")
    tick.click()
    mouse.page.wait_for_timeout(150)
    assert [entry["enabled"] for entry in mouse.regions] == [True, True, False]
    assert "off" in rows.nth(0).inner_text() and "33 % covered" in mouse.root.locator(".mos-foot").inner_text()
    mouse.run()
    wanted = rasterize(parse_regions(mouse.value, 256, 192))
    assert [bytes(mask.numpy().tobytes()) for mask in wanted] == mouse.masks() and wanted[2].max() == 0
    mouse.page.screenshot(path=str(PICTURES / f"layouts-{mouse.renderer}.png"))
    mouse.root.locator(".mos-proxy").focus()
    rows.nth(0).locator(".mos-pick").click()
    mouse.root.locator(".mos-proxy").focus()
    mouse.page.keyboard.press("t")
    mouse.page.wait_for_timeout(150)
    assert mouse.regions[2]["enabled"] is True
    assert not mouse.problems, mouse.problems


PROMPT = "() => window.app.graph.nodes.find(node => node.type === 'MixOfShowPlace').widgets[0].value"
SHOW_PLACE = """() => { const {canvas, graph} = window.app, node = graph.nodes.find(n => n.type === 'MixOfShowPlace');
    node.setSize([400, 300]); canvas.setDirty(true, true);
    canvas.ds.offset = [300 - node.pos[0], 200 - node.pos[1]] }"""


def test_names_are_completed_in_prompts_of_regions_and_of_place(mouse):
    place = {"model": ["5", 0], "clip": ["5", 1], "prompt": "", "negative": "", "regions": ["1", 0]}
    more = {
        "5": {"class_type": "MosTestTinyBase", "inputs": {"family": "sd15", "seed": 0}},
        "6": {"class_type": "MixOfShowPlace", "inputs": place},
    }
    mouse.load_graph(with_cast(rectangle("a", 0, 0, 0.5, 1), **more))
    mouse.root.locator(".mos-chip").nth(1).wait_for()
    mouse.click(0.25, 0.5)
    field = mouse.field("Prompt")
    field.click()
    mouse.page.keyboard.type("a photo of al")
    mouse.root.locator(".mos-names [role=option]").wait_for()
    mouse.page.screenshot(path=str(PICTURES / f"names-{mouse.renderer}.png"))
    mouse.page.keyboard.press("Enter")
    mouse.page.keyboard.type(" with b")
    mouse.root.locator(".mos-names [role=option]").click()
    assert field.input_value() == "a photo of Alice_v1 with bob" == mouse.regions[0]["prompt"]
    assert mouse.root.locator(".mos-names").count() == 0
    mouse.page.keyboard.type(" al")
    mouse.page.keyboard.press("Escape")
    mouse.page.keyboard.press("Enter")
    assert field.input_value() == "a photo of Alice_v1 with bob al\n", (
        "Escape closes the list, Enter is a new line again"
    )
    mouse.run_js(SHOW_PLACE)
    mouse.page.wait_for_timeout(400)
    classic, nodes2 = "textarea[placeholder=prompt]:visible", "[data-node-id='6'] textarea"
    typed = mouse.page.locator(classic if mouse.renderer == "classic" else nodes2).first
    typed.click()
    mouse.page.keyboard.type("two people, bo")
    mouse.page.locator(".mos-names [role=option]:visible").wait_for()
    mouse.page.screenshot(path=str(PICTURES / f"place-{mouse.renderer}.png"))
    mouse.page.keyboard.press("Tab")
    mouse.page.wait_for_timeout(150)
    assert mouse.run_js(PROMPT) == "two people, bob"
    assert not mouse.problems, mouse.problems


def test_the_large_editor_is_the_same_one(mouse):
    mouse.load([rectangle("a", 0.1, 0.1, 0.3, 0.3, prompt="mara")])
    before = mouse.canvas()["width"]
    mouse.root.get_by_role("button", name="Large editor").click()
    mouse.page.wait_for_timeout(300)
    assert mouse.canvas()["width"] > 1.7 * before
    mouse.tool("rect")
    mouse.drag((0.5, 0.5), (0.9, 0.9))
    assert len(mouse.regions) == 2
    mouse.field("Prompt").fill("finn")
    mouse.page.screenshot(path=str(PICTURES / f"large-{mouse.renderer}.png"))
    mouse.root.locator(".mos-proxy").focus()
    mouse.page.keyboard.press("Escape")  # the selection first
    assert mouse.canvas()["width"] > 1.7 * before
    mouse.page.keyboard.press("Escape")
    mouse.page.wait_for_timeout(300)
    assert mouse.canvas()["width"] == pytest.approx(before, rel=0.02)
    assert [entry["prompt"] for entry in mouse.regions] == ["mara", "finn"]
    mouse.root.get_by_role("button", name="Large editor").click()
    mouse.page.mouse.click(4, 500)
    mouse.page.wait_for_timeout(200)
    assert mouse.canvas()["width"] == pytest.approx(before, rel=0.02), "a click beside it"
    mouse.root.get_by_role("button", name="Large editor").click()
    mouse.load([rectangle("b", 0.1, 0.1, 0.3, 0.3)])
    assert mouse.root.count() == 1 and mouse.page.locator("[aria-modal] .mos-editor").count() == 0, "another workflow"
    assert not mouse.problems, mouse.problems


SEEN = """canvas => { window.mosSeen = new Set();
    const look = () => { const [red, green, blue] = canvas.getContext('2d').getImageData(
        canvas.width / 2, canvas.height / 3, 1, 1).data;
        for (const [name, value] of Object.entries({red, green, blue})) if (value > 180) window.mosSeen.add(name);
        requestAnimationFrame(look) }; look() }"""


def test_backdrops_at_once_and_the_last_result(mouse):
    """The picture of a loader before any run; then the live preview and the result of what the regions lead to."""
    Image.new("RGB", (64, 48), (30, 60, 220)).save(mouse.server.base / "input" / "blue.png")
    drawn = document([rectangle(mouse.renderer, 0, 0, 0.1, 0.1, prompt="x")])
    size = {"width": 256, "height": 192}
    mouse.load_graph(
        {
            "1": {"class_type": "MixOfShowRegions", "inputs": {**size, "editor": drawn, "backdrop": ["4", 0]}},
            "4": {"class_type": "LoadImage", "inputs": {"image": "blue.png"}},
            "2": {"class_type": "MosTestPainter", "inputs": {"after": ["1", 0], "seconds": 1.0}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
            "5": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}},
            "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
        }
    )
    wait_for_pixel(mouse, lambda found: found[2] > 200 and found[0] < 60)
    under = mouse.root.get_by_label("Under the regions")
    under.select_option("none")
    wait_for_pixel(mouse, lambda found: found[2] < 100)
    under.select_option("result")
    mouse.root.locator(".mos-stage canvas").evaluate(SEEN)
    mouse.run()
    wait_for_pixel(mouse, lambda found: found[1] > 180 and found[0] < 60)
    assert mouse.run_js("() => [...window.mosSeen].join()") == "red,green", "live while it is painted, then the result"
    mouse.page.screenshot(path=str(PICTURES / f"backdrop-{mouse.renderer}.png"))
    kept = mouse.run_js("() => (app.rootGraph ?? app.graph).serialize().nodes.find(n => n.id === 1).properties")
    assert kept["mixofshow_backdrop"] == "result", "kept in the workflow, outside the text that a run depends on"
    assert not mouse.problems, mouse.problems


def test_an_incoming_mask_becomes_a_shape_by_one_click(mouse):
    graph = json.loads(json.dumps(GRAPH))
    graph["1"]["inputs"] |= {"masks": ["5", 0], "editor": document([rectangle("a", 0, 0, 0.2, 0.2, prompt="x")])}
    graph["5"] = {
        "class_type": "MaskComposite",
        "inputs": {"destination": ["6", 0], "source": ["7", 0], "x": 32, "y": 0, "operation": "add"},
    }
    graph["6"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 64, "height": 48}}
    graph["7"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 32, "height": 48}}
    mouse.load_graph(graph)
    adopt = mouse.root.get_by_role("button", name="Masks to shapes (1)")
    assert adopt.count() == 0
    mouse.run()
    adopt.click()
    adopt.wait_for(state="hidden")
    made = mouse.regions[1]
    assert made["shape"]["type"] == "mask" and made["name"] == "incoming mask 0"
    (_, mask) = rasterize(parse_regions(mouse.value, 256, 192))
    assert mask[:, :124].max() == 0 and mask[:, 132:].min() == 255
    mouse.root.get_by_role("button", name="Import, export, help").click()
    mouse.root.get_by_role("button", name="Add the incoming mask as a region").click()
    mouse.page.wait_for_timeout(150)
    assert mouse.regions[2]["shape"]["type"] == "input"
    mouse.root.locator("details summary").first.click()
    mouse.root.get_by_role("button", name="Make it paintable").click()
    mouse.page.wait_for_timeout(150)
    assert mouse.regions[2]["shape"] == made["shape"]
    mouse.page.screenshot(path=str(PICTURES / f"adopt-{mouse.renderer}.png"))
    assert not mouse.problems, mouse.problems
