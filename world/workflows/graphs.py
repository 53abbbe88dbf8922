"""Workflows as data: a short description of a graph becomes the front end's JSON, and that becomes the API's.

Standard library only, because `dev.py` imports it on a bare machine. `object_info` is what the server answers under
that path: it alone knows the inputs of a node and their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BASES = {"A": "SD1.5 kind", "B": "SDXL kind", "C": "Cosmos kind"}  # the small bases as Demo Model calls them
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTES = ("Note", "MarkdownNote")
MUTED = (2, 4)  # the front end's "never" and "bypass"
# Front end 1.32 draws no text below 57 %. A file without a view is fitted to the screen, whatever is left of its text,
# and Nodes 2.0 then moves the nodes apart.
VIEW = {"scale": 0.6, "offset": [90, 130]}


@dataclass(frozen=True)
class Step:
    """One node: widget values by name, and links as input name -> (step, output slot). layout.py gives it a place."""

    type: str
    widgets: Mapping[str, object] = field(default_factory=dict)
    links: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    title: str = ""
    size: tuple[int, int] | None = None  # its kind's
    pos: tuple[int, int] = (0, 0)


def input_specs(info: Mapping) -> dict[str, tuple[object, dict]]:
    """Inputs of a node in the front end's order: name -> (type, options)."""
    order = info.get("input_order") or {part: list(names) for part, names in info["input"].items()}
    specs = {}
    for part in ("required", "optional"):
        for name in order.get(part, ()):
            spec = info["input"][part][name]
            specs[name] = (spec[0], spec[1] if len(spec) > 1 else {})
    return specs


def is_widget(kind: object, options: Mapping) -> bool:
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput")


def default_value(kind: object, options: Mapping):
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, list) else options.get("options")
    return choices[0] if choices else {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(str(kind), "")


def build_workflow(steps: Mapping[str, Step], object_info: Mapping) -> dict:
    """The front end's workflow JSON of a graph; unknown widget or input names raise KeyError."""
    numbers = {key: number for number, key in enumerate(steps, start=1)}
    nodes = {key: _node(numbers[key], step, object_info) for key, step in steps.items()}
    links = []
    for key, step in steps.items():
        for name, (source, slot) in step.links.items():
            number = len(links) + 1
            target = _socket(nodes[key], name, object_info[step.type])
            nodes[key]["inputs"][target]["link"] = number
            output = nodes[source]["outputs"][slot]
            output["links"].append(number)
            links.append([number, numbers[source], slot, numbers[key], target, output["type"]])
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": list(nodes.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"ds": VIEW},
        "version": 0.4,
    }


def _node(number: int, step: Step, object_info: Mapping) -> dict:
    node = {
        "id": number,
        "type": step.type,
        "pos": list(step.pos),
        "size": list(step.size or (320, 120)),
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {"Node name for S&R": step.type},
    }
    if step.title:
        node["title"] = step.title
    if step.type in NOTES:
        return node | {"widgets_values": [step.widgets["text"]]}
    info = object_info[step.type]
    specs = input_specs(info)
    unknown = set(step.widgets) - {name for name, spec in specs.items() if is_widget(*spec)}
    if unknown:
        raise KeyError(f"{step.type} has no widgets {sorted(unknown)}")
    node["inputs"] = [
        {"name": name, "type": kind, "link": None}
        for name, (kind, options) in specs.items()
        if not is_widget(kind, options)
    ]
    values = []
    for name, (kind, options) in specs.items():
        if is_widget(kind, options):
            values.append(step.widgets.get(name, default_value(kind, options)))
            if options.get("control_after_generate"):
                values.append("fixed")
    node["outputs"] = [
        {"name": name, "type": kind, "links": [], "slot_index": slot}
        for slot, (name, kind) in enumerate(zip(info["output_name"], info["output"], strict=True))
    ]
    return node | {"widgets_values": values}


def _socket(node: dict, name: str, info: Mapping) -> int:
    """Index of an input socket; a widget gets one when it is linked."""
    for index, socket in enumerate(node["inputs"]):
        if socket["name"] == name:
            return index
    kind, _ = input_specs(info)[name]
    kind = "COMBO" if isinstance(kind, list) else kind
    node["inputs"].append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
    return len(node["inputs"]) - 1


def to_api(workflow: Mapping, object_info: Mapping) -> dict[str, dict]:
    """The API form of a workflow file, as the front end's queue button would send it (no subgraphs, no reroutes)."""
    sources = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES or node.get("mode", 0) in MUTED:
            continue
        values = list(node.get("widgets_values", ()))
        inputs: dict[str, object] = {}
        for name, (kind, options) in input_specs(object_info[node["type"]]).items():
            if is_widget(kind, options) and values:
                inputs[name] = values.pop(0)
                if options.get("control_after_generate"):
                    values.pop(0)
        for socket in node.get("inputs", ()):
            if socket.get("link") is not None:
                source, slot = sources[socket["link"]]
                inputs[socket["name"]] = [source, slot]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph
