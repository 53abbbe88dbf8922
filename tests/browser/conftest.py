"""The real front end in Chromium, served by the real server. Skipped, loudly, where there is no Chromium.

MIXOFSHOW_FRONT_END names the `static` folder of another front end than the pinned one.
"""

import json
import os
from pathlib import Path

import pytest
from mos_tests.browser.chromium import FLAGS, find_chromium
from mos_tests.browser.editor import RENDERERS, EditorPage
from mos_tests.browser.front_end import SLEEPS
from mos_tests.browser.named import MEANING, write_named_concept
from mos_tests.host.runtime import find_host
from mos_world.workflows.stand_ins import make_files

CHROMIUM = find_chromium()
FILM = bool(os.environ.get("MOS_FILM"))  # see test_templates.py
NO_CHROMIUM = "NO CHROMIUM: install it (python dev.py test --system) or set CHROMIUM to its path"
HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    """Tests of a page as it was opened come first (`mouse`, below)."""
    places = [n for n, item in enumerate(items) if HERE in item.path.parents]
    ours = sorted((items[n] for n in places), key=lambda item: "desk" not in item.fixturenames)
    for n, item in zip(places, ours, strict=True):
        items[n] = item
        if CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason=NO_CHROMIUM))


@pytest.fixture(scope="session")
def server():
    from mos_tests.host.server import QUICK, TINY, start_server

    host = find_host()
    assert host is not None, "no ComfyUI found: run `python dev.py test`, or set COMFYUI_PATH"
    other = os.environ.get("MIXOFSHOW_FRONT_END")
    arguments = ("--front-end-root", other) if other else ()
    with start_server(host, extra_nodes=(TINY,) if FILM else (TINY, QUICK), arguments=arguments) as running:
        settings = running.base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps({"Comfy.TutorialCompleted": True, "Comfy.Validation.Workflows": True}))
        yield running


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture(autouse=True)
def only_the_page_in_use_draws(request):
    """Pages are kept for the next test; those that this test does not use are asleep meanwhile."""
    if "browser" not in request.fixturenames:
        return
    names = [name for name in request.fixturenames if name not in ("request", "only_the_page_in_use_draws")]
    found = [request.getfixturevalue(name) for name in names]
    used = [getattr(value, "page", value) for value in found]
    for context in request.getfixturevalue("browser").contexts:
        for opened in context.pages:
            opened.evaluate(SLEEPS, all(opened is not page for page in used))


@pytest.fixture(scope="session")
def concepts(server):
    """Two concepts by file in the server's own folder, written before any page asks which there are."""
    folder = server.base / "models" / "loras" / "mixofshow"
    for name, words in MEANING.items():
        write_named_concept(find_host(), folder / f"known_{name}.safetensors", name, words)


@pytest.fixture(scope="session")
def loras(server):
    """Two community LoRAs as people have them: spaces in the name, a picture and Civitai's facts beside one."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    folder = server.base / "models" / "loras" / "people"
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(("Alice (v1)", "bob")):
        prefix = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q"
        save_file(
            {
                f"{prefix}.lora_up.weight": torch.ones(64, 2) * (n + 1),
                f"{prefix}.lora_down.weight": torch.ones(2, 64),
                f"{prefix}.alpha": torch.tensor(2.0),
            },
            str(folder / f"{name}.safetensors"),
        )
    Image.new("RGB", (16, 16), "red").save(folder / "Alice (v1).preview.png")
    (folder / "Alice (v1).civitai.info").write_text(json.dumps({"trainedWords": ["blue haired girl"]}))
    return folder


@pytest.fixture(scope="session")
def object_info(server):
    """What the server says of its nodes, with the files there that templates ask their user for."""
    make_files(server, 0 if FILM else 2)
    return server.object_info()


@pytest.fixture(scope="session")
def desks(browser, server, object_info, concepts, loras):
    """A page in each renderer, side by side: what one has run the other finds in the host's cache. Where a subgraph is
    made or unpacked Nodes 2.0 of front end 1.32 may draw nothing more after that."""
    opened = {renderer: EditorPage(browser, server, renderer) for renderer in RENDERERS}
    yield opened
    for desk in opened.values():
        desk.close()


@pytest.fixture(params=RENDERERS)
def desk(request, desks):
    yield desks[request.param]
    desks[request.param].problems.clear()


@pytest.fixture(scope="session", params=RENDERERS)
def mouse(request, desks):
    """The same page, for tests after which it may not be what it was: they come last (subgraphs, above), and all of one
    renderer before the other's, whose runs would be found in the host's cache."""
    return desks[request.param]


@pytest.fixture(params=RENDERERS)
def tablet(request, desks):
    """The same page on a tablet: touch, and two device pixels per pixel."""
    desk = desks[request.param]
    with desk.as_tablet():
        yield desk
    desk.problems.clear()
