"""One command from a fresh clone: `python dev.py demo | test | serve | bench | gpu | world | cluster | archive`.

Makes .venv and .cache in this folder, gets a ComfyUI to run in, and works in temporary base directories. Nothing
outside this folder is written, and a ComfyUI of yours (COMFYUI_PATH) is only read. Standard library only; Python 3.10
to 3.13.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.environment import (
    CACHE,
    PYTHON,
    ROOT,
    Stop,
    add_extras,
    find_browser,
    find_javascript_tools,
    get_front_end,
    last_lines,
    prepare,
    read,
    say,
)

HOST_SHARES = (("fusing", "headless"), ("training", "nodes"), ("placing",))  # of tests/host, the others are the last


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
    say("all tests: 11 to 15 minutes on two cores")
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
