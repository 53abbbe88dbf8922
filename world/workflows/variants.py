"""Workflow 01 turned into its comparisons: each concept alone, sum or fused, with or without regions.

Every variant is the workflow's own API graph with a few inputs changed, so that all of them share one training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

Graph = dict[str, dict]

METHODS = {"sum": "sum", "fused": "exact"}


def find(graph: Mapping, class_type: str) -> list[str]:
    """Ids of the nodes of one class, in file order."""
    return [key for key, node in graph.items() if node["class_type"] == class_type]


def only_ancestors(graph: Graph, target: str) -> Graph:
    """The part of a graph that ``target`` needs."""
    needed, waiting = set(), [target]
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return {key: node for key, node in graph.items() if key in needed}


def sampling_graph(graph: Graph, prefix: str, seed: int, batch: int, **changes: Mapping) -> Graph:
    """The graph with ``changes`` (class_type -> inputs; None removes one), ending in one SaveImage node."""
    graph = copy.deepcopy(graph)
    save = find(graph, "SaveImage")[0]
    own = {
        "SaveImage": {"filename_prefix": prefix},
        "KSampler": {"seed": seed},
        "EmptyLatentImage": {"batch_size": batch},
    }
    for part in (own, changes):
        for class_type, inputs in part.items():
            node = graph[find(graph, class_type)[0]]
            node["inputs"] = {k: v for k, v in (node["inputs"] | inputs).items() if v is not None}
    return only_ancestors(graph, save)


def together(graph: Graph, method: str, regions: bool, prefix: str, seed: int, batch: int) -> Graph:
    """Both concepts in one picture: ``method`` is a key of METHODS."""
    place = {} if regions else {"regions": None}
    return sampling_graph(graph, prefix, seed, batch, MixOfShowFuse={"method": METHODS[method]}, MixOfShowPlace=place)


def alone(graph: Graph, name: str, prompt: str, prefix: str, seed: int, batch: int) -> Graph:
    """One concept by itself in a picture of half the width."""
    train = next(key for key in find(graph, "MixOfShowTrain") if graph[key]["inputs"]["save_as"] == name)
    graph = copy.deepcopy(graph)
    graph[train]["inputs"].pop("concepts", None)  # an identical training is loaded, not repeated
    regions = graph[find(graph, "MixOfShowRegions")[0]]["inputs"]
    latent = {"width": regions["width"] // 2, "height": regions["height"]}
    place = {"regions": None, "prompt": prompt}
    return sampling_graph(
        graph,
        prefix,
        seed,
        batch,
        MixOfShowFuse={"concepts": [train, 0]},
        EmptyLatentImage=latent,
        MixOfShowPlace=place,
    )
