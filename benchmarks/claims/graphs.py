"""Graphs of the claims' tables, as the server's API takes them: trainings, fusions, and ways to put people in a row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from world.workflows.graphs import BASES, default_value, input_specs, is_widget

SIDE = 64
# Of a training's changes, what no setting of Train Settings is: another Training whose pictures are learned in the same
# run; another Training that the base went through before.
BESIDE, AFTER = "beside", "after"
BACKGROUND = "green background"
BASE = {"model": ("base", 0), "clip": ("base", 1)}
VAE = ("base", 2)


@dataclass(frozen=True)
class Studio:
    """What every graph shares: what the host's nodes take, the base (A, B or C) and the sampler."""

    object_info: Mapping
    base: str = "A"
    steps: int = 20
    guidance: float = 3.0

    def fusion_defaults(self) -> dict:
        """What Fusion Settings says untouched."""
        specs = input_specs(self.object_info["MixOfShowFusionSettings"])
        return {name: default_value(*spec) for name, spec in specs.items() if is_widget(*spec)}


@dataclass
class Graph:
    """Nodes by key. A link is (key, output slot); widgets that are not named get the node's default."""

    studio: Studio
    nodes: dict[str, dict] = field(default_factory=dict)

    def add(self, key: str, class_type: str, **inputs: object) -> str:
        specs = input_specs(self.studio.object_info[class_type])
        filled = {name: default_value(*spec) for name, spec in specs.items() if is_widget(*spec)}
        unknown = set(inputs) - set(specs)
        if unknown:
            raise KeyError(f"{class_type} has no inputs {sorted(unknown)}")
        filled |= {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in inputs.items()
            if value is not None
        }
        self.nodes[key] = {"class_type": class_type, "inputs": filled}
        return key

    def paint(
        self, key: str, model: tuple, positive: tuple, negative: tuple, count: int, seed: int, width: int = SIDE
    ) -> None:
        """Sample `count` pictures in one batch and save them under `key`."""
        self.add(f"{key}-latent", "EmptyLatentImage", width=width, height=SIDE, batch_size=count)
        self.add(
            f"{key}-sample",
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            seed=seed,
            latent_image=(f"{key}-latent", 0),
            steps=self.studio.steps,
            cfg=self.studio.guidance,
            sampler_name="dpmpp_2m",
            scheduler="normal",
        )
        self.add(f"{key}-decode", "VAEDecode", samples=(f"{key}-sample", 0), vae=VAE)
        self.add(key, "SaveImage", images=(f"{key}-decode", 0), filename_prefix="claims/picture")

    def fuse(self, concepts: tuple, arm: Arm) -> tuple[tuple, tuple]:
        """(model, clip) with the concepts in it."""
        settings = None
        if arm.settings:
            self.add("settings", "MixOfShowFusionSettings", **dict(arm.settings))
            settings = ("settings", 0)
        if arm.rank_one:
            self.add("cut", "ClaimsRankOne", concepts=concepts)
            concepts = ("cut", 0)
        self.add(
            "fuse",
            "MixOfShowFuse",
            **BASE,
            concepts=concepts,
            method=arm.method,
            calibration=arm.calibration,
            settings=settings,
        )
        return ("fuse", 0), ("fuse", 1)


@dataclass(frozen=True)
class Arm:
    """One way to fuse. plain: prompts are read by the host's own text node, that is by mean embeddings. rank_one:
    every concept's changes are cut to rank 1 first."""

    title: str
    method: str
    calibration: str = "standard"
    settings: tuple[tuple[str, object], ...] = ()
    plain: bool = False
    rank_one: bool = False


SUM = Arm("sum", "sum")
EXACT = Arm("exact", "exact")


def start(studio: Studio) -> Graph:
    """A graph that holds the base model under "base"."""
    graph = Graph(studio)
    graph.add("base", "MixOfShowDemoModel", base=BASES[studio.base])
    return graph


