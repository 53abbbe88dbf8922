"""The archive that the registry would publish, unpacked into a clean host, has every node and its files."""

import subprocess
import sys
import zipfile

import pytest
from mos_tests.host.runtime import ROOT, find_host
from mos_tests.host.test_schemas import CONTRACTS, SETTINGS_NODES


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    target = folder / "pack.zip"
    done = subprocess.run(
        [sys.executable, "-B", "dev.py", "archive", str(target)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode and not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(target) as pack:
        pack.extractall(folder / "pack")
    return folder / "pack"


def test_the_unpacked_archive_has_every_node_in_a_clean_host(unpacked):
    from mos_tests.host.server import start_server

    with start_server(find_host(), pack=unpacked, extra_nodes=()) as server:
        listed = {name for name in server.object_info() if name.startswith("MixOfShow")}
        assert listed == set(CONTRACTS) | set(SETTINGS_NODES), server.tail()
        graph = {"1": {"class_type": "MixOfShowDemoModel", "inputs": {}}}
        graph["2"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
        graph["3"] = {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}}
        graph["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
        assert server.run(graph)["4"]["images"]
        templates = server.get("/workflow_templates").get("mixofshow", [])
        assert templates == sorted(path.stem for path in (unpacked / "example_workflows").glob("*.json"))
