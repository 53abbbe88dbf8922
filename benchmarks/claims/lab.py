"""Running hosts that train and paint the cells of the claims' tables; everything is kept in .cache/claims.

A cell is one graph. What it depends on (base, graph, concept files, which carry a hash of their training) is its name
in the cache, so a run that is cut off goes on where it was. Change VERSION where the code that paints has changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.host.runtime import find_host
from tests.host.server import Server, ServerError, start_server
from world.judges import evaluator
from world.judges.evaluator_kinds import CONCEPTS, picture_files

from . import graphs as graphs

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "claims"
VERSION = 2
NODES = Path(__file__).resolve().parent / "peer_nodes.py"
# Seconds of one idle core (base A; others cost BASE_FACTOR times as much), as measured; corrected while a run goes on.
PICTURE, STEP, SHEET, CALIBRATION, FUSION = 0.3, 0.22, 2.0, 5.0, 2.0
PRESET_FACTOR = {"Textual Inversion": 0.8, "P+": 0.8, "Custom Diffusion": 1.8, "DreamBooth": 2.0}
LOOK_IN = 240.0
BASE_FACTOR = {"A": 1.0, "B": 2.5, "C": 1.5}


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Training:
    """One training. at: the concept as it was after that many steps (one of `every`), 0 = the finished one."""

    name: str
    kind: str
    class_word: str
    preset: str
    steps: int
    pictures: int = 10
    seed: int = 0
    every: int = 0
    changes: tuple[tuple[str, object], ...] = ()
    at: int = 0

    @property
    def whole(self) -> Training:
        return replace(self, at=0)

    def dataset(self) -> dict[str, str]:
        """Inputs of a Dataset node."""
        folder = str(picture_folder(self))
        return {"name": self.name, "class_word": self.class_word, "kind": self.kind, "folder": folder}

    def seconds(self, base: str) -> float:
        sheets = self.steps // self.every if self.every else 1  # pictures of steps on the way, and of the end
        return (self.steps * STEP * PRESET_FACTOR.get(self.preset, 1.0) + sheets * SHEET) * BASE_FACTOR[base]


@dataclass(frozen=True)
class Cell:
    """One graph to run: `build` makes it from the studio and the concepts' files. canvases: of 64 pixels, painted."""

    label: tuple
    trainings: tuple[Training, ...]
    build: Callable[[graphs.Studio, Mapping[str, str]], dict]
    canvases: int
    calibrations: float = 0.0

    def seconds(self, base: str) -> float:
        return FUSION + (self.canvases * PICTURE + self.calibrations * CALIBRATION) * BASE_FACTOR[base]


@dataclass(frozen=True)
class Job:
    """Cells that are worth something together: all ways of one group."""

    table: str
    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Painted:
    """What one SaveImage of a cell left: features [N, columns, 1280], corner colours [N, columns, 3] in 0..255, and
    sharpness [N, columns], the mean step between neighbouring pixels in 0..255."""

    features: torch.Tensor
    corners: torch.Tensor
    sharpness: torch.Tensor


def measure(net: torch.nn.Module, pictures: np.ndarray) -> Painted:
    """uint8 [N, 64, 64 x columns, 3] -> everything that is scored."""
    count, columns = len(pictures), pictures.shape[2] // graphs.SIDE
    parts = pictures.reshape(count, graphs.SIDE, columns, graphs.SIDE, 3).transpose(0, 2, 1, 3, 4)
    parts = parts.reshape(-1, graphs.SIDE, graphs.SIDE, 3)
    rows = evaluator.features(net, [Image.fromarray(part) for part in parts])
    pixels = torch.from_numpy(parts.astype(np.float32))
    corners = torch.cat([pixels[:, :8, :6], pixels[:, :8, -6:]], 2).flatten(1, 2).median(1).values
    steps = (pixels.diff(dim=1).abs().mean((1, 2, 3)) + pixels.diff(dim=2).abs().mean((1, 2, 3))) / 2
    return Painted(rows.view(count, columns, -1), corners.view(count, columns, 3), steps.view(count, columns))


