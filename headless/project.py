"""The project file: what to train, fuse and paint, as YAML whose words are the nodes' own inputs.

Only its shape is checked here; what an input may be, its node says (calls.py) when it is called. docs/project.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..mixofshow_core.atomic import replacing
from ..mixofshow_core.errors import MixOfShowError, short
from ..mixofshow_core.names import is_name

VERSION = 1
NAME = "mixofshow.yaml"
MAX_BYTES = 1_000_000
# Sections whose words are inputs of one node, and that node; `sample` is the host's KSampler with its empty latent.
SECTIONS = {
    "train": "MixOfShowTrain",
    "train_settings": "MixOfShowTrainSettings",
    "fuse": "MixOfShowFuse",
    "fusion_settings": "MixOfShowFusionSettings",
    "regions": "MixOfShowRegions",
    "place": "MixOfShowPlace",
    "sample": "KSampler",
    "score": "MixOfShowScore",
}
OF_A_CONCEPT = ("dataset", "load", "train", "train_settings")
WAYS = ("fused", "routed")  # how sample puts several concepts into one picture


@dataclass(frozen=True)
class ConceptPart:
    """One concept: `dataset` to train on, or `load`, a file that is there. The others go over the project's."""

    name: str
    dataset: Mapping[str, object] | None = None
    load: Mapping[str, object] | None = None
    train: Mapping[str, object] = field(default_factory=dict)
    train_settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.dataset is None) == (self.load is None):
            raise MixOfShowError(f"concepts.{self.name} needs `dataset` (pictures) or `load` (a file), one of them.")


@dataclass(frozen=True)
class Project:
    """A whole project. base_directory: ComfyUI's folders for it (models, input, output, user)."""

    path: Path
    model: Mapping[str, object]
    concepts: Mapping[str, ConceptPart]
    sections: Mapping[str, Mapping[str, object]]
    base_directory: Path
    threads: int = 0
    device: str = "cpu"
    way: str = "fused"

    def part(self, section: str) -> Mapping[str, object]:
        return self.sections.get(section, {})


class _Loader(yaml.SafeLoader):
    """No key twice, and no aliases: a small text must not stand for a huge one."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.YAMLError(f"{', '.join(twice)} stands twice in the same place (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


def read_project(path: Path, changes: list[str] | tuple[str, ...] = ()) -> Project:
    """The project in a file. changes: `train.steps=20`, as --set gives them, over what the file says."""
    if not path.is_file():
        raise MixOfShowError(f"No project file {path}: make one with `cli.py init`, or name yours with --project.")
    if path.stat().st_size > MAX_BYTES:
        raise MixOfShowError(f"{path.name} has {path.stat().st_size} bytes; a project has at most {MAX_BYTES}.")
    found = _mapping(_read_yaml(path.read_text(encoding="utf-8"), path.name), path.name)
    for change in changes:
        _change(found, change)
    return parse_project(found, path)


def parse_project(found: Mapping[str, object], path: Path) -> Project:
    """MixOfShowError names the place in the file."""
    if found.get("version") != VERSION:
        raise MixOfShowError(f"{path.name}: version is {short(found.get('version'))}; this cli.py reads {VERSION}.")
    own = {"version", "model", "concepts", "base_directory", "threads", "device", "way"}
    if strange := sorted(set(map(str, found)) - own - set(SECTIONS)):
        raise MixOfShowError(
            f"{path.name} has {', '.join(strange)[:200]}, which means nothing; known are "
            f"{', '.join(sorted(own | set(SECTIONS)))}."
        )
    model = _mapping(found.get("model", {}), "model")
    if set(model) not in ({"base"}, {"ckpt_name"}):
        raise MixOfShowError(
            f"{path.name}: model is {short(model)}; write `base: SD1.5 kind` (Demo Model) or "
            "`ckpt_name: FILE` (a file in models/checkpoints)."
        )
    concepts = {
        name: _concept(name, entry, path.name)
        for name, entry in _mapping(found.get("concepts", {}), "concepts").items()
    }
    threads, device, way = found.get("threads", 0), found.get("device", "cpu"), found.get("way", "fused")
    if not isinstance(threads, int) or isinstance(threads, bool) or not 0 <= threads <= 1024:
        raise MixOfShowError(f"{path.name}: threads is {short(threads)}; write 0 (as torch chooses) to 1024.")
    for name, value, known in (("device", device, ("cpu", "auto")), ("way", way, WAYS)):
        if value not in known:
            raise MixOfShowError(f"{path.name}: {name} is {short(value)}; use one of {', '.join(known)}.")
    folder = found.get("base_directory", "comfyui")
    if not isinstance(folder, str) or not folder.strip():
        raise MixOfShowError(f"{path.name}: base_directory is {short(folder)}; it takes a folder's path.")
    sections = {name: _mapping(found[name], name) for name in SECTIONS if name in found}
    base = (path.parent / Path(folder).expanduser()).resolve()
    return Project(path, model, concepts, sections, base, threads, device, way)


def _concept(name: object, entry: object, where: str) -> ConceptPart:
    if not isinstance(name, str) or not is_name(name):
        raise MixOfShowError(
            f"{where}: a concept is called {short(name)}; use letters, digits, - and _, beginning with a letter."
        )
    facts = _mapping(entry, f"concepts.{name}")
    if strange := sorted(set(map(str, facts)) - set(OF_A_CONCEPT)):
        raise MixOfShowError(f"{where}: concepts.{name} has {', '.join(strange)}; known are {', '.join(OF_A_CONCEPT)}.")
    return ConceptPart(name, **{key: _mapping(value, f"concepts.{name}.{key}") for key, value in facts.items()})


def _mapping(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise MixOfShowError(f"{where} is {short(value)}; it takes `name: value` lines.")
    return dict(value)


def _read_yaml(text: str, where: str) -> object:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise MixOfShowError(f"{where} is no YAML that can be read: {' '.join(str(error).split())[:300]}") from error


def _change(found: dict, change: str) -> None:
    place, equals, text = change.partition("=")
    *above, last = place.strip().split(".")
    if not equals or not last:
        raise MixOfShowError(f"--set {change}: write it as section.input=value, for instance train.steps=200.")
    for name in above:
        found = found.setdefault(name, {})
        if not isinstance(found, dict):
            raise MixOfShowError(f"--set {change}: {name} holds a value, no inputs.")
    found[last] = _read_yaml(text, f"--set {change}")


def write_new_project(path: Path, concepts: Mapping[str, str], model: str, side: int) -> None:
    """A project for these concepts (name -> folder), side by side in one picture. Nothing is overwritten."""
    if path.exists():
        raise MixOfShowError(f"{path} exists already; edit it, or name another with --project.")
    demo = not model.lower().endswith((".safetensors", ".ckpt", ".sft"))
    share = round(1 / max(len(concepts), 1), 4)
    regions = [
        {
            "id": f"r{number}",
            "name": name,
            "concept": name,
            "prompt": f"a photo of {name}",
            "shape": {"type": "rect", "x": round(number * share, 4), "y": 0, "width": share, "height": 1},
        }
        for number, name in enumerate(concepts)
    ]
    facts = {
        "version": VERSION,
        "base_directory": "comfyui",
        "model": {"base" if demo else "ckpt_name": model},
        "train": {"preset": "ED-LoRA", "quality": "standard", "steps": 0, "seed": 0},
        "concepts": {
            name: {"dataset": {"class_word": "person", "folder": folder}} for name, folder in concepts.items()
        },
        "fuse": {"method": "exact", "calibration": "standard", "save_as": "people"},
        "regions": {
            "width": side * max(len(concepts), 1),
            "height": side,
            "editor": {"version": 1, "suffix": "green background", "regions": regions},
        },
        "place": {"prompt": f"{' and '.join(concepts)}, green background", "negative": ""},
        "sample": {"seed": 1, "steps": 20, "cfg": 3.0 if demo else 7.0, "sampler_name": "dpmpp_2m", "batch_size": 4},
    }
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    with replacing(path) as part:
        part.write_text(
            f"# Every word is an input of a node; what is left out has that node's default.\n{text}", "utf-8"
        )
