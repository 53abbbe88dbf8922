"""What the registry would publish: everything tracked less .comfyignore, and nothing else."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def files() -> list[str]:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import dev; print('\\n'.join(dev.archive_files()))"
    done = subprocess.run([sys.executable, "-B", "-c", code, str(ROOT)], capture_output=True, text=True, check=False)
    if done.returncode and not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_tests_and_recipes_stay_out(files):
    out = (
        ".ci/",
        "tests/",
        "world/",
        "benchmarks/",
        "examples/",
        "docs/decisions/",
        "docs/evidence/",
        "dev.py",
        ".cache/",
        ".venv",
    )
    assert not [name for name in files if name.startswith(out)]


def test_what_a_user_needs_is_in(files):
    needed = ["__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "nodes/__init__.py"]
    needed += ["mixofshow_core/concept.py", "cli.py", "headless/commands.py"]
    assert not [name for name in needed if name not in files]
    for folder in ("assets/demo/", "assets/places/", "web/docs/", "example_workflows/", "locales/"):
        assert [name for name in files if name.startswith(folder)], f"{folder} is missing from the archive"


def test_the_archive_is_small(files):
    size = sum((ROOT / name).stat().st_size for name in files)
    assert size < 40e6, f"{size / 1e6:.1f} MB"


def test_weights_are_those_of_the_list():
    """A new version stays in every clone for ever, so that replacing one is a decision (CONTRIBUTING.md)."""
    folder = ROOT / "assets" / "demo"
    listed = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = folder.rglob("*.safetensors")
    found = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert found == listed, "weights changed: once a release at most, together with assets/demo/SHA256SUMS"
