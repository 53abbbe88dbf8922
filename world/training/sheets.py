"""Sample sheets: the fixed prompts that every snapshot of a base is seen by. snapshots.py draws one on demand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from .. import autoencoders
from ..drawing.sprites import CACHE
from .latents import alphas, tokenize

SINGLES = (
    "a person, blue background",
    "a person with long red hair and glasses, wearing a blue shirt, green background",
    "a person with a white beard",
    "a person with a purple bob, glasses and pale skin, wearing a yellow hoodie",
    "a person with a red afro, a beard and dark skin, wearing a green shirt, pink background",
    "a person with short black hair and tan skin, wearing a white shirt, smiling, yellow background",
    "a photo of a person with no hair and sunglasses, red background",
    "a person wearing a pink shirt",
    "a cat, blue background",
    "a car, green background",
    "a panda, pink background",
    "a photo of a pizza",
    "a 3d rocket, white background",
    "a flat fox, purple background",
    "a soft house, yellow background",
    "a strawberry, green background",
)
DOUBLES = (
    "a person on the left and a person on the right",
    "a person with long blonde hair, wearing a red shirt on the left and a person with a black afro, glasses and dark "
    "skin, wearing a blue hoodie on the right, green background",
    "a cat on the left and a person with red hair on the right, blue background",
    "a rocket on the right and a frog on the left, white background",
    "a person with red hair to the right of a cat",
    "a person with blue hair next to a person with a white beard, yellow background",
    "a cat and a person with glasses in a background",
)


@torch.inference_mode()
def sample(
    net: torch.nn.Module, data, prompts: tuple[str, ...], width: int, seed: int, steps: int = 20, guidance: float = 3.0
) -> torch.Tensor:
    """Standardised latents [N, C, 8, width] by DDIM with classifier-free guidance."""
    rows = torch.searchsorted(data.ids, tokenize(list(prompts))).clamp(max=len(data.ids) - 1)
    device = next(net.parameters()).device
    conditions = net.conditions(torch.cat([rows, data.empty.expand(len(rows), -1)]).to(device), 8, width)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(prompts), data.channels, 8, width, generator=generator).to(device)
    times = torch.linspace(999, 0, steps + 1).round().long()
    schedule = torch.cat([alphas(), torch.ones(1)])
    for now, then in zip(times[:-1], [*times[1:-1], torch.tensor(-1)], strict=True):
        a, b = schedule[now].sqrt(), (1 - schedule[now]).sqrt()
        moment = now.float().to(device).expand(2 * len(x))
        positive, negative = net.unet(torch.cat([x, x]), moment, **conditions).chunk(2)
        v = negative + guidance * (positive - negative)
        clean, noise = a * x - b * v, b * x + a * v
        x = schedule[then].sqrt() * clean + (1 - schedule[then]).sqrt() * noise
    return x.cpu()


@torch.inference_mode()
def draw_sheet(
    net: torch.nn.Module,
    data,
    path: Path,
    sample: Callable[..., torch.Tensor] = sample,
    seeds: tuple[int, ...] = (1, 2),
) -> None:
    """Two rows of singles, then doubles, per seed."""
    cache = torch.load(CACHE / "latents.pt", mmap=True)
    autoencoder = autoencoders.load()
    mean, std = cache["mean"].view(1, -1, 1, 1), cache["std"].view(1, -1, 1, 1)
    rows = []
    for seed in seeds:
        for prompts, width in ((SINGLES, 8), (DOUBLES, 16)):
            z = sample(net, data, prompts, width, seed)
            pictures = ((autoencoder.decode(z * std + mean).clamp(-1, 1) + 1) * 127.5).byte()
            rows.append(torch.cat(list(pictures), 2))
    width = max(r.shape[2] for r in rows)
    rows = [torch.nn.functional.pad(r, (0, width - r.shape[2])) for r in rows]
    sheet = Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy())
    sheet = sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)
    ImageDraw.Draw(sheet).text((4, sheet.height - 14), path.stem, fill="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
