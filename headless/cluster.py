"""The same commands on many machines, by Ray: pip install "mixofshow[cluster]". docs/cluster.md.

Every concept is trained and looked at by a task, every share of the groups of layers is solved by one. Tasks fill the
project's folders, where the nodes then find what is finished; so the bytes are those of one process. The one file that
imports Ray.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import ray
import torch

from ..mixofshow_core.errors import MixOfShowError
from .host import ROOT, check_versions, pack_module, versions
from .project import ConceptPart, Project
from .told import Teller
from .work import Session

LOCAL = "local"
RETRIES = 5  # how often the death of a worker is forgiven; each new one goes on from the last snapshot
POLL = 0.5
ANSWER = 5.0  # seconds within which a cluster has to answer


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray. threads: of torch in every task, as many as one process would use; gpus: of one task."""

    session: Session
    threads: int
    workers: int
    gpus: float = 0.0

    def train(self, parts: Sequence[ConceptPart]) -> list[str]:
        """Train every concept that has pictures; a line for each that was refused."""
        return self._each(train_one, "train", [part for part in parts if part.dataset is not None])

    def fuse(self, parts: Sequence[ConceptPart]) -> None:
        """Fill the cache that Fuse looks into: statistics of every concept, then the groups of layers, shared out."""
        if refused := self._each(look_at, "look at", list(parts)):
            raise MixOfShowError("; ".join(refused))
        inputs = self.session.fuse_inputs(self.session.concepts(list(parts)))
        inputs.pop("save_as")
        with torch.inference_mode():
            pack_module("nodes.fuse").solve(**inputs, spread=self._spread)

    def _each(self, work: Callable, verb: str, parts: list[ConceptPart]) -> list[str]:
        """Run a task for each concept; what one was refused for concerns that one alone."""
        calls = [(f"{verb} {part.name}", (self._facts(), part.name)) for part in parts]
        refused = []
        for part, answer in zip(parts, self._gather(work, calls), strict=True):
            if text := answer.get("refused"):
                refused.append(f"{part.name}: {text}")
                self.session.tell.say("refused", refused[-1], concept=part.name)
            else:
                self.session.tell.say("result", f"{verb} {part.name}: {answer['done']}", concept=part.name)
        return refused

    def _spread(self, task, groups: Sequence) -> Iterator:
        """As `map`: an answer for each group, in order. A worker holds one matrix at a time."""
        count = max(1, min(len(groups), 2 * self.workers))  # twice as many shares as workers: none waits long
        shares = [list(groups[n::count]) for n in range(count)]
        whole = ray.put(task)
        calls = [(f"solve share {n + 1} of {count}", (self._facts(), whole, share)) for n, share in enumerate(shares)]
        answers = self._gather(solve_share, calls)
        for answer in answers:
            if "refused" in answer:
                raise MixOfShowError(answer["refused"])
        for n in range(len(groups)):
            yield answers[n % count]["done"][n // count]

    def _gather(self, work: Callable, calls: list[tuple[str, tuple]]) -> list:
        """Answers in the order of `calls` (name in Ray's dashboard, arguments); progress on the way."""
        task, needs = ray.remote(work), {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": RETRIES}
        futures = [task.options(name=name, **needs).remote(*given) for name, given in calls]
        waiting = list(futures)
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=POLL)
            self.session.tell.progress(len(futures) - len(waiting), len(futures))
        answers = []
        for (name, _), future in zip(calls, futures, strict=True):
            try:
                answers.append(ray.get(future))
            except ray.exceptions.WorkerCrashedError as error:
                raise MixOfShowError(
                    f"{name}: its worker died {RETRIES + 1} times (killed for memory?). What is finished is kept: give "
                    "it more memory, or fewer workers, and run the same command again."
                ) from error
        return answers

    def _facts(self) -> Facts:
        return Facts(self.session.project, self.session.comfyui, self.threads, versions())


@dataclass(frozen=True)
class Facts:
    """What a task needs to know to be the same process elsewhere; all its paths are of a shared disk."""

    project: Project
    comfyui: Path | None
    threads: int
    versions: dict[str, str]

    def open(self) -> Session:
        session = Session(replace(self.project, threads=self.threads), Teller(quiet=True), self.comfyui).start()
        check_versions(self.versions, versions(), f"the worker on {ray.util.get_node_ip_address()}")
        return session


def train_one(facts: Facts, name: str) -> dict:
    return _answer(lambda: str(_train(facts.open(), name)))


def _train(session: Session, name: str) -> Path:
    return session.train(session.parts([name])[0])


def look_at(facts: Facts, name: str) -> dict:
    return _answer(lambda: f"{facts.open().look(name)} groups of layers")


def solve_share(facts: Facts, task: Callable, groups: Sequence) -> dict:
    """A share of the groups; the model itself is not needed."""
    torch.set_num_threads(facts.threads)
    with torch.inference_mode():
        return _answer(lambda: [task(group) for group in groups])


def _answer(work: Callable) -> dict:
    """A refusal is an answer: Ray need not try it again, nor carry an exception."""
    try:
        return {"done": work()}
    except MixOfShowError as error:
        return {"refused": str(error)}


@contextmanager
def connect(session: Session, address: str, workers: int = 0, gpus: float = 0.0) -> Iterator[Cluster]:
    """address: local, or what Ray calls one (auto, ray://HOST:10001). workers: tasks at a time on this machine."""
    threads = session.project.threads or torch.get_num_threads()
    pack, root = __package__.partition(".")[0], str(ROOT)

    def name_pack() -> None:
        """In every worker, before anything is unpacked there: the pack under its name, from the same path."""
        if pack not in sys.modules:
            sys.modules[pack] = ModuleType(pack)
            sys.modules[pack].__path__ = [root]

    check_reachable(address)
    facts = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"worker_process_setup_hook": name_pack}}
    try:
        if address == LOCAL:
            ray.init(num_cpus=threads * workers or None, **facts)
        else:
            ray.init(address=address, **facts)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise MixOfShowError(
            f"No Ray cluster at {address} ({str(error)[:200]}). If it is running, it may want a token: set "
            "RAY_AUTH_MODE=token here as there (docs/cluster.md). `--ray local` starts one here."
        ) from error
    except Exception as error:  # of no kind of its own where a process of Ray is not there within half a minute
        raise MixOfShowError(
            f"Ray did not start here ({str(error)[:200]}). If the machine is busy with something else, run the same "
            "command again; else Ray's own logs (/tmp/ray/session_latest/logs) say why."
        ) from error
    try:
        count = int(ray.cluster_resources().get("CPU", 1) // threads)
        if count < 1:
            raise MixOfShowError(
                f"A task wants {threads} CPUs (`threads`), and the cluster has fewer: set threads to 1."
            )
        yield Cluster(session, threads, count, gpus)
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Ray ends the whole program where nobody answers at HOST:PORT, so somebody else has to ask first."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except OSError as error:
        raise MixOfShowError(f"No Ray cluster at {address} ({error}): is `ray start --head` running there?") from error