def training(
    studio: Studio,
    datasets: Sequence[Mapping[str, str]],
    preset: str,
    steps: int,
    seed: int,
    save_as: str,
    changes: Mapping[str, object],
    after: Mapping[str, str],
) -> dict:
    """Train the concepts of all datasets in one run; the file's path comes out as text. after: concepts, name -> file,
    that the base has learned before."""
    graph = start(studio)
    base = dict(BASE)
    if after:
        base["model"], base["clip"] = graph.fuse(load(graph, after), SUM)
    link = None
    for number, dataset in enumerate(datasets):
        key = f"data{number}" if link else "data"
        graph.add(key, "MixOfShowDataset", **dataset, dataset=link)
        link = (key, 0)
    graph.add("settings", "MixOfShowTrainSettings", **{"preview_every": 0, **changes})
    graph.add(
        "train",
        "MixOfShowTrain",
        **base,
        vae=VAE,
        dataset=link,
        preset=preset,
        seed=seed,
        steps=steps,
        save_as=save_as,
        settings=("settings", 0),
    )
    graph.add("path", "PreviewAny", source=("train", 3))
    return graph.nodes


def load(graph: Graph, files: Mapping[str, str]) -> tuple[str, int]:
    """Load Concept nodes in a chain; returns the link that carries all of them."""
    link = None
    for name, file in files.items():
        graph.add(f"load-{name}", "MixOfShowLoadConcept", file=file, concepts=link)
        link = (f"load-{name}", 0)
    return link


def painted(
    studio: Studio, files: Mapping[str, str], arm: Arm, prompts: Mapping[str, tuple[str, int]], seed: int
) -> dict:
    """Fuse `files` (none: the base itself) and paint every prompt: key -> (text, how many)."""
    graph = start(studio)
    model, clip = BASE["model"], BASE["clip"]
    if files:
        model, clip = graph.fuse(load(graph, files), arm)
    if arm.plain:
        graph.add("nothing", "CLIPTextEncode", clip=clip, text="")
    for key, (text, count) in prompts.items():
        if arm.plain:
            graph.add(f"{key}-text", "CLIPTextEncode", clip=clip, text=text)
            graph.paint(key, model, (f"{key}-text", 0), ("nothing", 0), count, seed)
        else:
            graph.add(f"{key}-place", "MixOfShowPlace", model=model, clip=clip, prompt=text, negative="")
            graph.paint(key, (f"{key}-place", 0), (f"{key}-place", 1), (f"{key}-place", 2), count, seed)
    return graph.nodes


def row_prompt(names: Sequence[str], ending: str) -> str:
    """One sentence for what stands in a row."""
    middle = f", {names[1]} in the middle" if len(names) == 3 else ""
    return f"{names[0]} on the left{middle} and {names[-1]} on the right{ending}"


def regions_json(names: Sequence[str], scene: str) -> str:
    share, shape = 1 / len(names), "ellipse" if scene else "rect"  # in a scene something is left for it
    ending = " in a background" if scene else ""
    regions = [
        {
            "id": name,
            "name": name,
            "concept": name,
            "prompt": f"a photo of {name}{ending}",
            "shape": {"type": shape, "x": i * share, "y": 0, "width": share, "height": 1},
        }
        for i, name in enumerate(names)
    ]
    document = {"version": 1, "regions": regions}
    return json.dumps(document | ({"background": {"concept": scene}} if scene else {"suffix": BACKGROUND}))


# title of a way to place -> (how the concepts come into the model, how their places are given)
WAYS = {
    "prompt only, sum": ("sum", "prompt"),
    "prompt only, fused": ("exact", "prompt"),
    "prompt only, by words": ("", "prompt"),
    "prompt only, two phases": ("", "phases"),
    "host masks, sum": ("sum", "masks"),
    "host masks, hook LoRAs": ("sum", "hooks"),
    "attention couple, sum": ("sum", "couple"),
    "attention couple, fused": ("exact", "couple"),
    "regions, sum": ("sum", "regions"),
    "regions, fused": ("exact", "regions"),
    "regions, routed": ("", "regions"),
}
# Those that Cosmos' kind can do: hooks and attention couple are made for UNets, words are not looked for in it.
WAYS_C = ("prompt only, sum", "prompt only, fused", "regions, sum", "regions, fused", "regions, routed")
FIRST_PHASE = 0.3  # of the steps, after which the two-phase method has its masks
SCENE_WAYS = ("prompt only, sum", "prompt only, fused", "regions, fused", "regions, routed")


