"""The real front end in Chromium, served by the real server. Skipped, loudly, where there is no Chromium.

MIXOFSHOW_FRONT_END names the `static` folder of another front end than the pinned one.
"""

import json
import os
import time

import pytest
from mos_tests.browser.chromium import FLAGS, find_chromium
from mos_tests.host.runtime import find_host

CHROMIUM = find_chromium()


def pytest_collection_modifyitems(items):
    if CHROMIUM is None:
        reason = "NO CHROMIUM: install it (python dev.py test --system) or set CHROMIUM to its path"
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def server():
    from mos_tests.host.server import start_server

    host = find_host()
    assert host is not None, "no ComfyUI found: run `python dev.py test`, or set COMFYUI_PATH"
    other = os.environ.get("MIXOFSHOW_FRONT_END")
    with start_server(host, arguments=("--front-end-root", other) if other else ()) as running:
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


@pytest.fixture
def page(browser, server):
    """A loaded front end that can reach our server and nothing else. `page.problems`: errors of its own console."""
    empty_queue(server)
    server.post("/settings", {"Comfy.VueNodes.Enabled": False})  # the editor's tests leave their renderer behind
    context = browser.new_context(viewport={"width": 1500, "height": 950})
    context.route(lambda url: not url.startswith(server.url), lambda route: route.abort())
    tab = context.new_page()
    tab.problems = []
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.goto(server.url, timeout=120_000)
    tab.wait_for_function("() => window.app?.graph && window.app.extensionManager && window.LiteGraph", timeout=120_000)
    tab.wait_for_function("() => 'PreviewImage' in window.LiteGraph.registered_node_types", timeout=120_000)
    tab.wait_for_timeout(500)
    yield tab
    context.close()


def empty_queue(server, timeout: float = 60) -> None:
    """Cancels what a test left behind; a job that has not begun yet hears no interrupt, so ask until it ends."""
    server.post("/queue", {"clear": True})
    end = time.monotonic() + timeout
    while server.get("/queue")["queue_running"] and time.monotonic() < end:
        server.interrupt()
        time.sleep(0.5)
