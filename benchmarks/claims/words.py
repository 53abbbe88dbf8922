"""`python -m benchmarks.claims.words`: two LoRAs in one prompt, told apart by their words, nothing drawn.

First the reading: things in drawn columns, fitted on half of the scenes and read on the other half, where columns come
in the order of the words and where they do not; `--keep` writes what was fitted on all of them to assets/places. Then
the two LoRAs that come with the pack, side by side from the same noise: added up, by words, by drawn regions; who is
the nearest of twelve known identities in each half; and how much of its half each one's found place covers and fills.
Small base A paints whoever is named first on the left, whatever the words say, so these are places by order.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.cost.start import ROOT, start
from world.judges import scoring

WHO = {"anna": "mara", "ben": "finn"}  # LoRA -> whose pictures it was trained on
SIDE, STEPS, CFG = 64, 20, 3.0
BY_WORDS = "by words"
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


def load_cast(model, clip, folder) -> tuple:
    """Both LoRAs, each called by the trigger that lies beside its file."""
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.nodes.bridge.formats.foreign import read_with_host
    from mos_pack.nodes.bridge.formats.live import base_weights

    weights = base_weights(model, clip)
    return tuple(ConceptUse(read_with_host(folder / f"{name}.safetensors", name, weights).concept) for name in WHO)


def ways(model, clip, cast) -> dict:
    """Title -> (model, positive, negative)."""
    from mos_pack.mixofshow_core.regional.raster import make_map
    from mos_pack.mixofshow_core.regional.schema import parse_regions
    from mos_pack.nodes.bridge.host.model import apply_deltas
    from mos_pack.nodes.bridge.host.text import register_concepts
    from mos_pack.nodes.bridge.placing.place import place

    summed, known = model, register_concepts(clip, cast)
    for use in cast:
        summed, known = apply_deltas(summed, known, use.concept.deltas)
    regions = [
        {"id": name, "concept": name, "prompt": f"a photo of {name}, green background"}
        | {"shape": {"type": "rect", "x": n / 2, "y": 0, "width": 0.5, "height": 1}}
        for n, name in enumerate(WHO)
    ]
    drawn = make_map(parse_regions(json.dumps({"version": 1, "regions": regions}), 2 * SIDE, SIDE))
    return {
        "prompt only, sum": place(summed, known, PROMPT, ""),
        "regions, routed": place(model, clip, PROMPT, "", drawn, cast),
        BY_WORDS: place(model, clip, PROMPT, "", None, cast),
    }


def paint(base, way: tuple, count: int, seed: int):
    """(pictures uint8 [N, 64, 128, 3], processor seconds a step and picture, latents)."""
    import comfy.sample

    model, positive, negative = way
    latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(count, 4, SIDE // 8, 2 * SIDE // 8))
    noise = comfy.sample.prepare_noise(latent, seed)
    begin = time.process_time()
    with torch.inference_mode():
        samples = comfy.sample.sample(
            model, noise, STEPS, CFG, "dpmpp_2m", "normal", positive, negative, latent, seed=seed, disable_pbar=True
        )
        seconds = (time.process_time() - begin) / STEPS / count
        pixels = base[2].decode(samples)
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy(), seconds, samples


def overlap(positive, samples, count: int) -> list[float]:
    """Intersection over union of each found place with the half that the words name, mean over pictures."""
    from mos_pack.nodes.bridge.placing.found import found_in

    half = torch.zeros(2, SIDE // 8, 2 * SIDE // 8, dtype=torch.bool)
    half[0, :, : SIDE // 8], half[1, :, SIDE // 8 :] = True, True
    shares = []
    for picture in range(count):
        gates = found_in(positive, samples, picture).gates >= 0.5
        shares.append(((gates & half).sum((1, 2)) / (gates | half).sum((1, 2))).tolist())
    return np.mean(shares, 0).round(2).tolist()


def read_scenes(model, clip, options, lines: list[str]) -> None:
    from mos_pack.nodes.bridge.host.model import describe_base
    from mos_pack.nodes.bridge.placing.readings import write_reading

    half = options.scenes // 2
    for ordered in (True, False):
        parts, heads = watched(model, clip, options.scenes, 5, ordered)
        found = told(fitted(heads, parts[:half]), parts[half:])
        what = "in the order of the words" if ordered else "in any order"
        for count, shares in found.items():
            lines.append(f"| {what} | {count} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")
            say(lines[-1])
        if ordered and options.keep:
            facts = {"fitted": f"{options.scenes} scenes of two and three things, columns in the order of the words"}
            path = ROOT / "assets" / "places" / "small_base.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(write_reading(fitted(heads, parts), describe_base(model), facts))
            say(f"written: {path.name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.claims.words", description=__doc__)
    parser.add_argument("--scenes", type=int, default=24, help="0: no reading is fitted")
    parser.add_argument("--pictures", type=int, default=32, help="a way; 0: nothing is painted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loras", type=Path, default=ROOT / "assets" / "demo" / "loras", help="folder of anna and ben")
    parser.add_argument("--keep", action="store_true", help="write the reading that ships")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start()
    from mos_pack.nodes.bridge.demo.small_base import load_small_base

    base, lines = load_small_base(), []
    if options.scenes:
        with torch.inference_mode():
            read_scenes(base[0], base[1], options, lines)
    if options.pictures:
        cast = load_cast(base[0], base[1], options.loras)
        judge, names = scoring.load_judge(), tuple(WHO.values())
        for title, way in ways(base[0], base[1], cast).items():
            pictures, seconds, samples = paint(base, way, options.pictures, options.seed)
            found = scoring.score(judge, scoring.halves(pictures, names))
            line = f"| {title} | {found.nearest:.0%} [{found.low:.0%}, {found.high:.0%}] | {found.swapped:.0%} | "
            line += f"{found.nobody:.0%} | {seconds:.3f} |"
            say(line)
            if title == BY_WORDS:
                say(f"found places over the named halves, IoU: {overlap(way[1], samples, options.pictures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
