"""Trains base B, of SDXL's kind, from base A's snapshot: `python -m world.training.base_b --hours 0.5`.

At its first step it paints exactly what base A paints: the second text tower, the label input and the additional
transformer blocks all enter through weights that start at zero.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..drawing.sprites import CACHE
from ..host import small_base_xl
from . import base

PEAK = 5e-4
CROPS = 0.1
SIDE = 8  # latent positions of a native square
# Where a transformer block's three branches join its trunk.
JOINTS = ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2")


class PooledTower(base.TextTower):
    """The second tower: padded with token 0 as SDXL's is, and read once more at the end of the text, projected."""

    def __init__(self, transformer: nn.Module, ids: torch.Tensor) -> None:
        super().__init__(transformer, second_ids(ids))
        self.projection = transformer.text_projection

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, 77] rows of the first tower's vocabulary -> hidden [B, 77, C], pooled [B, C]."""
        end = len(self.table.weight) - 2  # the end token has the highest id, so the last row but the padding's
        seen = (rows == end).cumsum(1)
        own = rows.masked_fill(seen > 1, end + 1)
        hidden, _, pooled = self.model(None, embeds=self.table(own), num_tokens=((seen == 0).sum(1) + 1).tolist())
        return hidden, self.projection(pooled)


def second_ids(ids: torch.Tensor) -> torch.Tensor:
    """The first tower's vocabulary and the second's padding."""
    return torch.cat([ids, ids.new_zeros(1)])


class NetB(nn.Module):
    """UNet and two text towers."""

    def __init__(self, ids: torch.Tensor, channels: int) -> None:
        super().__init__()
        module = small_base_xl()
        model, encoders = module.build_unet(channels), module.build_clip().cond_stage_model
        self.encode_adm = model.encode_adm
        self.unet = model.diffusion_model
        self.text = base.TextTower(encoders.clip_l.transformer, ids)
        self.second = PooledTower(encoders.clip_g.transformer, ids)
        for part in (self.unet, self.text.model, self.second.model, self.second.projection):
            base.initialise(part)
        self.requires_grad_(True)

    def conditions(
        self, rows: torch.Tensor, height: int, width: int, full: int = 0, crop: int = 0
    ) -> dict[str, torch.Tensor]:
        """``full`` and ``crop``: width of the whole canvas and the window's left edge, in latent positions."""
        hidden, pooled = self.second(rows)
        label = self.encode_adm(
            pooled_output=pooled,
            height=8 * height,
            width=8 * (full or width),
            crop_w=8 * crop,
            target_height=8 * height,
            target_width=8 * width,
        )
        return {"context": torch.cat([self.text(rows), hidden], dim=-1), "y": label.to(hidden.device)}


def loss_of(net: NetB, x: torch.Tensor, rows: torch.Tensor, schedule: torch.Tensor) -> torch.Tensor:
    """Base A's objective; some wide canvases are cut to a square that the label input declares as a cut."""
    width = x.shape[-1]
    if width == SIDE or torch.rand(()) > CROPS:
        return base.loss_of(net, x, rows, schedule)
    crop = int(torch.randint(width - SIDE + 1, ()))
    return base.loss_of(net, x[..., crop : crop + SIDE], rows, schedule, full=width, crop=crop)


def start_from(net: NetB, ids: torch.Tensor, path: Path) -> None:
    """Take over base A's averaged weights and silence everything that it has not."""
    saved = torch.load(path)
    theirs, own = dict(saved["ema"]), net.state_dict()
    known = torch.isin(ids, saved["ids"])
    rows = own["text.table.weight"].clone()
    rows[known] = theirs["text.table.weight"][torch.searchsorted(saved["ids"], ids[known])]
    theirs["text.table.weight"] = rows
    for name, weight in theirs.items():
        target = own[name]
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weight = torch.cat([weight, weight.new_zeros(len(weight), target.shape[1] - weight.shape[1])], dim=1)
        theirs[name] = weight.reshape(target.shape)  # 1x1 convolutions become linear layers
    for name in own:
        first = name.replace(".transformer_blocks.1.", ".transformer_blocks.0.")
        if first != name:  # a second block begins as a copy of the first whose branches are closed
            joint = any(f".{joint}." in name for joint in JOINTS)
            theirs[name] = torch.zeros_like(own[name]) if joint else theirs[first].clone()
    for name in ("unet.label_emb.0.2.weight", "unet.label_emb.0.2.bias"):
        theirs[name] = torch.zeros_like(own[name])
    missing, extra = net.load_state_dict(theirs, strict=False)
    if extra or not all(name.startswith(("second.", "unet.label_emb.0.0.")) for name in missing):
        raise SystemExit(f"{path} is a snapshot of another net: missing {missing[:3]}, unknown {extra[:3]}")


BASE_B = base.Recipe(CACHE / "base_b.pt", CACHE / "sheets_b", NetB, loss_of, start=start_from)

if __name__ == "__main__":
    base.main(BASE_B, workers=1, peak=PEAK, start=str(base.SNAPSHOT))
