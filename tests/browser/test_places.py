"""The issue's own sentence: draw two regions, type two prompts, pick two concepts, press Run; both end where drawn.

With the demo model and two concepts that it can tell apart by colour. One means its green frog, the other its red
apple, so that the picture needs no trained judge and no minutes of training. The background's words are on Place.
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from mos_tests.browser.editor import FIND
from mos_tests.browser.front_end import LOAD, empty_queue, missing_types, set_widget, wait_for_picture, wait_for_run
from PIL import Image

# Enough to tell both people apart: they differ by 45 to 61 then, where 10 is asked.
SHORT = (("MixOfShowTrain", "steps", 40), ("MixOfShowFuse", "calibration", "quick"), ("KSampler", "steps", 10))
DEMO = Path(__file__).resolve().parents[2] / "example_workflows" / "01_train_fuse_place.json"
GRAPH = {
    "base": {"class_type": "MixOfShowDemoModel", "inputs": {}},
    "mara": {
        "class_type": "MixOfShowLoadConcept",
        "inputs": {"file": "mixofshow/known_mara.safetensors", "name": "mara"},
    },
    "finn": {
        "class_type": "MixOfShowLoadConcept",
        "inputs": {"file": "mixofshow/known_finn.safetensors", "name": "finn", "concepts": ["mara", 0]},
    },
    "regions": {
        "class_type": "MixOfShowRegions",
        "inputs": {
            "editor": json.dumps({"version": 1, "regions": []}),
            "width": 128,
            "height": 64,
            "concepts": ["finn", 0],
        },
    },
    "place": {
        "class_type": "MixOfShowPlace",
        "inputs": {
            "model": ["base", 0],
            "clip": ["base", 1],
            "prompt": "white background",
            "negative": "",
            "regions": ["regions", 0],
            "concepts": ["finn", 0],
        },
    },
    "latent": {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": ["regions", 3], "height": ["regions", 4], "batch_size": 4},
    },
    "sample": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1,
            "steps": 12,
            "cfg": 3.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["place", 0],
            "positive": ["place", 1],
            "negative": ["place", 2],
            "latent_image": ["latent", 0],
        },
    },
    "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["base", 2]}},
    "save": {"class_type": "SaveImage", "inputs": {"filename_prefix": "places", "images": ["decode", 0]}},
}


def test_two_concepts_end_in_the_places_drawn_for_them(desk):
    order = ("mara", "finn") if desk.renderer == "classic" else ("finn", "mara")
    numbered = {key: str(number) for number, key in enumerate(GRAPH, 1)}
    graph = {
        numbered[key]: node
        | {
            "inputs": {
                name: [numbered[value[0]], value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
        }
        for key, node in GRAPH.items()
    }
    desk.load_graph(graph)
    for left, name in zip((0.05, 0.55), order, strict=True):
        desk.tool("rect")
        desk.drag((left, 0.06), (left + 0.4, 0.94))
        desk.field("Prompt").fill(f"a photo of {name}")
        concept = desk.field("Concept")
        concept.click()
        offered = concept.evaluate("field => [...field.list.options].map(option => option.value)")
        assert set(offered) == {"mara", "finn"}
        concept.fill(name)
    pictures = press_run(desk, 240)
    assert pictures.shape == (4, 64, 128, 3)
    greener = pictures[..., 1] - pictures[..., 0]  # green less red: high on the frog, low on the apple
    left, right = greener[:, :, :64].mean((1, 2)), greener[:, :, 64:].mean((1, 2))
    frog, apple = (left, right) if order[0] == "mara" else (right, left)
    assert (frog > apple + 10).all(), (frog, apple)
    assert not desk.problems, desk.problems
    assert [region["concept"] for region in json.loads(desk.value)["regions"]] == list(order)
    assert desk.run_js(f"() => {FIND} !== undefined")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [SHORT, ()], ids=["short", "as it ships"])
@pytest.mark.parametrize("mouse", ["classic"], indirect=True)
def test_the_demo_workflow_by_mouse_with_its_trained_people(mouse, changes):
    """Workflow 01, shortened and as it ships. Its two regions are drawn anew, the other way round. mara's hair is
    purple, finn's red: a half with more blue than red next to the other's is mara. (Slow: that both end where they were
    drawn is asked above of known concepts, and that 01 trains, fuses and paints, in test_templates.py.)"""
    mouse.run_js(LOAD, json.loads(DEMO.read_text(encoding="utf-8")))
    for change in changes:
        assert set_widget(mouse.page, *change)
    assert missing_types(mouse.page) == []
    mouse.look()
    mouse.root.wait_for()
    for middle in (0.25, 0.75):
        mouse.tool("select")
        mouse.click(middle, 0.5)
        mouse.page.keyboard.press("Delete")
    assert mouse.regions == []
    for left, name in ((0.0, "finn"), (0.5, "mara")):
        mouse.tool("rect")
        mouse.drag((left + 0.003, 0.005), (left + 0.497, 0.995))
        mouse.field("Prompt").fill(f"a photo of {name}")
        mouse.field("Concept").fill(name)
    pictures = press_run(mouse, 900)
    assert pictures.shape == (4, 64, 128, 3)
    bluer = pictures[..., 2] - pictures[..., 0]
    finn, mara = bluer[:, :, :64].mean((1, 2)), bluer[:, :, 64:].mean((1, 2))
    assert (mara > finn + 10).all(), (mara, finn)
    assert wait_for_picture(mouse.page, "SaveImage", 60) == [{"width": 128, "height": 64}] * 4, "the page shows them"
    assert not mouse.problems, mouse.problems


def press_run(mouse, seconds: float) -> np.ndarray:
    """Presses Run with the mouse; the saved pictures of that run, float [N, H, W, 3] in 0..255."""
    empty_queue(mouse.server)
    before = set(mouse.server.get("/history?max_items=64"))
    mouse.page.locator("[data-testid=queue-button] button, button[data-testid=queue-button]").first.click()
    _, outputs = wait_for_run(mouse.server, before, seconds)
    entries = [entry for out in outputs.values() for entry in out.get("images", ()) if entry["type"] == "output"]
    files = [Image.open(io.BytesIO(mouse.server.image(entry))).convert("RGB") for entry in entries]
    return np.stack([np.asarray(file, np.float64) for file in files])