def row(
    studio: Studio,
    files: Mapping[str, str],
    way: str,
    count: int,
    seed: int,
    scene: str = "",
    named: Sequence[str] = (),
) -> dict:
    """Everybody in `files` but the scene side by side, by one of WAYS; the picture is saved under "row".

    named: only these, while all of `files` are known.
    """
    graph, names = start(studio), list(named) or [name for name in files if name != scene]
    method, place = WAYS[way]
    concepts = load(graph, files)
    width = SIDE * len(names)
    model, clip = graph.fuse(concepts, Arm(way, method)) if method else (BASE["model"], BASE["clip"])
    if place in ("masks", "hooks"):
        people = {name: files[name] for name in names}
        _host_masks(graph, people, place == "hooks", clip, width)
        model = BASE["model"] if place == "hooks" else model
        graph.paint("row", model, ("positive", 0), ("negative", 0), count, seed, width)
        return graph.nodes
    if place == "couple":
        _attention_couple(graph, names, model, clip, width)
        graph.paint("row", ("couple", 0), ("couple", 1), ("negative", 0), count, seed, width)
        return graph.nodes
    if place == "phases":
        _two_phases(graph, names, concepts, count, seed, width)
        return graph.nodes
    regions = None
    if place == "regions":
        graph.add("regions", "MixOfShowRegions", editor=regions_json(names, scene), width=width, height=SIDE)
        regions = ("regions", 0)
    text = row_prompt(names, f" in {scene}" if scene else f", {BACKGROUND}")
    graph.add(
        "place",
        "MixOfShowPlace",
        model=model,
        clip=clip,
        negative="",
        regions=regions,
        prompt=f"a photo of {scene}" if scene and regions else text,
        concepts=None if method else concepts,
    )
    graph.paint("row", ("place", 0), ("place", 1), ("place", 2), count, seed, width)
    return graph.nodes


def _two_phases(graph: Graph, names: Sequence[str], concepts: tuple, count: int, seed: int, width: int) -> None:
    """A peer's way (FreeFuse's, arXiv 2510.23515) with our reading and our regions: a first part of a sampling finds
    each picture's masks, and a whole one from the same noise keeps them as drawn regions, with these regions' texts."""
    steps, latent = graph.studio.steps, ("row-latent", 0)
    shared = {**BASE, "negative": "", "prompt": row_prompt(names, f", {BACKGROUND}"), "concepts": concepts}
    how = {"steps": steps, "cfg": graph.studio.guidance, "sampler_name": "dpmpp_2m", "scheduler": "normal"}
    graph.add("row-latent", "EmptyLatentImage", width=width, height=SIDE, batch_size=count)
    graph.add("looks", "MixOfShowPlace", **shared)
    graph.add(
        "first",
        "KSamplerAdvanced",
        model=("looks", 0),
        positive=("looks", 1),
        negative=("looks", 2),
        latent_image=latent,
        add_noise="enable",
        noise_seed=seed,
        start_at_step=0,
        end_at_step=max(2, round(FIRST_PHASE * steps)),
        return_with_leftover_noise="enable",
        **how,
    )
    pictures = None
    for n in range(count):
        graph.add(f"found{n}", "MixOfShowFound", positive=("looks", 1), samples=("first", 0), picture=n)
        text = (f"found{n}", 2)
        for name in names:
            empty = f'"name":"{name}","prompt":"'
            said = f"{empty}a photo of {name}, {BACKGROUND}"
            text = (graph.add(f"text{n}-{name}", "StringReplace", string=text, find=empty, replace=said), 0)
        graph.add(f"regions{n}", "MixOfShowRegions", editor=text, width=width, height=SIDE)
        place = graph.add(f"place{n}", "MixOfShowPlace", regions=(f"regions{n}", 0), **shared)
        graph.add(f"latent{n}", "LatentFromBatch", samples=latent, batch_index=n, length=1)
        graph.add(
            f"sample{n}",
            "KSampler",
            model=(place, 0),
            positive=(place, 1),
            negative=(place, 2),
            latent_image=(f"latent{n}", 0),
            seed=seed,
            **how,
        )
        graph.add(f"decode{n}", "VAEDecode", samples=(f"sample{n}", 0), vae=VAE)
        picture = (f"decode{n}", 0)
        if pictures is not None:
            picture = (graph.add(f"batch{n}", "ImageBatch", image1=pictures, image2=picture), 0)
        pictures = picture
    graph.add("row", "SaveImage", images=pictures, filename_prefix="claims/picture")


def _masks(graph: Graph, names: Sequence[str], width: int) -> None:
    """One mask per name under "<name>-mask", each a column."""
    graph.add("empty", "SolidMask", value=0.0, width=width, height=SIDE)
    graph.add("full", "SolidMask", value=1.0, width=SIDE, height=SIDE)
    for i, name in enumerate(names):
        graph.add(
            f"{name}-mask",
            "MaskComposite",
            destination=("empty", 0),
            source=("full", 0),
            x=i * SIDE,
            y=0,
            operation="add",
        )


def _attention_couple(graph: Graph, names: Sequence[str], model: tuple, clip: tuple, width: int) -> None:
    """Somebody else's method (benchmarks/cost/peers.py); its texts come from the host's own text node."""
    _masks(graph, names, width)
    graph.add("negative", "CLIPTextEncode", clip=clip, text="")
    parts = {}
    for number, name in enumerate(names, 1):
        graph.add(f"{name}-text", "CLIPTextEncode", clip=clip, text=f"a photo of {name}, {BACKGROUND}")
        parts |= {f"text{number}": (f"{name}-text", 0), f"mask{number}": (f"{name}-mask", 0)}
    graph.add("couple", "ClaimsAttentionCouple", model=model, **parts)


def _host_masks(graph: Graph, files: Mapping[str, str], hooks: bool, clip: tuple, width: int) -> None:
    """The host's own way: one text per mask (a model pass each), with LoRAs as hooks or summed into the model."""
    if hooks:
        # Words without weights: the hooks bring the weights, each to its own text.
        for name in files:
            graph.nodes[f"load-{name}"]["inputs"]["strength"] = 0.0
    graph.add("negative", "CLIPTextEncode", clip=clip, text="")
    _masks(graph, list(files), width)
    link = None
    for name, file in files.items():
        encoder = clip
        if hooks:
            graph.add(f"{name}-hook", "CreateHookLora", lora_name=file, strength_model=1.0, strength_clip=1.0)
            graph.add(
                f"{name}-clip",
                "SetClipHooks",
                clip=clip,
                hooks=(f"{name}-hook", 0),
                apply_to_conds=True,
                schedule_clip=False,
            )
            encoder = (f"{name}-clip", 0)
        graph.add(f"{name}-text", "CLIPTextEncode", clip=encoder, text=f"a photo of {name}, {BACKGROUND}")
        graph.add(
            f"{name}-cond",
            "ConditioningSetMask",
            conditioning=(f"{name}-text", 0),
            mask=(f"{name}-mask", 0),
            strength=1.0,
            set_cond_area="default",
        )
        if link is None:
            link = (f"{name}-cond", 0)
        else:
            graph.add(f"{name}-both", "ConditioningCombine", conditioning_1=link, conditioning_2=(f"{name}-cond", 0))
            link = (f"{name}-both", 0)
    graph.nodes["positive"] = graph.nodes.pop(link[0])
