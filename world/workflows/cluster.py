"""`python dev.py cluster`: concepts of the small world, trained and fused by Ray, and a worker killed in every phase.

The files are then the same, byte for byte, as those of one process that nothing happened to.

Needs Ray (tests/requirements-extras.txt) and a system with signals.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
RUN = Path(__file__).resolve().with_name("cluster_run.py")
PICTURES = ROOT / "assets" / "demo" / "pictures"
PHASES = {"train": "ray::train ", "look at": "ray::look at ", "solve": "ray::solve "}  # how Ray calls their processes
SETTINGS = {"batch": 1, "preview_every": 0, "snapshot_every": 1}
TIMEOUT = 1500
# One thread each; every death told; and workers as busy as other processes, behind which Ray puts them (15).
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0", "RAY_worker_niceness": "0"}
# Seconds between two looks at which processes there are, at what they do, and at that while they solve, which takes a
# few hundredths.
FAMILY, DOING, SOLVING = 0.3, 0.05, 0.005
STARTS = 3  # a machine that is busy with something else may not start Ray within the half minute that it waits
NOT_STARTED = "Ray did not start here"


class Failure(RuntimeError):
    """What did not hold."""


def write_project(folder: Path, concepts: int, steps: int) -> Path:
    """Every data set of the demo in turn, each time with another seed."""
    folders = sorted(path.name for path in PICTURES.iterdir() if path.is_dir())
    parts = {
        f"{folders[n % len(folders)]}-{n}": {
            "dataset": {"class_word": "person", "folder": f"demo:{folders[n % len(folders)]}"},
            "train": {"seed": n},
        }
        for n in range(concepts)
    }
    facts = {
        "version": 1,
        "model": {"base": "SD1.5 kind"},
        "threads": 1,
        "train": {"steps": steps},
        "train_settings": SETTINGS,
        "concepts": parts,
        "fuse": {"calibration": "quick", "save_as": "all"},
    }
    folder.mkdir(parents=True)
    (folder / "mixofshow.yaml").write_text(yaml.safe_dump(facts, sort_keys=False))
    return folder


def command(*words: str) -> list[str]:
    """One of cli.py, as a process is called."""
    return [sys.executable, str(ROOT / "cli.py"), *words, "--json"]


def run(folder: Path, line: list[str], kill: tuple[str, ...] = ()) -> dict[str, int]:
    """Run a process to its end; kill the first worker seen in each of these phases. Their process ids."""
    log, environment = folder / "log", os.environ | ENVIRONMENT
    for start in range(STARTS):
        with open(log, "wb") as out:
            process = subprocess.Popen(line, cwd=folder, stdout=out, stderr=out, env=environment)
            try:
                killed = watch(process, folder, kill)
            finally:
                process.kill()
                process.wait()
        if not process.returncode:
            return killed
        if NOT_STARTED not in log.read_text(errors="replace") or start == STARTS - 1:
            break
    raise Failure(f"{line[1:]} ended with {process.returncode}: {tail(log)}")


def watch(process: subprocess.Popen, folder: Path, kill: tuple[str, ...]) -> dict[str, int]:
    """Wait for the process to end, and kill on the way. Process ids by phase."""
    killed: dict[str, int] = {}
    begun, looked, workers = time.monotonic(), 0.0, []
    while process.poll() is None:
        if (now := time.monotonic()) - looked > FAMILY:
            workers, looked = descendants(process.pid), now
        left = [phase for phase in kill if phase not in killed]
        for phase in left:
            if worker := find_worker(workers, folder, phase):
                worker.send_signal(signal.SIGKILL)
                killed[phase] = worker.pid
        if now - begun > TIMEOUT:
            raise Failure(f"{process.args[1:]} took more than {TIMEOUT} s: {tail(folder / 'log')}")
        time.sleep(SOLVING if left == ["solve"] else DOING)
    return killed


def descendants(parent: int) -> list[psutil.Process]:
    try:
        return psutil.Process(parent).children(recursive=True)
    except psutil.Error:  # it ended while it was asked
        return []


def find_worker(workers: list[psutil.Process], folder: Path, phase: str) -> psutil.Process | None:
    """One that is in this phase; one that trains only when it has something to go on from."""
    for worker in workers:
        try:
            title = " ".join(worker.cmdline())
        except psutil.Error:
            continue
        if title.startswith(PHASES[phase]) and (phase != "train" or has_snapshot(folder, title.split()[-1])):
            return worker
    return None


def has_snapshot(folder: Path, concept: str) -> bool:
    """Whether this concept's run has one: its words are called by its name there."""
    for path in (folder / "comfyui" / "user" / "mixofshow" / "training").glob("*.safetensors"):
        with suppress(OSError), open(path, "rb") as file:  # the next one may have taken its place
            size = int.from_bytes(file.read(8), "little")
            if f".{concept}." in file.read(size).decode(errors="replace"):
                return True
    return False


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def digests(folder: Path) -> dict[str, str]:
    files = sorted((folder / "comfyui" / "models" / "loras" / "mixofshow").glob("*.safetensors"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scenario(folder: Path, concepts: int, steps: int, workers: int = 2, commands: bool = True) -> dict[str, object]:
    """Both runs and what came of them; Failure if a phase passed without a death, or a byte differs.

    commands: by those of cli.py, one process each; else by cluster_run.py, which starts everything once.
    """
    plain, shared = (write_project(folder / name, concepts, steps) for name in ("plain", "shared"))
    at_once, ray = [sys.executable, str(RUN)], ("--workers", str(workers))
    begun = time.monotonic()
    for line in [command("train"), command("fuse")] if commands else [at_once]:
        run(plain, line)
    alone = time.monotonic() - begun
    begun = time.monotonic()
    if commands:
        killed = run(shared, command("train", "--ray", "local", *ray), kill=("train",))
        killed |= run(shared, command("fuse", "--ray", "local", *ray), kill=("look at", "solve"))
    else:
        killed = run(shared, [*at_once, *ray], kill=tuple(PHASES))
    together = time.monotonic() - begun
    if missing := set(PHASES) - set(killed):
        raise Failure(f"no worker was seen, so none was killed, while they {', '.join(sorted(missing))}")
    ours, theirs = digests(plain), digests(shared)
    if ours != theirs or len(ours) != concepts + 1:
        raise Failure(f"files differ: {ours} alone, {theirs} by Ray")
    return {"files": len(ours), "killed": killed, "alone_s": alone, "ray_s": together}


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py cluster", description=__doc__)
    parser.add_argument("--concepts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mixofshow-cluster-") as folder:
        found = scenario(Path(folder), options.concepts, options.steps, options.workers)
    deaths = ", ".join(f"{phase} (process {pid})" for phase, pid in found["killed"].items())
    sys.stdout.write(
        f"{options.concepts} concepts, {options.workers} workers; killed by SIGKILL: {deaths}\n"
        f"{found['files']} files equal in bytes; one process {found['alone_s']:.0f} s, Ray with the deaths "
        f"{found['ray_s']:.0f} s\n"
    )


if __name__ == "__main__":
    main()
