"""Graphs of the claims' tables, as the server's API takes them: trainings, fusions, and ways to put people in a row."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from world.graphs import default_value, input_specs, is_widget

SIDE = 64
STEPS, GUIDANCE = 20, 3.0
UNRELATED = ("a cat, blue background", "a car, green background", "a person, yellow background",
             "a person with short black hair, wearing a red shirt, white background")
BACKGROUND = "green background"


@dataclass
class Graph:
    """Nodes by key. A link is (key, output slot); widgets that are not named get the node's default."""

    object_info: Mapping
    nodes: dict[str, dict] = field(default_factory=dict)

    def add(self, key: str, class_type: str, **inputs: object) -> str:
        specs = input_specs(self.object_info[class_type])
        filled = {name: default_value(*spec) for name, spec in specs.items() if is_widget(*spec)}
        unknown = set(inputs) - set(specs)
        if unknown:
            raise KeyError(f"{class_type} has no inputs {sorted(unknown)}")
        filled |= {name: list(value) if isinstance(value, tuple) else value
                   for name, value in inputs.items() if value is not None}
        self.nodes[key] = {"class_type": class_type, "inputs": filled}
        return key

    def paint(self, key: str, vae: tuple, model: tuple, positive: tuple, negative: tuple, count: int, seed: int,
              width: int = SIDE) -> None:
        """Sample `count` pictures of one row and save them under `key`."""
        self.add(f"{key}-latent", "EmptyLatentImage", width=width, height=SIDE, batch_size=count)
        self.add(f"{key}-sample", "KSampler", model=model, positive=positive, negative=negative, seed=seed,
                 latent_image=(f"{key}-latent", 0), steps=STEPS, cfg=GUIDANCE, sampler_name="dpmpp_2m",
                 scheduler="normal")
        self.add(f"{key}-decode", "VAEDecode", samples=(f"{key}-sample", 0), vae=vae)
        self.add(key, "SaveImage", images=(f"{key}-decode", 0), filename_prefix=f"claims/{key}")


def start(object_info: Mapping) -> Graph:
    """A graph that holds the base model under "base"."""
    graph = Graph(object_info)
    graph.add("base", "MixOfShowDemoModel")
    return graph


BASE = {"model": ("base", 0), "clip": ("base", 1)}
VAE = ("base", 2)


def training(object_info: Mapping, name: str, folder: str, class_word: str, kind: str, preset: str, seed: int) -> dict:
    """Train one concept; the file's path comes out as text."""
    graph = start(object_info)
    graph.add("data", "MixOfShowDataset", name=name, class_word=class_word, kind=kind, folder=folder)
    graph.add("train", "MixOfShowTrain", **BASE, vae=VAE, dataset=("data", 0), preset=preset, seed=seed,
              save_as=f"{name}-{seed}")
    return graph.nodes


def load(graph: Graph, files: Mapping[str, str]) -> tuple[str, int]:
    """Load Concept nodes in a chain; returns the link that carries all of them."""
    link = None
    for name, file in files.items():
        graph.add(f"load-{name}", "MixOfShowLoadConcept", file=file, concepts=link)
        link = (f"load-{name}", 0)
    return link


def fused(object_info: Mapping, files: Mapping[str, str], method: str, calibration: str, count: int, seed: int,
          shown: Sequence[str] = ()) -> dict:
    """Fuse `files` and paint every one of `shown` (default: all) alone, and the unrelated prompts."""
    graph = start(object_info)
    model, clip = BASE["model"], BASE["clip"]
    if files:
        graph.add("fuse", "MixOfShowFuse", **BASE, concepts=load(graph, files), method=method, calibration=calibration)
        model, clip = ("fuse", 0), ("fuse", 1)
    prompts = {name: f"a photo of {name}, {BACKGROUND}" for name in (shown or files)}
    prompts |= {f"unrelated{i}": text for i, text in enumerate(UNRELATED)}
    if not files:
        prompts["person"] = f"a photo of a person, {BACKGROUND}"
    for key, text in prompts.items():
        graph.add(f"{key}-place", "MixOfShowPlace", model=model, clip=clip, prompt=text, negative="")
        graph.paint(key, VAE, (f"{key}-place", 0), (f"{key}-place", 1), (f"{key}-place", 2), count, seed)
    return graph.nodes


