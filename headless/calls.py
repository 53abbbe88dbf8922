"""A node, ours or the host's, called as the host's executor calls it: inputs by name, checked by its own schema."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ..mixofshow_core.errors import MixOfShowError, short

KINDS = {"INT": "integer", "FLOAT": "number", "STRING": "string", "BOOLEAN": "boolean", "COMBO": "string"}


@dataclass(frozen=True)
class Widget:
    """An input that a person fills in. options: what a COMBO takes; None where the node checks it by itself."""

    name: str
    kind: str
    default: object
    low: float | None = None
    high: float | None = None
    options: tuple[str, ...] | None = None
    tooltip: str = ""

    def check(self, value: object, where: str) -> object:
        """The value as the node takes it; MixOfShowError names `where`."""
        fits = {
            "INT": isinstance(value, int) and not isinstance(value, bool),
            "FLOAT": isinstance(value, (int, float)) and not isinstance(value, bool),
            "BOOLEAN": isinstance(value, bool),
        }.get(self.kind, isinstance(value, str))
        if not fits:
            raise MixOfShowError(f"{where}: {self.name} is {short(value)}; it takes one {KINDS[self.kind]}.")
        if self.kind in ("INT", "FLOAT"):
            low, high = (bound if bound is not None else value for bound in (self.low, self.high))
            if not low <= value <= high:
                raise MixOfShowError(f"{where}: {self.name} is {value}; it must be {low:g} to {high:g}.")
            return float(value) if self.kind == "FLOAT" else value
        if self.options is not None and value not in self.options:
            raise MixOfShowError(f"{where}: {self.name} is {short(value)}; use one of {', '.join(self.options)}.")
        return value


def widgets_of(node: type) -> dict[str, Widget]:
    """What a person fills in on this node, in the node's order; wires are left out."""
    asked = node.INPUT_TYPES()
    own_check = "validate_inputs" in vars(node)  # of files, which may appear after this was asked
    found = {}
    for name, entry in {**asked.get("required", {}), **asked.get("optional", {})}.items():
        kind, facts = entry[0], entry[1] if len(entry) > 1 else {}
        options = kind if isinstance(kind, list) else facts.get("options")
        kind = "COMBO" if isinstance(kind, list) else kind
        if kind not in KINDS:
            continue
        default = facts.get("default", options[0] if options else {"STRING": "", "BOOLEAN": False}.get(kind, 0))
        options = tuple(options) if options and not own_check else None
        low, high = facts.get("min"), facts.get("max")
        found[name] = Widget(name, kind, default, low, high, options, facts.get("tooltip", ""))
    return found


def fill(node: type, given: Mapping[str, object], where: str, leave: Iterable[str] = ()) -> dict[str, object]:
    """All widgets of a node: what is given, checked, and the node's defaults. `leave`: what the caller sets itself."""
    known = {name: widget for name, widget in widgets_of(node).items() if name not in leave}
    if strange := sorted(map(str, set(given) - set(known))):
        raise MixOfShowError(f"{where} has no input {', '.join(strange)}; it takes {', '.join(known)}.")
    values = {name: widget.default for name, widget in known.items()}
    return values | {name: known[name].check(value, where) for name, value in given.items()}


def call(node: type, /, **inputs: object) -> tuple:
    """Outputs of a node, in its order. As in the host's executor, nothing is recorded for gradients."""
    return _run(node, inputs)[0]


def call_and_read(node: type, /, **inputs: object) -> tuple[tuple, str]:
    """Outputs of a node, and the words that it shows."""
    return _run(node, inputs)


def _run(node: type, inputs: dict[str, object]) -> tuple[tuple, str]:
    with torch.inference_mode():
        if hasattr(node, "define_schema"):
            _ask_about_files(node, inputs)
            made = node.execute(**inputs)
            outputs = zip(made.args, node.define_schema().outputs, strict=True)
            return tuple(_alone(value) if output.is_output_list else value for value, output in outputs), _words(
                made.ui
            )
        made = getattr(node(), node.FUNCTION)(**inputs)
    if isinstance(made, dict):
        return tuple(made.get("result", ())), ""
    return tuple(made), ""


def _alone(values: list) -> object:
    """A list of one, which the host would hand on as that one; a project has one value at every input."""
    return values[0] if len(values) == 1 else values


def _ask_about_files(node: type, inputs: Mapping[str, object]) -> None:
    if "validate_inputs" in vars(node):
        asked = inspect.signature(node.validate_inputs).parameters
        answer = node.validate_inputs(**{name: inputs[name] for name in asked if name in inputs})
        if answer is not True:
            raise MixOfShowError(str(answer))


def _words(shown: object) -> str:
    facts = shown if isinstance(shown, dict) else shown.as_dict() if shown is not None else {}
    text = facts.get("text", "")
    return text if isinstance(text, str) else "\n".join(map(str, text))
