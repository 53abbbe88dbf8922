"""Host tests run against a real ComfyUI: in process (sys.path) or as an HTTP server (fixture `server`)."""

import gc
import importlib

import pytest
from mos_tests.host.runtime import find_host, start_host_in_process

HOST = find_host()
if HOST is None:
    pytest.exit("no ComfyUI found: run `python dev.py test`, or set COMFYUI_PATH to a ComfyUI folder", returncode=2)
start_host_in_process(HOST)
importlib.import_module("comfy.sd")
gc.freeze()  # what is imported by now never becomes garbage; every full collection would look at it, 0.3 s each time


@pytest.fixture(scope="session")
def tiny_sd15():
    """Random tiny base with SD1.5's layer structure: `.model`, `.clip`, `.vae`. Clone before patching."""
    from mos_tests.host.tiny import tiny_base

    return tiny_base("sd15")


@pytest.fixture(scope="session")
def tiny_sdxl():
    """Random tiny base with SDXL's layer structure: `.model`, `.clip`, `.vae`. Clone before patching."""
    from mos_tests.host.tiny import tiny_base

    return tiny_base("sdxl")


@pytest.fixture(scope="session")
def tiny_sd2():
    """Random tiny base with SD2's layer structure and its text encoder."""
    from mos_tests.host.tiny import tiny_base

    return tiny_base("sd2")


@pytest.fixture(scope="session")
def tiny_cosmos():
    """Random tiny Cosmos-Predict2: `.model`, `.clip` (T5), `.vae` (Wan 2.1's kind)."""
    from mos_tests.host.tiny import tiny_base

    return tiny_base("cosmos")


@pytest.fixture(scope="session")
def tiny_anima():
    """Random tiny Anima, in hosts that have it: `.model`, `.clip` (Qwen3), `.vae` (Wan 2.1's)."""
    from mos_tests.host.tiny import there, tiny_base

    if not there("anima"):
        pytest.skip("this host has no Anima: it came with 0.10.0")
    return tiny_base("anima")


@pytest.fixture(scope="module")
def quick_sheets():
    """The sheet of pictures that ends a training in two steps instead of twenty: for tests that do not look at it."""
    from mos_pack.nodes.bridge.training import samples

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "STEPS", 2)
        yield


@pytest.fixture(scope="session")
def server():
    """A real ComfyUI server with our pack and the test node `MosTestTinyBase`; see server.py for its methods."""
    from mos_tests.host.server import QUICK, TINY, start_server

    with start_server(HOST, extra_nodes=(TINY, QUICK)) as running:
        yield running
