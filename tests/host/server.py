"""A real ComfyUI server in a temporary base directory, and a small HTTP client for it. Standard library only.

`with start_server(host) as server: outputs = server.run(graph)`. Used by tests and by dev.py; it never touches the
host's own folders.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TINY, QUICK = HERE / "tiny.py", HERE / "quick.py"  # node files of the tests
PACK_FOLDER = "mixofshow"
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models/loras", "models/checkpoints", "models/embeddings")


class ServerError(RuntimeError):
    """The server did not start, stopped, or refused or failed a graph; the text says which, with the server's words."""


@dataclass
class Server:
    """A running server. base: its base directory (output, models, ...)."""

    url: str
    base: Path
    log: Path
    process: subprocess.Popen
    client_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def get(self, path: str):
        """JSON of a GET request."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict):
        """JSON of a POST request, or {} when the answer is empty."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise ServerError(f"the server refused {path}: {error.read().decode(errors='replace')[:4000]}") from None
        return json.loads(text) if text else {}

    def object_info(self) -> dict:
        return self.get("/object_info")

    def queue_prompt(self, graph: dict) -> str:
        """Queues an API-format graph; returns its prompt id. Raises ServerError with the node errors if invalid."""
        return self.post("/prompt", {"prompt": graph, "client_id": self.client_id})["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 600, on_tick: Callable[[float], None] | None = None) -> dict:
        """Outputs of a queued graph, {node id: {"images": [...], "text": [...]}}. on_tick gets the seconds so far."""
        start = time.monotonic()
        while time.monotonic() - start < timeout:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry.get("status", {}).get("completed"):
                return entry["outputs"]
            if entry and entry.get("status", {}).get("status_str") == "error":
                raise ServerError(_failure(entry["status"]["messages"]))
            if self.process.poll() is not None:
                raise ServerError(f"the server stopped while running a graph:\n{self.tail()}")
            if on_tick:
                on_tick(time.monotonic() - start)
            time.sleep(0.2)
        raise ServerError(f"the graph did not finish within {timeout:.0f} s:\n{self.tail()}")

    def run(self, graph: dict, timeout: float = 600, on_tick: Callable[[float], None] | None = None) -> dict:
        return self.wait(self.queue_prompt(graph), timeout, on_tick)

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def image(self, entry: dict) -> bytes:
        """Bytes of one picture named in an output's "images" list."""
        query = urllib.parse.urlencode({key: entry[key] for key in ("filename", "subfolder", "type")})
        with urllib.request.urlopen(f"{self.url}/view?{query}", timeout=60) as answer:
            return answer.read()

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def start_server(
    host: Path,
    *,
    python: str = sys.executable,
    extra_nodes: tuple[Path, ...] = (TINY,),
    arguments: tuple[str, ...] = (),
    port: int | None = None,
    base: Path | None = None,
    pack: Path = ROOT,
    device: tuple[str, ...] = ("--cpu",),
    timeout: float = 240,
) -> Iterator[Server]:
    """Runs the host's main.py with `pack` linked in.

    extra_nodes: node files or folders to link beside the pack. base: base directory to use and keep; without it a new
    one under .cache, removed at the end.
    """
    keep = base is not None
    if base is None:
        cache = ROOT / ".cache"
        cache.mkdir(exist_ok=True)
        base = Path(tempfile.mkdtemp(prefix="run-", dir=cache))
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    _unlink_nodes(base)
    link(pack, base / "custom_nodes" / PACK_FOLDER)
    for path in extra_nodes:
        link(path, base / "custom_nodes" / path.name)
    port = port or free_port()
    log = base / "server.log"
    command = [
        python,
        str(HERE / "launcher.py"),
        str(host),
        "--base-directory",
        str(base),
        "--port",
        str(port),
        "--database-url",
        "sqlite:///:memory:",
        "--disable-api-nodes",
        "--disable-auto-launch",
        *device,
        *arguments,
    ]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command,
            cwd=base,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=os.name != "nt",
        )
    server = Server(f"http://127.0.0.1:{port}", base, log, process)
    try:
        _wait_until_up(server, timeout)
        yield server
    finally:
        _stop(process)
        if not keep:
            _remove(base)


def link(source: Path, target: Path) -> None:
    """Symbolic link; where the system forbids it (Windows without developer mode) a junction, else a copy."""
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
        return
    except OSError:
        pass
    if os.name == "nt" and source.is_dir():
        done = subprocess.run(["cmd", "/c", "mklink", "/J", str(target), str(source)], capture_output=True, check=False)
        if done.returncode == 0:
            return
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".git", ".venv", ".cache", "tests", "world"))
    else:
        shutil.copy2(source, target)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_up(server: Server, timeout: float) -> None:
    start = time.monotonic()
    while time.monotonic() - start < timeout:
        if server.process.poll() is not None:
            code = server.process.returncode
            raise ServerError(f"ComfyUI stopped while starting (exit code {code}):\n{server.tail()}")
        try:
            server.get("/system_stats")
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise ServerError(f"ComfyUI did not answer within {timeout:.0f} s:\n{server.tail()}")


def _stop(process: subprocess.Popen) -> None:
    """Ends the server and everything it started (it leads its own process group)."""
    for action in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        try:
            if os.name == "nt":
                process.terminate()
            else:
                os.killpg(process.pid, action)
        except ProcessLookupError:
            pass
        try:
            process.wait(10)
            return
        except subprocess.TimeoutExpired:
            continue


def _remove(base: Path) -> None:
    _unlink_nodes(base)
    shutil.rmtree(base, ignore_errors=True)


def _unlink_nodes(base: Path) -> None:
    """Empties custom_nodes. Links are removed, never followed (a junction looks like a folder to rmtree)."""
    for entry in (base / "custom_nodes").iterdir():
        if entry.is_symlink() or entry.is_file():
            entry.unlink()
        elif os.name == "nt" and subprocess.run(["cmd", "/c", "rmdir", str(entry)], check=False).returncode == 0:
            continue
        else:
            shutil.rmtree(entry, ignore_errors=True)


def _failure(messages: list) -> str:
    for name, data in messages:
        if name == "execution_error":
            where = f"node {data.get('node_id')} ({data.get('node_type')})"
            return f"{where}: {data.get('exception_type')}: {data.get('exception_message')}\n" + "".join(
                data.get("traceback", [])
            )
        if name == "execution_interrupted":
            return f"interrupted in node {data.get('node_id')} ({data.get('node_type')})"
    return f"the graph failed: {messages}"
