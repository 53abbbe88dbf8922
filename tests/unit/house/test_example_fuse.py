"""examples/: short, run by hand from anywhere, without ComfyUI, and true in what they print."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
MAX_LINES = 80
AFTERWARDS = """
import runpy, sys
made = runpy.run_path(sys.argv[1], run_name="__main__")["main"]()
ours = {name for name in sys.modules if name.startswith("mixofshow_pack.")}
assert ours and all(name.split(".")[1] == "mixofshow_core" for name in ours), ours
assert not {"comfy", "nodes", "folder_paths"} & set(sys.modules)
cells = {method: made[method]["roles"]["cross_kv"] for method in made}
assert max(cells["sum"]["residual"]) > 1, cells  # worse than leaving the concept out
assert max(cells["exact"]["residual"]) < 0.3, cells
assert cells["exact"]["residual_average"] > cells["exact"]["residual"], cells
"""


def test_examples_are_short():
    long = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert long and max(long.values()) <= MAX_LINES, long


def test_fuse_without_comfyui_tells_its_story(tmp_path):
    example = EXAMPLES / "fuse_without_comfyui.py"
    done = subprocess.run(
        [sys.executable, "-B", "-c", AFTERWARDS, str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "method exact" in done.stdout and "mara keeps: " in done.stdout
