"""An autoencoder that keeps faces: `python -m world.training.autoencoder --hours 2`, run again to resume.

One latent position is 8 x 8 pixels, and it has no normalisation layers. It is trained on what a person looks at: two
pictures of three are faces, and beside the pixels it has to keep edges and what EfficientNet-Lite2's first stages see.
`python -m world.judges.autoencoder` says how well it does. A base is bound to the latents it was trained on: after a
new autoencoder come new latents and a run of every base (`world.training.base --start`).

On a GPU the same command (`--device cuda --batch 192`) takes bfloat16. Every minute the state is saved under another
name first and then moved, so that a stopped run loses at most a minute.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..autoencoders import SNAPSHOT, nets, to_float
from ..drawing import build
from ..drawing.scenery import draw_scenery
from ..drawing.sprites import CACHE, scaled
from ..judges import evaluator
from .keep import keep

SCENERY = CACHE / "autoencoder_scenery.npz"
PEAK, EMA = 1.2e-3, 0.998
FACE_SIDE, FACE_AT = 32, (16, 14)  # of 64 pixels: where eyes and mouth of a person are, see composites.FACE
NOISE = 0.3  # highest noise on the latents, in their deviations
WEIGHTS = {"l1": 1.0, "l2": 2.0, "edges": 0.7, "features": 0.15}
TEST = 512


class EarlyFeatures(nn.Module):
    """What EfficientNet-Lite2's stem and first three stages see: maps of 1/2, 1/2, 1/4 and 1/8 of the side.

    Its last layers, which the judge compares pictures by, are left out: the judge should not be what is trained on.
    """

    TAPS = (0, 3, 6)  # last block of each of the first three stages

    def __init__(self) -> None:
        super().__init__()
        net = evaluator.load_evaluator()
        self.stem, self.norm, self.blocks = net._conv_stem, net._bn0, net._blocks[: self.TAPS[-1] + 1]

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """[B, 3, H, W] in -1..1 -> four maps, every place of unit length over the channels."""
        h = F.relu6(self.norm(self.stem(pixels)))
        out = [h]
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i in self.TAPS:
                out.append(h)
        return [F.normalize(x.float(), dim=1, eps=1e-3) for x in out]


def edges(pixels: torch.Tensor) -> list[torch.Tensor]:
    """Differences of neighbours across and down, on the picture and on half of its size."""
    half = F.avg_pool2d(pixels, 2)
    return [d for p in (pixels, half) for d in (p[..., 1:] - p[..., :-1], p[..., 1:, :] - p[..., :-1, :])]


def loss_of(out: torch.Tensor, x: torch.Tensor, features: EarlyFeatures, enlarge: bool) -> torch.Tensor:
    """Pixels, edges and features; the features of faces are those of the face at twice its size."""
    difference = out - x
    loss = WEIGHTS["l1"] * difference.abs().mean() + WEIGHTS["l2"] * difference.pow(2).mean()
    pairs = list(zip(edges(out), edges(x), strict=True))
    loss = loss + WEIGHTS["edges"] * sum((a - b).abs().mean() for a, b in pairs) / len(pairs)
    if enlarge:
        out, x = (F.interpolate(p, scale_factor=2, mode="bilinear", align_corners=False) for p in (out, x))
    with torch.no_grad():
        wanted = features(x)
    seen = features(out)
    return loss + WEIGHTS["features"] * sum((a - b).pow(2).sum(1).mean() for a, b in zip(seen, wanted, strict=True))


def draw_scenes() -> np.ndarray:
    """uint8 [N, 64, 64, 3]: trained subjects in front of random scenery, drawn once; no learned scene is among them."""
    if not SCENERY.exists():
        build.load_sprites()
        rng, rows = random.Random(21), []
        for _ in range(scaled(8000, 100)):
            canvas = draw_scenery(64, rng)
            if rng.random() < 0.8:
                build.paste(canvas, rng.choice(build._people if rng.random() < 0.6 else build._emoji), 0, rng)
            rows.append(np.asarray(canvas))
        temporary = SCENERY.with_suffix(".new.npz")
        np.savez(temporary, pixels=np.stack(rows))
        os.replace(temporary, SCENERY)
    with np.load(SCENERY) as data:
        return data["pixels"]


def start_from_pca(net: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Set the linear path to the best linear code of 8x8 patches, every channel at unit deviation."""
    patches = F.pixel_unshuffle(to_float(pixels), 8).permute(0, 2, 3, 1).reshape(-1, 192)
    mean = patches.mean(0)
    _, values, vectors = torch.linalg.svd((patches - mean)[:60000], full_matrices=False)
    deviation = values[: net.channels] / math.sqrt(min(len(patches), 60000))
    basis = vectors[: net.channels]
    with torch.no_grad():
        net.linear_in.weight.copy_((basis / deviation[:, None])[:, :, None, None])
        net.linear_in.bias.copy_(-(basis @ mean) / deviation)
        net.linear_out.weight.copy_((basis * deviation[:, None]).T[:, :, None, None])
        net.linear_out.bias.copy_(mean)


@dataclass
class Pool:
    """Training pictures uint8 [N, 64, 64, 3], the numbers of those that show a person, and [M] pictures kept apart."""

    pixels: torch.Tensor
    people: torch.Tensor
    test: torch.Tensor

    def whole(self, count: int) -> torch.Tensor:
        return to_float(self.pixels[torch.randint(len(self.pixels), (count,)).to(self.pixels.device)])

    def faces(self, count: int) -> torch.Tensor:
        """[count, 3, 32, 32] in -1..1: eyes and mouth, up to four pixels off, so that they meet the grid everywhere."""
        rows = self.people[torch.randint(len(self.people), (count,)).to(self.people.device)]
        left, top = (at + int(torch.randint(-4, 5, ())) for at in FACE_AT)
        return to_float(self.pixels[rows, top : top + FACE_SIDE, left : left + FACE_SIDE])


