"""The house keeps its plan: arrows between rooms, no work at import, file length, ASCII, nothing a registry bans."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CORE_ROOMS = ("formats", "training", "fusion", "regional", "metrics")
CORE_PACKAGES = {"torch", "numpy", "safetensors", "einops", "PIL"}
HOST_PACKAGES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "server"}
HOST_PACKAGES |= {"transformers", "aiohttp"}  # the host requires them
OPTIONAL_PACKAGES = {"onnxruntime"}  # imported inside a function only, which says how to install it
MAX_LINES = 400
HEADLESS_PACKAGES = {"yaml", "tqdm"}  # the host requires them
CLUSTER = "headless/cluster"  # the one file that may import Ray, a room of its own
FOLDERS = ("nodes", "mixofshow_core", "headless")
SHIPPED = sorted([ROOT / "__init__.py", *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))])
OUTSIDE = ("world", "benchmarks", "examples")  # rooms that are not shipped
UNSHIPPED = sorted(path for room in OUTSIDE for path in (ROOT / room).rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "web").rglob("*.js")])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(parts: tuple[str, ...]) -> str:
    """Room of a module given its path below the root: ("nodes", "bridge", "host", "text") -> "bridge/host"."""
    if not parts or parts == ("__init__",):
        return "pack"
    if parts[:2] == ("nodes", "bridge"):
        return f"bridge/{parts[2]}" if len(parts) > 2 and (ROOT / "nodes" / "bridge" / parts[2]).is_dir() else "bridge"
    if "/".join(parts[:2]) == CLUSTER:
        return CLUSTER
    if parts[0] == "mixofshow_core":
        return parts[1] if len(parts) > 1 and parts[1] in CORE_ROOMS else "base"
    if parts[0] in OUTSIDE and len(parts) > 1 and (ROOT / parts[0] / parts[1]).is_dir():
        return f"{parts[0]}/{parts[1]}"
    return parts[0]


def parts_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


def read_arrows() -> dict[str, set[str]]:
    """The blocks of arrows in CONTRIBUTING.md: room -> rooms it may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    arrows = {}
    for source, targets in re.findall(r"^ +([\w/]+)(?: \(.*?\))? +--> +(.+)$", text, re.M):
        arrows[source] = set() if targets.startswith("nothing") else set(targets.split())
    wings = {room for room in arrows if room.startswith("bridge/")}
    for targets in arrows.values():
        if "core" in targets:
            targets |= {*CORE_ROOMS, "base"}
        if "bridge" in targets:
            targets |= wings
    return arrows


ARROWS = read_arrows()


def imports_of(path: Path):
    """(line, room or None, top-level package or None) of every import, also those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = parts_of(path)[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, None, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] not in OUTSIDE:
            yield node.lineno, None, node.module.split(".")[0]
    for line, target in targets_of(tree, package):
        yield line, room_of(target), None


def targets_of(tree: ast.AST, package: tuple[str, ...]):
    """(line, path below the root) of every module of ours that a file imports, by relative or full name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if not node.level and node.module.split(".")[0] not in OUTSIDE:
            continue
        base = package[: len(package) - node.level + 1] if node.level else ()
        target = base + tuple(node.module.split(".")) if node.module else base
        for alias in node.names:
            child = (*target, alias.name)
            is_module = (ROOT.joinpath(*child).with_suffix(".py")).is_file() or ROOT.joinpath(*child).is_dir()
            yield node.lineno, child if is_module else target


def test_the_diagram_names_every_room():
    found = {room_of(parts_of(path)) for path in SHIPPED + UNSHIPPED} | {"web"}
    found -= {"bridge"}  # its __init__ alone
    assert set(ARROWS) >= found, f"rooms without a line in CONTRIBUTING.md: {sorted(found - set(ARROWS))}"
    named = set(ARROWS) | {target for targets in ARROWS.values() for target in targets}
    for room in named - {"web", "pack", "nodes", "bridge", "base", "core", *found}:
        raise AssertionError(f"the diagram names {room}, which is gone")


def test_no_arrow_points_up():
    """Rooms can be put on floors: every room's imports lie below it."""
    floors: dict[str, int] = {}

    def floor(room: str, above: tuple[str, ...] = ()) -> int:
        assert room not in above, f"a circle of rooms: {' -> '.join((*above, room))}"
        if room not in floors:
            below = [floor(target, (*above, room)) for target in ARROWS.get(room, ()) if target in ARROWS]
            floors[room] = 1 + max(below, default=0)
        return floors[room]

    for room in ARROWS:
        floor(room)


