"""The archive that the registry would publish, unpacked into a clean host, has every node and runs workflow 01."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
from mos_tests.host.nodes.test_schemas import CONTRACTS, SETTINGS_NODES
from mos_tests.host.runtime import ROOT, find_host
from safetensors.torch import save_file


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


def test_the_unpacked_archive_runs_workflow_01_in_a_clean_host(unpacked):
    """The shipped file with a few training steps in place of its few hundred: quality is the demo's subject."""
    from mos_tests.host.server import start_server
    from mos_world.workflows.graphs import to_api
    from mos_world.workflows.variants import find, together

    with start_server(find_host(), pack=unpacked, extra_nodes=()) as server:
        listed = {name for name in server.object_info() if name.startswith("MixOfShow")}
        assert listed == set(CONTRACTS) | set(SETTINGS_NODES), server.tail()
        templates = server.get("/workflow_templates").get("mixofshow", [])
        assert sorted(templates) == sorted(path.stem for path in (unpacked / "example_workflows").glob("*.json"))
        workflow = json.loads((unpacked / "example_workflows" / "01_train_fuse_place.json").read_text())
        graph = to_api(workflow, server.object_info())
        for train in find(graph, "MixOfShowTrain"):
            graph[train]["inputs"]["steps"] = 2
        graph[find(graph, "MixOfShowFuse")[0]]["inputs"]["calibration"] = "quick"
        graph[find(graph, "KSampler")[0]]["inputs"]["steps"] = 2
        graph = together(graph, "fused", True, "archive", seed=1, batch=1)
        pictures = server.run(graph)[find(graph, "SaveImage")[0]]["images"]
        assert len(pictures) == 1


def test_the_unpacked_command_line_reads_a_foreign_lora_through_the_host(unpacked, tmp_path):
    """kohya's names are for ComfyUI's parser: nothing that it takes may lie outside the archive."""
    layer, rows = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_q", torch.randn(4, 320)
    file, host = tmp_path / "x.safetensors", find_host()
    save_file({f"{layer}.lora_up.weight": rows.T.contiguous(), f"{layer}.lora_down.weight": rows}, file)
    command = [sys.executable, str(unpacked / "cli.py"), "inspect", str(file), "--comfyui", str(host)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 Spatial layers" in done.stdout, done.stdout