def load_pool(device: str) -> Pool:
    """Single canvases, the middle of those with two subjects, and scenery."""
    with np.load(CACHE / "single.npz") as data:
        single, captions = data["pixels"], data["captions"]
    with np.load(CACHE / "double.npz") as data:
        double = data["pixels"][:-TEST, :, 32:96]
    people = np.flatnonzero(np.char.find(captions[:-TEST], "person") >= 0)
    pixels = np.concatenate([single[:-TEST], double, draw_scenes()])
    return Pool(
        torch.from_numpy(pixels).to(device),
        torch.from_numpy(people).to(device),
        torch.from_numpy(single[-TEST:]).to(device),
    )


@torch.inference_mode()
def score(net: nn.Module, pixels: torch.Tensor) -> tuple[float, float]:
    """(mean PSNR in dB of whole pictures, of the places where faces are)."""
    x = to_float(pixels)
    error = (net(x).float().clamp(-1, 1) - x).pow(2) / 4
    left, top = FACE_AT
    found = []
    for part in (error, error[..., top : top + FACE_SIDE, left : left + FACE_SIDE]):
        found.append(float((-10 * part.mean((1, 2, 3)).clamp(min=1e-8).log10()).mean()))
    return found[0], found[1]


def rate_at(step: int, done: float) -> float:
    """Warm-up over 200 steps, constant for 40 % of the time, then a cosine down to 2 %."""
    late = min(1.0, max(0.0, (done - 0.4) / 0.6))
    return PEAK * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * late)))


def disturb(z: torch.Tensor) -> torch.Tensor:
    """Noise on three latents of four, up to NOISE deviations: what a base paints is never quite on the spot."""
    strength = (torch.rand(len(z), 1, 1, 1, device=z.device) * 4 / 3 - 1 / 3).clamp(min=0) * NOISE
    return z + strength * torch.randn_like(z) * z.detach().std((0, 2, 3), keepdim=True)


def train(hours: float, device: str, batch: int, path: Path = SNAPSHOT) -> None:
    """``batch`` whole pictures and twice as many faces a step; ``hours`` is the whole length, earlier runs included."""
    torch.manual_seed(0)
    pool, features = load_pool(device), EarlyFeatures().to(device)
    net = nets().SmallAutoencoder()
    step, elapsed, seen = 0, 0.0, 0
    saved = torch.load(path, map_location="cpu") if path.exists() else None
    if saved is None:
        start_from_pca(net, pool.pixels[torch.randperm(len(pool.pixels))[:3000].to(device)].cpu())
    else:
        net.load_state_dict(saved["net"])
        step, elapsed, seen = saved["step"], saved["elapsed"], saved["seen"]
        torch.manual_seed(1000 + step)
    net.to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=1e-4)
    if saved:
        optimiser.load_state_dict(saved["optimiser"])
    average = {k: v.to(device) for k, v in (saved["average"] if saved else net.state_dict()).items()}
    average = {k: v.clone() for k, v in average.items()}
    print(
        f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters, {len(pool.pixels)} pictures, "
        f"{len(pool.people)} of people; from step {step}: {score(net, pool.test[:128])} dB",
        flush=True,
    )
    clock, saved_at, shown_at = time.time(), time.time(), time.time()
    first, begun, losses = step, time.time(), []
    while elapsed < 3600 * hours:
        done = elapsed / (3600 * hours)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, done)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
            loss = 0.0
            for x, enlarge in ((pool.whole(batch), False), (pool.faces(2 * batch), True)):
                loss = loss + loss_of(net.decode(disturb(net.encode(x))).float(), x, features, enlarge)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step, seen = step + 1, seen + 3 * batch
        with torch.no_grad():
            now = list(net.state_dict().values())
            torch._foreach_lerp_(list(average.values()), now, 1 - min(EMA, (1 + step) / (10 + step)))
        losses = [*losses[-199:], loss.detach()]
        elapsed, clock = elapsed + time.time() - clock, time.time()
        over = elapsed >= 3600 * hours
        if over or time.time() - shown_at > 60:
            shown_at = time.time()
            weights = {k: v.clone() for k, v in net.state_dict().items()}
            net.load_state_dict(average)
            whole, face = score(net, pool.test[:256])
            net.load_state_dict(weights)
            print(
                f"{time.strftime('%H:%M:%S')} step {step} pictures {seen} {100 * done:.1f}% "
                f"{(step - first) / (time.time() - begun):.2f} steps/s loss {float(torch.stack(losses).mean()):.4f} "
                f"average {whole:.2f} dB, faces {face:.2f} dB",
                flush=True,
            )
        if over or time.time() - saved_at > 60:
            saved_at = time.time()
            keep(
                {
                    "net": net.state_dict(),
                    "average": average,
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "elapsed": elapsed,
                    "seen": seen,
                },
                path,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.6, help="whole length of training, earlier runs included")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: bfloat16")
    parser.add_argument("--batch", type=int, default=12, help="whole pictures a step; twice as many faces come along")
    parser.add_argument("--out", type=Path, default=SNAPSHOT, help="snapshot to resume from and to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.hours, options.device, options.batch, options.out)


if __name__ == "__main__":
    main()
