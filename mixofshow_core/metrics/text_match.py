"""How well a picture fits a text: two linear maps into one space, fitted by contrast (InfoNCE, symmetric as in CLIP's
paper, arXiv 2103.00020; nothing else of CLIP is in it)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import MixOfShowError


@dataclass(frozen=True)
class Bridge:
    """picture [D, E], text [T, E]; pictures are centred by mean [D] first."""

    picture: torch.Tensor
    text: torch.Tensor
    mean: torch.Tensor

    def scores(self, pictures: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Cosines [N, M] of picture features [N, D] and text features [M, T]."""
        if pictures.shape[1:] != self.picture.shape[:1] or texts.shape[1:] != self.text.shape[:1]:
            raise MixOfShowError(
                f"This bridge reads pictures of width {len(self.picture)} and texts of width "
                f"{len(self.text)}, not {tuple(pictures.shape)} and {tuple(texts.shape)}."
            )
        return _place(pictures.float() - self.mean, self.picture) @ _place(texts.float(), self.text).T


def _place(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return F.normalize(F.normalize(rows, dim=1) @ matrix, dim=1)


def fit_bridge(
    pictures: torch.Tensor,
    texts: torch.Tensor,
    width: int = 128,
    steps: int = 400,
    batch: int = 256,
    temperature: float = 0.05,
    seed: int = 0,
) -> Bridge:
    """Fit on matching rows: pictures [N, D] and texts [N, T]."""
    if pictures.ndim != 2 or texts.ndim != 2 or len(pictures) != len(texts) or len(pictures) < 2:
        raise MixOfShowError(
            f"Fitting a bridge needs one text per picture, at least two: pictures "
            f"{tuple(pictures.shape)}, texts {tuple(texts.shape)}."
        )
    generator = torch.Generator().manual_seed(seed)
    mean = pictures.float().mean(0)
    maps = [torch.randn(rows.shape[1], width, generator=generator) for rows in (pictures, texts)]
    for matrix in maps:
        matrix.div_(math.sqrt(width)).requires_grad_(True)
    optimiser = torch.optim.AdamW(maps, lr=3e-3, weight_decay=0.05)
    with torch.enable_grad():
        for _ in range(steps):
            pick = torch.randperm(len(pictures), generator=generator)[:batch]
            a, b = _place(pictures[pick].float() - mean, maps[0]), _place(texts[pick].float(), maps[1])
            # Equal captions in one batch are all right answers.
            alike = (texts[pick] @ texts[pick].T / texts[pick].norm(dim=1).pow(2) > 0.9999).float()
            logits = a @ b.T / temperature
            loss = -(F.log_softmax(logits, 1) * alike / alike.sum(1, keepdim=True)).sum(1).mean()
            loss = loss - (F.log_softmax(logits.T, 1) * alike.T / alike.T.sum(1, keepdim=True)).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Bridge(maps[0].detach(), maps[1].detach(), mean)
