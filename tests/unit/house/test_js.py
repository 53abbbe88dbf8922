"""The JavaScript tests of web/ (node --test), and documents repaired by the editor read by our strict Python parser."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from mos_pack.mixofshow_core.regional.schema import parse_regions

ROOT = Path(__file__).resolve().parents[3]
NODE = shutil.which("node")
TYPES = ROOT / "node_modules" / ".bin" / "tsc"
LINT = ROOT / "node_modules" / ".bin" / "eslint"
FORMAT = ROOT / "node_modules" / ".bin" / "prettier"
needs_node = pytest.mark.skipif(NODE is None, reason="NO NODE: install Node.js 20 or newer to run the editor's tests")
needs_tools = pytest.mark.skipif(not TYPES.exists(), reason="NO JAVASCRIPT TOOLS: run `npm install`")


def run(*command: str, timeout: float = 240) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


@needs_node
def test_units():
    run(NODE, "--test", *sorted(str(path) for path in (ROOT / "tests" / "js").glob("*.test.js")))


@needs_node
def test_what_the_editor_repairs_is_sound_for_python():
    repaired = run(NODE, str(ROOT / "tests" / "js" / "repair.js"), "2000", "11").splitlines()
    assert len(repaired) == 2000
    kept = 0
    for text in repaired:
        regions = parse_regions(json.loads(text))
        kept += len(regions.regions)
    assert kept > 1000, "the generator must leave something to keep"


@needs_tools
def test_types():
    run(str(TYPES), "--noEmit")


@needs_tools
def test_style():
    run(str(LINT), "web", "tests/js")
    run(str(FORMAT), "--check", "web/**/*.js", "tests/js/*.js")
