"""The JSON Schema of a project file, made from the nodes' own schemas (docs/project.schema.json)."""

from __future__ import annotations

from .calls import KINDS, Widget, widgets_of
from .host import DEVICES, host_module, pack_module
from .project import OF_A_CONCEPT, SECTIONS, VERSION, WAYS
from .work import CANVAS

TOPICS = ("train", "fuse", "regions", "place", "evaluate", "dataset", "concepts", "demo_model")
CHAINED = {"dataset": "MixOfShowDataset", "load": "MixOfShowLoadConcept"}  # what a concept is made from


def project_schema() -> dict[str, object]:
    """The host has been started. What depends on a machine's files or a host's version is left open."""
    nodes = {node.__name__: node for topic in TOPICS for node in pack_module(f"nodes.{topic}").NODES}
    nodes["KSampler"] = host_module("nodes").KSampler
    sections = {name: _inputs(nodes[node], own=node != "KSampler") for name, node in SECTIONS.items()}
    canvas = widgets_of(host_module("nodes").EmptyLatentImage)
    sections["sample"]["properties"] |= {name: _one(canvas[name], own=False) for name in CANVAS}
    sections["regions"]["properties"]["editor"] = {
        "description": "docs/regions.schema.json, as YAML or as its JSON text.",
        "type": ["object", "string"],
    }
    concept = {name: _inputs(nodes[node]) for name, node in CHAINED.items()}
    concept |= {name: {"$ref": f"#/properties/{name}"} for name in OF_A_CONCEPT if name not in concept}
    base = _inputs(nodes["MixOfShowDemoModel"])["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mix-of-Show project, version 1",
        "description": "Words of a section are inputs of its node; what is left out has the node's default.",
        **_closed(
            {
                "version": {"const": VERSION},
                "base_directory": {"type": "string", "description": "ComfyUI's folders; from the file's own folder."},
                "device": {"enum": list(DEVICES)},
                "threads": {"type": "integer", "minimum": 0, "maximum": 1024},
                "way": {"enum": list(WAYS)},
                "model": _closed(base | {"ckpt_name": {"type": "string"}}) | {"minProperties": 1, "maxProperties": 1},
                "concepts": {"type": "object", "additionalProperties": _closed(concept)},
                **sections,
            }
        ),
        "required": ["version", "model"],
    }


def _closed(properties: dict[str, object]) -> dict[str, object]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _inputs(node: type, own: bool = True) -> dict[str, object]:
    return _closed({name: _one(widget, own) for name, widget in widgets_of(node).items()})


def _one(widget: Widget, own: bool = True) -> dict[str, object]:
    facts: dict[str, object] = {"type": KINDS[widget.kind], "description": widget.tooltip}
    if widget.options is not None and own:
        facts["enum"] = list(widget.options)
    for word, bound in (("minimum", widget.low), ("maximum", widget.high)):
        if bound is not None:
            facts[word] = bound
    return facts
