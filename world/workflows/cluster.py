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
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "assets" / "demo" / "pictures"
PHASES = {"train": "ray::train ", "look at": "ray::look at ", "solve": "ray::solve "}  # how Ray calls their processes
SETTINGS = {"batch": 1, "preview_every": 0, "snapshot_every": 2}
TIMEOUT = 1500


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


def run(folder: Path, command: str, *words: str, kill: tuple[str, ...] = ()) -> dict[str, int]:
    """Run a command of cli.py to its end; kill the first worker seen in each of these phases. Their process ids."""
    killed: dict[str, int] = {}
    log = folder / f"{command}.log"
    line = [sys.executable, str(ROOT / "cli.py"), command, *words, "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    with open(log, "wb") as out, subprocess.Popen(line, cwd=folder, stdout=out, stderr=out, env=environment) as process:
        begun = time.monotonic()
        while process.poll() is None:
            for phase in [phase for phase in kill if phase not in killed]:
                if (worker := find_worker(process.pid, PHASES[phase])) and is_ripe(folder, phase):
                    worker.send_signal(signal.SIGKILL)
                    killed[phase] = worker.pid
            if time.monotonic() - begun > TIMEOUT:
                process.kill()
                raise Failure(f"{command} took more than {TIMEOUT} s: {tail(log)}")
            time.sleep(0.02)
    if process.returncode:
        raise Failure(f"{command} ended with {process.returncode}: {tail(log)}")
    return killed


def find_worker(parent: int, title: str) -> psutil.Process | None:
    try:
        for child in psutil.Process(parent).children(recursive=True):
            if " ".join(child.cmdline()).startswith(title):
                return child
    except psutil.Error:  # it ended while it was asked
        return None
    return None


def is_ripe(folder: Path, phase: str) -> bool:
    """A training run is killed when it has something to go on from."""
    snapshots = folder / "comfyui" / "user" / "mixofshow" / "training"
    return phase != "train" or any(snapshots.rglob("*.safetensors"))


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def digests(folder: Path) -> dict[str, str]:
    files = sorted((folder / "comfyui" / "models" / "loras" / "mixofshow").glob("*.safetensors"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scenario(folder: Path, concepts: int, steps: int, workers: int = 2) -> dict[str, object]:
    """Both runs and what came of them; Failure if a phase passed without a death, or a byte differs."""
    plain, shared = (write_project(folder / name, concepts, steps) for name in ("plain", "shared"))
    begun = time.monotonic()
    run(plain, "train"), run(plain, "fuse")
    alone = time.monotonic() - begun
    begun, ray = time.monotonic(), ("--ray", "local", "--workers", str(workers))
    killed = run(shared, "train", *ray, kill=("train",)) | run(shared, "fuse", *ray, kill=("look at", "solve"))
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
