"""Trains the autoencoder and caches latents: `python -m world.training.autoencoder [--minutes 9]`.

`--keep` trains nothing and caches the latents of new canvases under the statistics that the base already knows;
`--decoder` trains the decoder alone (the latents stay what they are), for canvases that show new things or for more
noise; with `--blend 0.5` its new weights are averaged with the old ones.

The linear path starts as PCA of 8x8 patches. Noise of up to --noise deviations is added to the latents while the
decoder learns, so that errors of the diffusion model decode cleanly.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..drawing.sprites import CACHE
from ..host import small_base

BATCH = 32
PEAK = 1.5e-3
WEIGHTS = CACHE / "autoencoder.pt"
LABELS = ("single", "double", "triple", "wide", "wider")


def load_pixels(label: str) -> tuple[torch.Tensor, np.ndarray]:
    """uint8 [N, H, W, 3] and captions."""
    with np.load(CACHE / f"{label}.npz") as data:
        return torch.from_numpy(data["pixels"]), data["captions"]


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> [N, 3, H, W] in -1..1."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


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


@torch.inference_mode()
def score(net: torch.nn.Module, pixels: torch.Tensor) -> float:
    """Mean PSNR in dB of whole pictures."""
    x = to_float(pixels)
    error = (net(x).clamp(-1, 1) - x).pow(2).mean((1, 2, 3)) / 4
    return float((-10 * error.log10()).mean())


def load_autoencoder() -> torch.nn.Module:
    """The autoencoder as it was trained last."""
    net = small_base().SmallAutoencoder(small_base().LATENT_CHANNELS)
    net.load_state_dict(torch.load(WEIGHTS))
    return net


def train(
    minutes: float, noise: float = 0.2, decoder_only: bool = False, blend: float = 1.0, out: Path = WEIGHTS
) -> torch.nn.Module:
    torch.manual_seed(0)
    net = load_autoencoder() if decoder_only else small_base().SmallAutoencoder(small_base().LATENT_CHANNELS)
    singles, doubles = load_pixels("single")[0], load_pixels("double")[0]
    test = singles[-256:]
    singles, doubles = singles[:-512], doubles[:-512]
    pool = torch.cat([singles, doubles[:, :, 32:96]])
    rate_peak = PEAK / 3 if decoder_only else PEAK
    if decoder_only:
        net.linear_in.requires_grad_(False)
        net.encoder.requires_grad_(False)
    else:
        start_from_pca(net, pool[torch.randperm(len(pool))[:2000]])
    print(
        f"parameters {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M, PCA {score(net, test):.2f} dB", flush=True
    )
    trained = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=PEAK, betas=(0.9, 0.99), weight_decay=1e-4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    average = {k: v.clone() for k, v in before.items()}
    begin, step, shown = time.time(), 0, time.time()
    while (done := (time.time() - begin) / (60 * minutes)) < 1:
        rate = rate_peak * min(1, (step + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x = to_float(pool[torch.randint(len(pool), (BATCH,))])
        z = net.encode(x)
        error = torch.randn_like(z) * torch.rand(BATCH, 1, 1, 1) * noise * z.detach().std((0, 2, 3), keepdim=True)
        difference = net.decode(z + error) - x
        loss = difference.pow(2).mean() + 0.1 * difference.abs().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            for k, v in net.state_dict().items():
                average[k].lerp_(v, 0.005)
        if time.time() - shown > 30:
            shown = time.time()
            print(
                f"{step} steps {step * BATCH / (time.time() - begin):.0f} images/s loss {loss.item():.4f} "
                f"{score(net, test[:128]):.2f} dB",
                flush=True,
            )
            torch.save(average, out)
    if decoder_only:
        average = {k: before[k].lerp(v, blend) for k, v in average.items()}
    net.load_state_dict(average)
    torch.save(average, out)
    print(f"end: {score(net, test):.2f} dB on composites never trained on", flush=True)
    return net


@torch.inference_mode()
def cache_latents(net: torch.nn.Module, keep: bool = False) -> None:
    """Write standardised fp16 latents and captions, with the statistics that undo the standardisation.

    With ``keep`` the statistics are those of the last time, which a base trained on them must go on using.
    """
    encoded = {}
    for label in LABELS:
        pixels, captions = load_pixels(label)
        encoded[label] = torch.cat([net.encode(to_float(part)) for part in pixels.split(256)]), captions
    if keep:
        cache = torch.load(CACHE / "latents.pt", mmap=True)
        record = {k: cache[k].clone() for k in ("mean", "std", "rgb", "rgb_bias")}
    else:
        record = measure_latents(net, encoded)
    mean, std = record["mean"].view(1, -1, 1, 1), record["std"].view(1, -1, 1, 1)
    out = {label: ((z - mean) / std).half() for label, (z, _) in encoded.items()}
    captions = {label: list(map(str, c)) for label, (_, c) in encoded.items()}
    torch.save({**record, "latents": out, "captions": captions}, CACHE / "latents.pt.new")
    os.replace(CACHE / "latents.pt.new", CACHE / "latents.pt")
    (CACHE / "tokens.pt").unlink(missing_ok=True)


def measure_latents(net: torch.nn.Module, encoded: dict) -> dict[str, torch.Tensor]:
    """Mean and deviation per channel, and the linear map from standardised latents to colours, for previews."""
    both = torch.cat([z.movedim(1, -1).reshape(-1, net.channels) for z, _ in encoded.values()])
    mean, std = both.mean(0), both.std(0)
    colours = F.avg_pool2d(to_float(load_pixels("single")[0][:2000]), 8).movedim(1, -1).reshape(-1, 3)
    codes = (encoded["single"][0][:2000] - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
    codes = F.pad(codes.movedim(1, -1).reshape(-1, net.channels), (0, 1), value=1.0)
    rgb = torch.linalg.lstsq(codes, colours).solution
    print("latent deviations before standardising:", [round(float(s), 2) for s in std], flush=True)
    return {"mean": mean, "std": std, "rgb": rgb[:-1], "rgb_bias": rgb[-1]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="only cache latents, under the statistics of last time")
    parser.add_argument("--decoder", action="store_true", help="only train the decoder; latents stay what they are")
    parser.add_argument("--noise", type=float, default=0.2, help="highest noise on the latents, in their deviations")
    parser.add_argument("--blend", type=float, default=1.0, help="with --decoder: share of the newly trained weights")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="another file for the trained weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.keep:
        net = load_autoencoder()
        print(f"{score(net, load_pixels('single')[0][-512:]):.2f} dB")
        cache_latents(net, keep=True)
    elif options.decoder:
        train(options.minutes, options.noise, decoder_only=True, blend=options.blend, out=options.out)
    else:
        cache_latents(train(options.minutes, options.noise, out=options.out))


if __name__ == "__main__":
    main()
