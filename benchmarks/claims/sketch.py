"""Does a sketch hold in the regions that want it, and only there? `python -m benchmarks.claims.sketch`, a few minutes.

The small base paints two people side by side under the demo's sketch adapter. The drawings are made from pictures
of characters that neither the base nor the adapter was trained on. Four weightings: no control, both halves, left only,
right only (the other half has weight 0). Per half: *silhouette* is the intersection over union of painted and drawn
figure, *lines* the F1 of painted and drawn lines within two pixels. 95 % intervals are over pictures (bootstrap).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..cost.start import ROOT, start

SIDE = 64
PROMPT = "a person on the left and a person on the right, green background"
WEIGHTS = {"no control": None, "both": (1, 1), "left only": (1, 0), "right only": (0, 1)}


def load_drawings(count: int) -> torch.Tensor:
    """``count`` pairs of pictures [count, 64, 128, 3] in 0..1 of held-out characters, in a fixed order."""
    files = sorted((ROOT / "world" / "data" / "identities").glob("*/*.png"))
    picks = np.random.default_rng(0).choice(len(files), 2 * count, replace=False)
    pictures = [np.asarray(Image.open(files[pick]).convert("RGB"), dtype=np.float32) / 255 for pick in picks]
    pairs = torch.from_numpy(np.stack(pictures)).view(count, 2, SIDE, SIDE, 3)
    return pairs.transpose(1, 2).reshape(count, SIDE, 2 * SIDE, 3)


def draw(pictures: torch.Tensor) -> torch.Tensor:
    """The line drawings, half by half, because the halves' backgrounds meet in a line that nobody drew."""
    from mos_pack.nodes.bridge.placing.preprocess import control_image

    return torch.cat([control_image(half, "lines") for half in pictures.split(SIDE, 2)], 2)


def figure(picture: torch.Tensor) -> torch.Tensor:
    """[N, 64, 64, 3] -> bool [N, 64, 64]: what differs from the colour of the two upper corners."""
    corners = torch.cat([picture[:, :3, :5], picture[:, :3, -5:]], 2).flatten(1, 2)
    return (picture - corners.median(1).values[:, None, None]).abs().amax(-1) > 0.12


def agree(painted: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(silhouette IoU, line F1) [N] of halves [N, 64, 64, 3]."""
    from mos_pack.mixofshow_core.regional.lines import draw_lines

    one, other = figure(painted), figure(drawn)
    overlap = (one & other).sum((1, 2)) / (one | other).sum((1, 2)).clamp(min=1)
    lines = [draw_lines(part.movedim(-1, 1)) for part in (painted, drawn)]
    wide = [F.max_pool2d(part, 5, 1, 2) for part in lines]
    precision = (lines[0] * wide[1]).sum((1, 2, 3)) / lines[0].sum((1, 2, 3)).clamp(min=1)
    recall = (lines[1] * wide[0]).sum((1, 2, 3)) / lines[1].sum((1, 2, 3)).clamp(min=1)
    return overlap, 2 * precision * recall / (precision + recall).clamp(min=1e-6)


def region_map(weights: tuple[float, float]):
    from mos_pack.mixofshow_core.regional.raster import make_map
    from mos_pack.mixofshow_core.regional.schema import parse_regions

    regions = [
        {
            "id": name,
            "control": weight,
            "shape": {"type": "rect", "x": x, "y": 0, "width": 0.5, "height": 1},
        }
        for name, x, weight in zip(("left", "right"), (0, 0.5), weights, strict=True)
    ]
    return make_map(parse_regions(json.dumps({"version": 1, "regions": regions}), 2 * SIDE, SIDE))


def paint(base, drawings: torch.Tensor, weights: tuple[float, float] | None, steps: int, guidance: float, seed: int):
    """Pictures [N, 64, 128, 3] by Place, Control Image, Region Control and the host's sampler."""
    import comfy.sample
    from mos_pack.nodes.bridge.demo.adapter import load_sketch_adapter
    from mos_pack.nodes.bridge.placing.control import control_regions
    from mos_pack.nodes.bridge.placing.place import place

    model, clip, vae = base
    placed = region_map(weights or (1, 1))
    model, positive, negative = place(model, clip, PROMPT, "", placed)
    if weights is not None:
        sketch, adapter = draw(drawings), load_sketch_adapter()
        positive, negative = control_regions(positive, negative, adapter, sketch, placed, 1.0, 0.0, 0.0, 1.0)
    latent = torch.zeros(len(drawings), model.model.latent_format.latent_channels, SIDE // 8, SIDE // 4)
    noise = comfy.sample.prepare_noise(latent, seed)
    with torch.inference_mode():
        made = comfy.sample.sample(
            model,
            noise,
            steps,
            guidance,
            "dpmpp_2m",
            "normal",
            positive,
            negative,
            latent,
            seed=seed,
            disable_pbar=True,
        )
        return vae.decode(made)[..., :3].float().clamp(0, 1)


def interval(values: torch.Tensor) -> str:
    numbers = values.numpy()
    means = np.random.default_rng(0).choice(numbers, (2000, len(numbers))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{numbers.mean():.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--kind", choices=("a", "b"), default="a", help="the base of SD1.5's or of SDXL's kind")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "sketch.png", help="where a sheet goes")
    options = parser.parse_args()
    start()
    from mos_pack.nodes.bridge.demo.small_base import load_small_base
    from mos_pack.nodes.bridge.demo.small_base_xl import load_small_base_xl

    base, drawings = (load_small_base if options.kind == "a" else load_small_base_xl)(), load_drawings(options.pictures)
    sheet = [draw(drawings)]
    print(f"{options.pictures} pictures per row, {options.steps} steps, guidance {options.guidance:g}\n")
    print("| weight of the sketch | left: silhouette | left: lines | right: silhouette | right: lines |")
    print("|---|---|---|---|---|")
    for name, weights in WEIGHTS.items():
        made = paint(base, drawings, weights, options.steps, options.guidance, seed=1)
        sheet.append(made)
        scores = [
            score
            for half in (0, 1)
            for score in agree(
                made[:, :, half * SIDE : (half + 1) * SIDE], drawings[:, :, half * SIDE : (half + 1) * SIDE]
            )
        ]
        print(f"| {name} | " + " | ".join(map(interval, scores)) + " |", flush=True)
    rows = torch.cat([torch.cat(list(column[:8]), 0) for column in sheet], 1)
    Image.fromarray((rows * 255).round().byte().numpy()).resize(
        (rows.shape[1] * 2, rows.shape[0] * 2), Image.Resampling.NEAREST
    ).save(options.out)
    print(f"\nsheet (drawing, {', '.join(WEIGHTS)}): {options.out}")


if __name__ == "__main__":
    main()
