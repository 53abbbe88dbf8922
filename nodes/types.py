"""Our own wires (all others are the host's), where nodes stand in the menu, and by which words they are found."""

from collections.abc import Iterable, Mapping
from dataclasses import fields

from comfy_api.latest import io

from ..mixofshow_core.errors import MixOfShowError

CATEGORY = "Mix-of-Show"
TRAIN, FUSE, PLACE, EVALUATE, DEMO = (f"{CATEGORY}/{part}" for part in ("train", "fuse", "place", "evaluate", "demo"))

CONCEPTS = io.Custom("MIXOFSHOW_CONCEPTS")  # tuple of ConceptUse, in the order of the chain
DATASET = io.Custom("MIXOFSHOW_DATASET")
SETTINGS = io.Custom("MIXOFSHOW_SETTINGS")
REGIONS = io.Custom("MIXOFSHOW_REGIONS")  # validated regions with the canvas size

# What people type who look for a node and do not know its name.
SEARCHED_AS = {
    "MixOfShowDemoModel": "tiny model, test model, example checkpoint",
    "MixOfShowDemoControl": "t2i-adapter, test controlnet",
    "MixOfShowDataset": "training images, captions, dreambooth",
    "MixOfShowTrain": "lora train, train lora, dreambooth, textual inversion, custom diffusion, character, ed-lora",
    "MixOfShowTrainSettings": "learning rate, lora rank, training parameters",
    "MixOfShowCast": "power lora loader, lora stack, multi lora, lora loader, characters, cast",
    "MixOfShowLoadConcept": "load lora, lora loader, multi lora, character, textual inversion, embedding",
    "MixOfShowFuse": "merge lora, multi lora, combine loras, gradient fusion, characters",
    "MixOfShowFusionSettings": "merge settings, lora weights",
    "MixOfShowRegions": "region, regional prompt, attention couple, mask prompt, area prompt, latent couple",
    "MixOfShowPlace": "regional prompt, attention couple, mask prompt, multi lora, character, clip text encode",
    "MixOfShowPickRegion": "detailer, crop region, inpaint region",
    "MixOfShowCoverage": "region tokens, region size, attention map",
    "MixOfShowLearnPlaces": "calibrate attention, attention map",
    "MixOfShowFound": "attention map, daam, segmentation, where, auto mask",
    "MixOfShowRegionControl": "regional controlnet, masked controlnet, t2i-adapter",
    "MixOfShowControlImage": "preprocessor, lineart, openpose, canny",
    "MixOfShowCompare": "xy plot, compare loras, grid",
    "MixOfShowScore": "clip score, similarity, identity score",
    "MixOfShowExport": "save lora, convert lora, kohya, diffusers, save checkpoint",
    "MixOfShowInspect": "lora info, lora metadata, trigger words",
}


def found_by(node_id: str, schema: type = io.Schema) -> dict[str, list[str]]:
    """The search words of a node as an argument of the host's Schema, where that has one (0.3.75 has none)."""
    known = any(field.name == "search_aliases" for field in fields(schema))
    return {"search_aliases": SEARCHED_AS[node_id].split(", ")} if known else {}


def every(value: object) -> list:
    """What arrives at an input of a node that takes lists (`is_input_list`), one after the other; None is nothing."""
    return [item for item in _listed(value) if item is not None]


def alone(node: str, **inputs: object) -> list:
    """The one value of each of these inputs of a node that takes lists, in their order.

    The host would run a node once for every item of a list. A node that wants all of something declares it and gets
    lists at all its inputs; where it can use one value only, several different ones are an error.
    """
    found = []
    for name, value in inputs.items():
        values = _listed(value)
        if any(
            item is not values[0] and not (isinstance(item, str | int | float) and item == values[0]) for item in values
        ):
            raise MixOfShowError(
                f"{node}: a list of {len(values)} arrives at `{name}`, which takes one value. Give it one, or use one "
                f"{node} node for each."
            )
        found.append(values[0] if values else None)
    return found


def in_step(**inputs: object) -> list[dict[str, object]]:
    """The host's own rule for lists, for a node that takes them whole: as many runs as the longest list has items, and
    a shorter one goes on with its last."""
    lists = {name: _listed(value) for name, value in inputs.items()}
    count = max(map(len, lists.values()))
    return [
        {name: values[min(n, len(values) - 1)] if values else None for name, values in lists.items()}
        for n in range(count)
    ]


def _listed(value: object) -> list:
    """A value as the list that the host makes of it; code that calls a node by itself may leave it out."""
    return value if isinstance(value, list) else [value]


def drawn_text(name: str, widget: str, default: str, tooltip: str) -> io.String.Input:
    """A STRING by its socket, so that JSON can be wired in; drawn in the node by the front end's `widget` (web/)."""
    entry = io.String.Input(name, multiline=True, default=default, tooltip=tooltip)
    entry.extra_dict["widgetType"] = widget
    return entry


def in_groups(inputs: Iterable, groups: Mapping[str, str], rare: str) -> list:
    """The inputs of a long node, in their order, which is public: each tooltip begins with its group's name, and the
    `rare` ones stand behind "advanced" where the host knows that (0.3.75 does not: there they are rows like others).
    """
    group_of = {name: group for group, names in groups.items() for name in names.split()}
    inputs = list(inputs)
    for entry in inputs:
        entry.tooltip = f"[{group_of[entry.id]}] {entry.tooltip}"
        if entry.id in rare.split() and hasattr(entry, "advanced"):
            entry.advanced = True
    return inputs
