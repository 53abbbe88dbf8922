"""Cast in the real front end, by mouse and keyboard, in both renderers: from two files to two routed regions."""

import json
from pathlib import Path

import pytest
from mos_tests.browser.editor import EditorPage

FIND = "(window.app.rootGraph ?? window.app.graph).nodes.find(node => node.type === 'MixOfShowCast')"
GRAPH = {
    "1": {"class_type": "MixOfShowCast", "inputs": {}},
    "2": {"class_type": "MixOfShowInspect", "inputs": {"file": "(the connected concepts)", "concepts": ["1", 0]}},
    "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
}


@pytest.fixture
def cast(desk):
    return CastPage.on(desk)


class CastPage(EditorPage):
    @property
    def root(self):
        return self.page.locator(".mos-cast:visible")

    @property
    def value(self) -> dict:
        return json.loads(self.run_js(f"() => {FIND}.widgets.find(widget => widget.name === 'cast').value"))

    def look(self, zoom: float = 1.0) -> None:
        self.run_js(
            f"""() => {{ const {{ds}} = window.app.canvas, node = {FIND}; ds.scale = 1;
            node.setSize([520, 420]); ds.offset = [140 - node.pos[0], 160 - node.pos[1]];
            window.app.canvas.setDirty(true, true) }}"""
        )
        self.page.wait_for_timeout(600)
        self.run_js("() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()")

    def add(self, typed: str) -> None:
        self.root.locator(".mos-cast-add").click()
        self.page.keyboard.type(typed)
        self.root.locator(".mos-picker-list [role=option]").first.wait_for()
        self.page.keyboard.press("Enter")

    def row(self, number: int):
        return self.root.locator(".mos-cast-row").nth(number)


def test_two_files_by_keyboard_and_nothing_else(cast):
    cast.load_graph(GRAPH)
    cast.add("alice")
    cast.add("people bob")
    rows = cast.value["rows"]
    assert [row["file"] for row in rows] == ["people/Alice (v1).safetensors", "people/bob.safetensors"]
    says = cast.row(0).locator(".mos-cast-says")
    says.filter(has_text="blue haired girl").wait_for()
    assert says.inner_text() == 'Type Alice_v1; it stands for "blue haired girl".'
    cast.row(1).locator(".mos-cast-says").filter(has_text="Type bob where it should be").wait_for()
    assert "picture" in cast.row(0).locator(".mos-cast-picture").evaluate("e => e.style.backgroundImage")
    folder = Path(__file__).resolve().parents[2] / ".cache"
    cast.page.screenshot(path=str(folder / f"cast-{cast.renderer}.png"))
    cast.run()
    text = json.dumps(list(cast.server.get("/history?max_items=1").values())[-1]["outputs"])
    assert "Alice_v1" in text and "bob" in text
    assert not cast.problems, cast.problems


def test_rows_by_mouse_with_undo(cast):
    cast.load_graph(GRAPH)
    cast.add("alice")
    cast.add("bob")
    cast.row(1).get_by_role("button", name="Up (Alt+Up)").click()
    assert [row["file"][7:10] for row in cast.value["rows"]] == ["bob", "Ali"]
    cast.page.keyboard.press("Alt+ArrowDown")
    assert [row["file"][7:10] for row in cast.value["rows"]] == ["Ali", "bob"]
    cast.row(0).locator("[data-field=on]").click()
    assert cast.value["rows"][0]["on"] is False
    cast.row(0).locator("[data-field=text_strength]").fill("0.5")
    cast.row(0).locator("[data-field=text_strength]").press("Tab")
    cast.row(0).locator("[data-field=role]").select_option("style")
    assert cast.value["rows"][0] | {"text_strength": 0.5, "role": "style"} == cast.value["rows"][0]
    cast.row(1).get_by_role("button", name="Duplicate").click()
    cast.row(2).get_by_role("button", name="Remove").click()
    before = cast.value
    cast.row(0).get_by_role("button", name="Remove").click()
    assert len(cast.value["rows"]) == 1
    cast.command("Comfy.Undo")
    assert cast.value == before and cast.root.locator(".mos-cast-row").count() == 2
    assert not cast.problems, cast.problems


def test_a_file_that_is_gone_is_marked_at_once_and_named_before_a_run(cast):
    graph = json.loads(json.dumps(GRAPH))
    graph["1"]["inputs"]["cast"] = json.dumps({"version": 1, "rows": [{"file": "gone.safetensors"}]})
    cast.load_graph(graph)
    cast.row(0).locator(".mos-cast-says.mos-warn").filter(has_text="gone.safetensors is not there").wait_for()
    cast.root.locator(".mos-cast-file").click()
    cast.page.keyboard.type("no such file")
    assert cast.root.locator(".mos-picker-none").inner_text() == "No file matches."
    cast.page.keyboard.press("Escape")
    assert cast.root.locator(".mos-picker").count() == 0
    cast.problems.clear()
