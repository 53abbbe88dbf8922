"""Ray: a worker killed in every phase, and not a byte differs; an unreachable cluster is one line."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="NO RAY HERE: the cluster was NOT tested"),
    pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL"),
]


@pytest.mark.parametrize("commands", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["at once", "commands"])
def test_a_worker_killed_in_every_phase_changes_no_byte(tmp_path, commands):
    """Two concepts, four steps; `python dev.py cluster` has eight, by the commands."""
    from mos_world.workflows.cluster import PHASES, scenario

    found = scenario(tmp_path, concepts=2, steps=4, commands=commands)
    assert found["files"] == 3 and set(found["killed"]) == set(PHASES)


def test_an_unreachable_cluster_is_refused_in_one_line(tmp_path):
    from mos_world.workflows.cluster import write_project

    folder = write_project(tmp_path / "project", 1, 1)
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "train", "--ray", "127.0.0.1:1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "No Ray cluster at 127.0.0.1:1" in done.stderr, done.stderr[-1000:]
