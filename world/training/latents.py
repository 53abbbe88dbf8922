"""What all training of the small world reads: cached latents, tokenised captions, and the noise schedule."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..drawing.sprites import CACHE
from ..host import small_base


@dataclass
class Data:
    """Latents [N, C, 8, 8 to 24], caption rows [N, 77] and the vocabulary ids [V]."""

    latents: dict[str, torch.Tensor]
    rows: dict[str, torch.Tensor]
    ids: torch.Tensor
    empty: torch.Tensor


def tokenize(captions: list[str]) -> torch.Tensor:
    """Token ids [N, 77] by the host's own tokenizer, with its padding."""
    tokenizer = small_base().comfy.sd1_clip.SD1Tokenizer()
    known: dict[str, list[int]] = {}
    out = []
    for caption in captions:
        if caption not in known:
            known[caption] = [t for t, _ in tokenizer.tokenize_with_weights(caption)["l"][0]]
        out.append(known[caption])
    return torch.tensor(out)


def load_data() -> Data:
    """Read the cache of `world.training.autoencoder`; tokenised captions are cached beside it."""
    cache = torch.load(CACHE / "latents.pt")
    path = CACHE / "tokens.pt"
    if not path.exists():
        tokens = {label: tokenize(c) for label, c in cache["captions"].items()}
        torch.save({**tokens, "empty": tokenize([""])}, path)
    tokens = torch.load(path)
    ids = torch.cat([t.reshape(-1) for t in tokens.values()]).unique()
    rows = {k: torch.searchsorted(ids, t) for k, t in tokens.items()}
    return Data(cache["latents"], rows, ids, rows.pop("empty"))


def alphas() -> torch.Tensor:
    """Cumulative alphas of SD's schedule (scaled linear, 1000 steps)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()