def row_prompt(names: Sequence[str]) -> str:
    """One sentence for people in a row."""
    middle = f", {names[1]} in the middle" if len(names) == 3 else ""
    return f"{names[0]} on the left{middle} and {names[-1]} on the right, {BACKGROUND}"


def regions_json(names: Sequence[str]) -> str:
    share = 1 / len(names)
    regions = [{"id": name, "name": name, "concept": name, "prompt": f"a photo of {name}",
                "shape": {"type": "rect", "x": i * share, "y": 0, "width": share, "height": 1}}
               for i, name in enumerate(names)]
    return json.dumps({"version": 1, "suffix": BACKGROUND, "regions": regions})


ARMS = ("prompt only, sum", "prompt only, fused", "host masks, sum", "host masks, hook LoRAs", "regions, sum",
        "regions, fused", "regions, routed")


def row(object_info: Mapping, files: Mapping[str, str], arm: str, calibration: str, count: int, seed: int) -> dict:
    """Everybody in `files` side by side, by one of ARMS; the picture is saved under "row"."""
    graph, names = start(object_info), list(files)
    concepts = load(graph, files)
    width = SIDE * len(names)
    if arm == "regions, routed":
        model, clip = BASE["model"], BASE["clip"]
    else:
        method = "exact" if arm.endswith("fused") else "sum"
        graph.add("fuse", "MixOfShowFuse", **BASE, concepts=concepts, method=method, calibration=calibration)
        model, clip = ("fuse", 0), ("fuse", 1)
    if arm.startswith("host masks"):
        _host_masks(graph, files, arm.endswith("hook LoRAs"), model, clip, width)
        model = BASE["model"] if arm.endswith("hook LoRAs") else model
        graph.paint("row", VAE, model, ("positive", 0), ("negative", 0), count, seed, width)
        return graph.nodes
    regions = None
    if arm.startswith("regions"):
        graph.add("regions", "MixOfShowRegions", editor=regions_json(names), width=width, height=SIDE)
        regions = ("regions", 0)
    graph.add("place", "MixOfShowPlace", model=model, clip=clip, prompt=row_prompt(names), negative="",
              regions=regions, concepts=concepts if arm == "regions, routed" else None)
    graph.paint("row", VAE, ("place", 0), ("place", 1), ("place", 2), count, seed, width)
    return graph.nodes


def _host_masks(graph: Graph, files: Mapping[str, str], hooks: bool, model: tuple, clip: tuple, width: int) -> None:
    """The host's own way: one text per mask (a model pass each), with LoRAs as hooks or summed into the model."""
    names = list(files)
    if hooks:
        # Words without weights: the hooks bring the weights, each to its own text.
        for name in names:
            graph.nodes[f"load-{name}"]["inputs"]["strength"] = 0.0
    graph.add("background", "CLIPTextEncode", clip=clip, text=BACKGROUND)
    graph.add("negative", "CLIPTextEncode", clip=clip, text="")
    graph.add("empty", "SolidMask", value=0.0, width=width, height=SIDE)
    graph.add("full", "SolidMask", value=1.0, width=SIDE, height=SIDE)
    link = None
    for i, (name, file) in enumerate(files.items()):
        encoder = clip
        if hooks:
            graph.add(f"{name}-hook", "CreateHookLora", lora_name=file, strength_model=1.0, strength_clip=1.0)
            graph.add(f"{name}-clip", "SetClipHooks", clip=clip, hooks=(f"{name}-hook", 0), apply_to_conds=True,
                      schedule_clip=False)
            encoder = (f"{name}-clip", 0)
        graph.add(f"{name}-text", "CLIPTextEncode", clip=encoder, text=f"a photo of {name}, {BACKGROUND}")
        graph.add(f"{name}-mask", "MaskComposite", destination=("empty", 0), source=("full", 0), x=i * SIDE, y=0,
                  operation="add")
        graph.add(f"{name}-cond", "ConditioningSetMask", conditioning=(f"{name}-text", 0), mask=(f"{name}-mask", 0),
                  strength=1.0, set_cond_area="default")
        if link is None:
            link = (f"{name}-cond", 0)
        else:
            graph.add(f"{name}-both", "ConditioningCombine", conditioning_1=link, conditioning_2=(f"{name}-cond", 0))
            link = (f"{name}-both", 0)
    graph.nodes["positive"] = graph.nodes.pop(link[0])