@dataclass
class Lab:
    """The cache, and the servers that fill it. Threads of one run share it; one training is never done twice."""

    studio: graphs.Studio
    base: str  # hash of the base's weights
    commit: str
    say: Callable[[str], None]
    net: torch.nn.Module | None = None
    locks: dict[Training, threading.Lock] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    painting: threading.Lock = field(default_factory=threading.Lock)
    failures: list[str] = field(default_factory=list)
    commits: set[str] = field(default_factory=set)  # of whatever was looked at
    spent: float = 0.0
    expected: float = 0.0

    # -- trainings

    def stem(self, training: Training) -> str:
        return f"{training.name}-{digest(VERSION, self.base, vars(training.whole))[:10]}"

    def record_path(self, training: Training) -> Path:
        return CACHE / f"train-{self.stem(training)}.json"

    def record(self, training: Training) -> dict | None:
        """file, seconds, peak_mib, bytes of a finished training."""
        path = self.record_path(training)
        saved = json.loads(path.read_text()) if path.exists() else {}
        self.commits.add(saved.get("commit", self.commit))
        return saved if saved and (host_folder(0) / "models" / "loras" / saved["file"]).exists() else None

    def file(self, training: Training) -> str:
        """What Load Concept calls a training's file. The names of files follow from what was trained."""
        ending = f"-step{training.at}" if training.at else ""
        return f"mixofshow/{self.stem(training)}{ending}.safetensors"

    def train(self, server: Server, training: Training) -> None:
        training = training.whole
        with self.lock:
            lock = self.locks.setdefault(training, threading.Lock())
        with lock:
            if self.record(training):
                return
            changes = dict(training.changes)
            beside, after = changes.pop(graphs.BESIDE, None), changes.pop(graphs.AFTER, None)
            if after:
                self.train(server, after)
            if training.every:
                changes |= {"validate_every": training.every, "validation_prompts": f"a photo of {training.name}"}
            datasets = [t.dataset() for t in (training, beside) if t]
            nodes = graphs.training(
                self.studio,
                datasets,
                training.preset,
                training.steps,
                training.seed,
                self.stem(training),
                changes,
                {after.name: self.file(after)} if after else {},
            )
            # What a run left that was cut off would push this one's files to other names.
            loras, steps = host_folder(0) / "models" / "loras" / "mixofshow", server.base / "output/mixofshow/steps"
            for left in (*loras.glob(f"{self.stem(training)}*"), *steps.glob(f"{self.stem(training)}*")):
                left.unlink()
            server.run({"fresh": {"class_type": "ClaimsFreshMemory", "inputs": {}}})
            before, begin = memory_mib(server.process.pid, "VmRSS"), time.monotonic()
            outputs = server.run(nodes, timeout=7200)
            seconds = time.monotonic() - begin
            path = Path(outputs["path"]["text"][0].strip().splitlines()[-1])
            for early in steps.glob(f"{self.stem(training)}-step*"):
                early.rename(loras / early.name)  # where every host finds it
            record = {
                "file": f"mixofshow/{path.name}",
                "seconds": seconds,
                "bytes": path.stat().st_size,
                "peak_mib": memory_mib(server.process.pid, "VmHWM") - before,
                "commit": self.commit,
            }
            if record["file"] != self.file(training):
                raise RuntimeError(f"{path.name} was saved where {self.file(training)} was expected: remove {CACHE}")
            self.record_path(training).write_text(json.dumps(record))
            self.count(seconds, training.seconds(self.studio.base))
            self.say(f"  trained {training.name}, {training.preset}, {training.pictures} pictures: {seconds:.0f} s")

    # -- cells

    def nodes(self, cell: Cell) -> dict:
        return cell.build(self.studio, {t.name: self.file(t) for t in cell.trainings})

    def cell_path(self, cell: Cell) -> Path:
        nodes = self.nodes(cell)
        parts = [VERSION, self.base, nodes]
        if any(node.get("class_type") == "MixOfShowFuse" for node in nodes.values()):
            parts.append(self.studio.fusion_defaults())  # they act where the graph has no Fusion Settings
        return CACHE / f"cell-{digest(*parts)}.npz"

    def make(self, server: Server, cell: Cell) -> None:
        """Train what is missing and paint the cell, unless it is there."""
        path = self.cell_path(cell)
        if path.exists():
            return
        for training in cell.trainings:
            self.train(server, training)
        begin, nodes = time.monotonic(), self.nodes(cell)
        outputs = server.run(nodes, timeout=7200)
        seconds = time.monotonic() - begin
        kept = {"": np.array(json.dumps({"seconds": seconds, "commit": self.commit}))}
        for key, node in nodes.items():
            if node["class_type"] == "SaveImage":
                pictures = [Image.open(io.BytesIO(server.image(entry))) for entry in outputs[key]["images"]]
                stack = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
                with self.painting:
                    self.net = self.net or evaluator.load_evaluator()
                found = measure(self.net, stack)
                kept |= {f"{key}/{part}": value.numpy().astype(np.float16) for part, value in vars(found).items()}
                kept[f"{key}/pictures"] = stack
        temporary = path.with_suffix(f".{threading.get_ident()}.npz")
        np.savez(temporary, **kept)
        temporary.replace(path)
        shutil.rmtree(server.base / "output" / "claims", ignore_errors=True)
        self.count(time.monotonic() - begin, cell.seconds(self.studio.base))
        self.say(f"  {' / '.join(map(str, cell.label))}: {seconds:.0f} s")

    def look(self, cell: Cell) -> tuple[dict[str, Painted], dict] | None:
        """(what was painted by key, {seconds, commit}), or None where the cell is missing."""
        path = self.cell_path(cell)
        if not path.exists():
            return None
        with np.load(path) as data:
            keys = {name.rpartition("/")[0] for name in data.files} - {""}
            painted = {
                key: Painted(
                    *(torch.from_numpy(data[f"{key}/{part}"]).float() for part in ("features", "corners", "sharpness"))
                )
                for key in keys
            }
            facts = json.loads(str(data[""]))
            self.commits.add(facts["commit"])
            return painted, facts

    def count(self, spent: float, expected: float) -> None:
        with self.lock:
            self.spent, self.expected = self.spent + spent, self.expected + expected

    @property
    def slowness(self) -> float:
        """Seconds spent for one expected."""
        return self.spent / self.expected if self.expected > 30 else 1.0

    def missing(self, cells: Sequence[Cell]) -> tuple[list[Cell], list[Training]]:
        cells = [cell for cell in cells if not self.cell_path(cell).exists()]
        wanted = dict.fromkeys(t.whole for cell in cells for t in cell.trainings)
        return cells, [t for t in wanted if not self.record(t)]

    def estimate(self, cells: Sequence[Cell]) -> float:
        """Core seconds, by the constants above."""
        cells, trainings = self.missing(cells)
        base = self.studio.base
        return sum(cell.seconds(base) for cell in cells) + sum(t.seconds(base) for t in trainings)


