"""The in-process host leaves nothing in the system's temporary folder, however its process ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STARTS = """
import importlib.util, pathlib, sys, tempfile
spec = importlib.util.spec_from_file_location("mos_conftest", {conftest!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from mos_tests.host.runtime import find_host, start_host_in_process
start_host_in_process(find_host())
import folder_paths
assert list(pathlib.Path(tempfile.gettempdir()).glob("mixofshow-host-*")), "the base directory is elsewhere"
pathlib.Path(folder_paths.get_output_directory(), "picture.png").write_bytes(b"x")
"""


@pytest.mark.parametrize("end", ["", "raise RuntimeError('a test failed')", "sys.exit(3)"])
def test_the_base_directory_goes_at_exit(tmp_path, end):
    script = STARTS.format(conftest=str(ROOT / "tests" / "conftest.py")) + end
    environment = os.environ | {name: str(tmp_path) for name in ("TMPDIR", "TEMP", "TMP")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert bool(done.returncode) == bool(end) and "AssertionError" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []
