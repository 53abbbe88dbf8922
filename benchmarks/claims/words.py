"""`python -m benchmarks.claims.words`: two LoRAs in one prompt, told apart by their words, nothing drawn.

First the reading: things in drawn columns, fitted on half of the scenes and read on the other half, where columns come
in the order of the words and where they do not; `--keep` writes what was fitted on all of the latter to assets/places.
Then the two LoRAs that come with the pack, side by side from the same noise: added up, by words, by drawn regions; who
is the nearest of twelve known identities in each half; and, step by step, how much of its half each one's found place
covers and fills. *Two phases* is a peer's way (FreeFuse, arXiv 2510.23515) with our reading and our regions: a first
part of a sampling finds each picture's masks, a whole one from the same noise keeps them as drawn ones.
`--base B` reads scenes on the other small base; the LoRAs that come with the pack are base A's, so its pictures want
`--loras`. K known concepts of ours: `python dev.py bench --claims known`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.cost.start import ROOT, start
from world.judges import scoring

WHO = {"anna": "mara", "ben": "finn"}  # LoRA -> whose pictures it was trained on
SIDE, STEPS, CFG = 64, 20, 3.0
BY_WORDS, TWO_PHASES = "by words", "two phases"
FIRST_PHASE = 6  # of the steps, after which masks are taken
PROMPT = "anna on the left and ben on the right, green background"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def watched(model, clip, count: int, seed: int, ordered: bool) -> tuple[list, dict]:
    """([(number of things, [(features, truth) per step])] of scenes, heads by layer)."""
    from mos_pack.mixofshow_core.families.nets import cross_attention_layers
    from mos_pack.nodes.bridge.host.model import net_of
    from mos_pack.nodes.bridge.placing import learning

    heads = {layer.index: layer.heads for layer in cross_attention_layers(net_of(model))}
    return [
        (len(scene.things), learning.watch(model, clip, heads, scene, seed + number))
        for number, scene in enumerate(learning.scenes(count, seed, ordered=ordered))
    ], heads


def fitted(heads: dict, parts: list):
    from mos_pack.mixofshow_core.regional.finding import Fit

    fit = Fit(heads)
    for _, steps in parts:
        for features, truth in steps:
            for picture in features:
                fit.add(picture, truth)
    return fit.solve()


def looked_at(reading, heads: dict, parts: list) -> list:
    """The same parts with the features of the layers that ``reading`` keeps, in its order."""
    from mos_pack.mixofshow_core.regional.finding import WORDS

    kept = torch.cat([torch.full((count * WORDS,), layer in reading.weights) for layer, count in heads.items()])
    return [(count, [(features[..., kept], truth) for features, truth in steps]) for count, steps in parts]


def told(reading, parts: list) -> dict[int, list[float]]:
    """Number of things -> by step the share of places that belong to one and are given to the right one."""
    who = torch.cat([weights[..., 0].flatten() for _, weights in sorted(reading.weights.items())])
    found: dict[int, list] = {}
    for count, steps in parts:
        shares = []
        for features, truth in steps:
            taken = (truth > 0.9).any(1)
            scores = (features - features.mean(2, keepdim=True)) @ who
            shares.append(float((scores.argmax(2) == truth.argmax(1))[:, taken].float().mean()))
        found.setdefault(count, []).append(shares)
    return {count: np.mean(rows, 0).round(2).tolist() for count, rows in sorted(found.items())}


def overlaps(reading, parts: list) -> dict[int, list[float]]:
    """Number of things -> by step the intersection over union of each thing's found place with its drawn one."""
    who, anybody = (
        torch.cat([weights[..., part].flatten() for _, weights in sorted(reading.weights.items())]) for part in (0, 1)
    )
    found: dict[int, list] = {}
    for count, steps in parts:
        rows = []
        for features, truth in steps:
            general = features.mean(2, keepdim=True)
            there = (general @ anybody + reading.offset > 0.5).expand(-1, -1, count)  # [B, P, K]
            best = torch.nn.functional.one_hot(((features - general) @ who).argmax(2), count).bool()
            rows.append(float(iou(best & there, (truth > 0.5).expand_as(best), 1).mean()))
        found.setdefault(count, []).append(rows)
    return {count: np.mean(rows, 0).round(2).tolist() for count, rows in sorted(found.items())}


def iou(found: torch.Tensor, truth: torch.Tensor, dim) -> torch.Tensor:
    return (found & truth).sum(dim) / (found | truth).sum(dim).clamp(min=1)


def load_cast(model, clip, folder) -> tuple:
    """Both LoRAs, each called by the trigger that lies beside its file."""
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.nodes.bridge.formats.foreign import read_with_host
    from mos_pack.nodes.bridge.formats.live import base_weights

    weights = base_weights(model, clip)
    return tuple(ConceptUse(read_with_host(folder / f"{name}.safetensors", name, weights).concept) for name in WHO)


def two_halves():
    """Each one's half as a drawn region."""
    from mos_pack.mixofshow_core.regional.raster import make_map
    from mos_pack.mixofshow_core.regional.schema import parse_regions

    regions = [
        {"id": name, "concept": name, "prompt": f"a photo of {name}, green background"}
        | {"shape": {"type": "rect", "x": n / 2, "y": 0, "width": 0.5, "height": 1}}
        for n, name in enumerate(WHO)
    ]
    return make_map(parse_regions(json.dumps({"version": 1, "regions": regions}), 2 * SIDE, SIDE))


def ways(model, clip, cast) -> dict:
    """Title -> (model, positive, negative)."""
    from mos_pack.nodes.bridge.host.model import apply_deltas
    from mos_pack.nodes.bridge.host.text import register_concepts
    from mos_pack.nodes.bridge.placing.place import place

    summed, known = model, register_concepts(clip, cast)
    for use in cast:
        summed, known = apply_deltas(summed, known, use.concept.deltas)
    return {
        "prompt only, sum": place(summed, known, PROMPT, ""),
        "regions, routed": place(model, clip, PROMPT, "", two_halves(), cast),
        BY_WORDS: place(model, clip, PROMPT, "", None, cast),
    }


def sampled(way: tuple, noise: torch.Tensor, seed: int, last: int | None = None):
    """(latents, processor seconds); last: only so many of the steps."""
    import comfy.sample

    model, positive, negative = way
    how = STEPS, CFG, "dpmpp_2m", "normal", positive, negative
    begin = time.process_time()
    with torch.inference_mode():
        latent = torch.zeros_like(noise)
        samples = comfy.sample.sample(model, noise, *how, latent, seed=seed, last_step=last, disable_pbar=True)
    return samples, time.process_time() - begin


def start_noise(model, count: int, seed: int) -> torch.Tensor:
    import comfy.sample

    latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(count, 4, SIDE // 8, 2 * SIDE // 8))
    return comfy.sample.prepare_noise(latent, seed)


def decoded(base, samples: torch.Tensor) -> np.ndarray:
    """uint8 [N, 64, 128, 3]"""
    with torch.inference_mode():
        pixels = base[2].decode(samples)
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def paint(base, way: tuple, count: int, seed: int):
    """(pictures uint8 [N, 64, 128, 3], processor seconds a step and picture)."""
    samples, seconds = sampled(way, start_noise(way[0], count, seed), seed)
    return decoded(base, samples), seconds / STEPS / count


def paint_twice(base, way: tuple, cast, count: int, seed: int):
    """The same by the two-phase method; ``way`` is by words. Seconds: of both phases, a step and picture."""
    from mos_pack.mixofshow_core.regional.raster import RegionMap
    from mos_pack.nodes.bridge.placing.found import found_in
    from mos_pack.nodes.bridge.placing.place import place

    noise, drawn = start_noise(way[0], count, seed), two_halves()
    first, spent = sampled(way, noise, seed, FIRST_PHASE)
    finished = []
    for picture in range(count):
        masks = (found_in(way[1], first, picture).masks() * 255).round().to(torch.uint8)
        kept = place(base[0], base[1], PROMPT, "", RegionMap(drawn.regions, masks), cast)
        samples, seconds = sampled(kept, noise[picture : picture + 1], seed)
        finished.append(samples)
        spent += seconds
    return decoded(base, torch.cat(finished)), spent / STEPS / count


@contextmanager
def watched_gates() -> Iterator[list[torch.Tensor]]:
    """While open, the gates [B, K, h, w] of every call of the model are kept."""
    from mos_pack.nodes.bridge.placing import finding

    seen, opening = [], finding.open_gates

    def keep(*given):
        seen.append(opening(*given))
        return seen[-1]

    finding.open_gates = keep
    try:
        yield seen
    finally:
        finding.open_gates = opening


def half_overlaps(seen: list[torch.Tensor]) -> list[list[float]]:
    """By step, intersection over union of each found place with the half that the words name, mean over pictures."""
    half = torch.zeros(2, SIDE // 8, 2 * SIDE // 8, dtype=torch.bool)
    half[0, :, : SIDE // 8], half[1, :, SIDE // 8 :] = True, True
    found = [iou(gates >= 0.5, half.expand_as(gates), (2, 3)).mean(0) for gates in seen]
    return torch.stack(found).double().numpy().round(2).tolist()


def read_scenes(model, clip, options) -> None:
    from mos_pack.nodes.bridge.host.model import describe_base
    from mos_pack.nodes.bridge.placing.readings import write_reading

    half = options.scenes // 2
    for ordered in (True, False):
        parts, heads = watched(model, clip, options.scenes, 5, ordered)
        reading = fitted(heads, parts[:half])
        unseen = looked_at(reading, heads, parts[half:])
        what = "in the order of the words" if ordered else "in any order"
        found, drawn = told(reading, unseen), overlaps(reading, unseen)
        for title, figures in (("given to the right one", found), ("IoU", drawn)):
            for count, shares in figures.items():
                say(f"| {title}, {what} | {count} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")
        if options.keep and not ordered:
            facts = {"fitted": f"{options.scenes} scenes of two and three things, columns in any order"}
            path = ROOT / "assets" / "places" / f"{'small_base' if options.base == 'A' else 'small_base_xl'}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(write_reading(fitted(heads, parts), describe_base(model), facts))
            say(f"written: {path.name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.claims.words", description=__doc__)
    parser.add_argument("--scenes", type=int, default=24, help="0: no reading is fitted")
    parser.add_argument("--pictures", type=int, default=32, help="a way; 0: nothing is painted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--base", choices=("A", "B"), default="A", help="the small base: SD1.5's or SDXL's kind")
    parser.add_argument("--loras", type=Path, default=ROOT / "assets" / "demo" / "loras", help="folder of anna and ben")
    parser.add_argument("--keep", action="store_true", help="write the reading that ships")
    options = parser.parse_args()
    if options.base == "B" and options.pictures and options.loras == parser.get_default("loras"):
        parser.error("--base B: anna and ben are LoRAs of base A. Give --pictures 0, or --loras with such for base B.")
    torch.set_num_threads(1)
    start()
    from mos_pack.nodes.bridge.demo.small_base import load_small_base
    from mos_pack.nodes.bridge.demo.small_base_xl import load_small_base_xl

    base = load_small_base() if options.base == "A" else load_small_base_xl()
    if options.scenes:
        with torch.inference_mode():
            read_scenes(base[0], base[1], options)
    if not options.pictures:
        return 0
    cast = load_cast(base[0], base[1], options.loras)
    judge, names = scoring.load_judge(), tuple(WHO.values())

    def score(title: str, pictures: np.ndarray, seconds: float) -> None:
        found = scoring.score(judge, scoring.halves(pictures, names))
        line = f"| {title} | {found.nearest:.0%} [{found.low:.0%}, {found.high:.0%}] | {found.swapped:.0%} | "
        say(f"{line}{found.nobody:.0%} | {seconds:.3f} |")

    for title, way in ways(base[0], base[1], cast).items():
        with watched_gates() as seen:
            score(title, *paint(base, way, options.pictures, options.seed))
        if title == BY_WORDS:
            score(TWO_PHASES, *paint_twice(base, way, cast, options.pictures, options.seed))
            for step, shares in enumerate(half_overlaps(seen), 1):
                say(f"step {step}, found places over the named halves, IoU: {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