def test_no_two_files_import_each_other():
    """No circle between files, by whatever import: inside functions and for type checking, too."""
    graph = {}
    for path in SHIPPED + UNSHIPPED:
        found = set()
        for _, target in targets_of(ast.parse(path.read_text(encoding="utf-8")), parts_of(path)[:-1]):
            place = ROOT.joinpath(*target)
            found.add(place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py")
        graph[path] = found - {path}
    circle = find_circle(graph)
    assert not circle, " -> ".join(name_of(path) for path in circle)


def find_circle(graph: dict) -> list:
    """Files of the first circle that is found, or nothing."""
    done: set = set()

    def walk(path, above: list) -> list:
        if path in above:
            return [*above[above.index(path) :], path]
        if path in done:
            return []
        for target in sorted(graph.get(path, ())):
            circle = walk(target, [*above, path])
            if circle:
                return circle
        done.add(path)
        return []

    for path in sorted(graph):
        circle = walk(path, [])
        if circle:
            return circle
    return []


def test_a_circle_is_seen():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("path", UNSHIPPED, ids=name_of)
def test_rooms_that_are_not_shipped_follow_their_arrows(path):
    room = room_of(parts_of(path))
    wrong = [
        f"line {line}: {room} -> {target}"
        for line, target, _ in imports_of(path)
        if target is not None and target != room and target not in ARROWS[room]
    ]
    assert not wrong, f"{name_of(path)}: {wrong}"


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_imports_follow_the_arrows(path):
    room = room_of(parts_of(path))
    wrong = []
    for line, target, package in imports_of(path):
        if target is not None and target != room and target not in ARROWS[room]:
            wrong.append(f"line {line}: {room} -> {target}")
        if package is None or package in sys.stdlib_module_names or package in CORE_PACKAGES:
            continue
        allowed = {
            "bridge": HOST_PACKAGES | OPTIONAL_PACKAGES,
            "nodes": {"comfy_api"},
            "headless": HEADLESS_PACKAGES | ({"ray"} if room == CLUSTER else set()),
        }
        if package not in allowed.get(room.split("/")[0], set()):
            wrong.append(f"line {line}: {room} imports {package}")
    assert not wrong, f"{name_of(path)}: {wrong}"


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_no_work_at_import(path):
    """Module level holds imports, definitions and plain values; a call there must make a value, not do something.

    What a lambda calls runs later.
    """
    plain = r"tuple|frozenset|dict|set|sorted|range|len|sum"
    makers = re.compile(rf"^(replace|re\.compile|logging\.getLogger|(io\.)?[A-Z]\w*|{plain})$")
    methods = re.compile(r"\.(Input|Output|items|keys|values|split|join|format|lower|resolve)$")
    wrong = []
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for index, node in enumerate(body):
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and index == 0:
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            wrong.append(f"line {node.lineno}: {ast.unparse(node)[:60]}")
            continue
        later = {part for lam in ast.walk(node) if isinstance(lam, ast.Lambda) for part in ast.walk(lam.body)}
        for call in [part for part in ast.walk(node) if isinstance(part, ast.Call) and part not in later]:
            name = ast.unparse(call.func)
            if not makers.match(name) and not methods.search(name):
                wrong.append(f"line {call.lineno}: {name}(...)")
    assert not wrong, f"{name_of(path)}: {wrong}"


def test_importing_the_core_touches_nothing():
    """In a fresh process: no file written, no socket, no process, no change of torch's random state or settings."""
    script = """
import importlib, sys, types
import torch, numpy, safetensors.torch, einops, PIL.Image, PIL.ImageDraw
root = sys.argv[1]
pack = types.ModuleType("mos_pack"); pack.__path__ = [root]; sys.modules["mos_pack"] = pack
state, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
wrong = []
def watch(event, args):
    if event in ("socket.connect", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename"):
        wrong.append((event, str(args)))
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        wrong.append((event, str(args)))
sys.addaudithook(watch)
for name in sys.argv[2:]:
    importlib.import_module("mos_pack." + name)
assert not wrong, wrong
assert torch.equal(state, torch.get_rng_state()), "random state changed"
assert (threads, dtype) == (torch.get_num_threads(), torch.get_default_dtype())
assert not any(name.split(".")[0] in ("comfy", "folder_paths", "server") for name in sys.modules)
"""
    core = [path for path in SHIPPED if "mixofshow_core" in parts_of(path)]
    names = [".".join(parts_of(path)).removesuffix(".__init__") for path in core]
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(ROOT), *names], capture_output=True, text=True, cwd=os.sep, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", SHIPPED + SCRIPTS, ids=name_of)
def test_files_are_short_and_ascii(path):
    source = path.read_bytes()
    assert len(source.splitlines()) <= MAX_LINES, f"{name_of(path)}: split it"
    strange = [byte for byte in source if byte > 127]
    assert not strange, f"{name_of(path)}: not ASCII"


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_nothing_the_registry_bans(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    banned = {"eval", "exec", "__import__", "print", "os.system"}
    if name_of(path) != "mixofshow_core/formats/pickled.py":
        banned |= {"torch.load", "pickle.load", "pickle.loads"}
    found = calls & banned | {call for call in calls if call.startswith(("subprocess.", "sys.path."))}
    assert not found, f"{name_of(path)}: {sorted(found)}"
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not asserts, f"{name_of(path)}: assert in lines {asserts}; raise MixOfShowError"


def test_every_folder_says_what_lives_there():
    for path in SHIPPED:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name_of(path)} has no docstring"


def test_a_wrong_arrow_is_seen(tmp_path, monkeypatch):
    """The watcher itself works: a file in fusion that imports training, and the host, is reported."""
    bad = ROOT / "mixofshow_core" / "fusion" / "bad_example.py"
    text = "from ..training import loop\nimport comfy.utils\nfrom ..concept import Concept\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: text)
    found = list(imports_of(bad))
    assert (1, "training", None) in found and (2, None, "comfy") in found and (3, "base", None) in found
    assert "training" not in ARROWS["fusion"]


def test_decisions_are_numbered_without_gaps():
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(name[:3]) for name in names]
    assert numbers == list(range(1, len(names) + 1)), names
    assert all(re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", name) for name in names), names
