"""What a batch of training shows, and when."""

from __future__ import annotations

import torch

from .latents import Data

DROPOUT = 0.1
TEST = 512  # pictures of every kind that no training sees


def choose_label(done: float, chance: float) -> str:
    """What a batch shows: one subject first, several and wide canvases later. `chance` lies in 0..1."""
    share = 0.0 if done < 0.3 else 0.75 if done < 0.7 else 1.0
    for label, often in (("triple", 0.07), ("double", 0.28), ("tall", 0.09), ("wide", 0.11), ("wider", 0.05)):
        chance -= share * often
        if chance < 0:
            return label
    return "single"


def draw_batch(data: Data, label: str, squares: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random batch of ``squares`` fields (a canvas of two counts as two); some captions are emptied, so that guidance
    has something to guide away from."""
    height, width = data.latents[label].shape[-2:]
    count = squares * 64 // (height * width)
    pick = torch.randint(len(data.latents[label]) - TEST, (count,)).to(data.latents[label].device)
    rows = data.rows[label][pick].clone()
    rows[(torch.rand(count) < DROPOUT).to(rows.device)] = data.empty[0]
    return data.latents[label][pick].float(), rows