def picture_folder(training: Training) -> Path:
    """The training pictures; fewer than all are the first ones, copied to a folder of their own."""
    folder = CONCEPTS / training.kind / training.name / "train"
    files = picture_files(folder)
    if training.pictures >= len(files):
        return folder
    few = CACHE / "pictures" / f"{training.kind}-{training.name}-{training.pictures}"
    if not few.exists():
        part = few.with_name(f"{few.name}.{threading.get_ident()}")
        part.mkdir(parents=True)
        for file in files[: training.pictures]:
            for path in folder.glob(f"{file.stem}.*"):
                shutil.copy(path, part)
        part.replace(few)
    return few


def memory_mib(pid: int, entry: str) -> float:
    """VmRSS or VmHWM of a process; nan where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{entry}:")), float("nan"))


def host_folder(number: int) -> Path:
    return CACHE / ("host" if number == 0 else f"host{number}")


def prepare_folder(number: int) -> Path:
    """A base directory per server; LoRAs, statistics and snapshots are those of the first."""
    folder, first = host_folder(number), host_folder(0)
    for part in (Path("models") / "loras", Path("user") / "mixofshow"):
        (first / part).mkdir(parents=True, exist_ok=True)
        link = folder / part
        if number and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(first / part, target_is_directory=True)
    return folder


def run_jobs(
    make_lab: Callable[[Server], Lab],
    order: Callable[[Lab], Sequence[Job]],
    workers: int,
    deadline: float,
    look_in: Callable[[Lab], None],
) -> Lab:
    """Run jobs in order on `workers` hosts of one thread each until all are done or the deadline comes.

    Every LOOK_IN seconds, `look_in` may write what is there. A cell that fails is named in the lab's failures and left
    out; a host that dies leaves the rest to the others.
    """
    os.environ["OMP_NUM_THREADS"] = "1" if workers > 1 else os.environ.get("OMP_NUM_THREADS", "2")
    CACHE.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(start_server(find_host(), extra_nodes=(NODES,), base=prepare_folder(n)))
            for n in range(workers)
        ]
        lab = make_lab(servers[0])
        waiting, hand = list(order(lab)), threading.Lock()

        def work(server: Server) -> None:
            while True:
                with hand:
                    if not waiting:
                        return
                    job = waiting.pop(0)
                for cell in job.cells:
                    if time.monotonic() + lab.estimate([cell]) * lab.slowness > deadline:
                        continue  # a cheaper one may still fit
                    try:
                        lab.make(server, cell)
                    except (ServerError, OSError) as error:
                        lab.failures.append(f"{' / '.join(map(str, cell.label))}: {error}")
                        lab.say(f"  FAILED {lab.failures[-1].splitlines()[0]}")
                        if server.process.poll() is not None:
                            return lab.say(f"  a host has died, see {server.log}")

        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(work, server) for server in servers]
            try:
                while wait(futures, LOOK_IN, FIRST_EXCEPTION).not_done and not failed(futures):
                    try:
                        look_in(lab)
                    except Exception as error:  # noqa: BLE001  a page can be written later, an hour's run not
                        lab.say(f"  the page was not written: {error!r}")
                for future in futures:
                    future.result()
            except BaseException:
                waiting.clear()
                for server in servers:
                    with suppress(OSError):
                        server.process.terminate()
                raise
    return lab


def failed(futures: Sequence[Future]) -> bool:
    return any(future.done() and future.exception() for future in futures)


def current_commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip()
