"""Trains base C, of Cosmos-Predict2's and Anima's kind: `python -m world.training.base_c --hours 1`; again to resume.

The host's transformer paints in base A's latents and reads base A's text tower, which stays as it is and ships once;
base A is its teacher, too.
What the net is shown, and what its answer means, is asked of the host's sampling for this kind, as Train asks it.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .. import autoencoders
from ..drawing.sprites import CACHE
from ..host import small_base
from . import base
from .latents import tokenize
from .teacher import Teacher

PEAK = 2e-3
MODULATIONS = (*(f"adaln_modulation_{part}.2" for part in ("self_attn", "cross_attn", "mlp")), "adaln_modulation.2")
ZEROS = (*MODULATIONS, "linear_2", "final_layer.linear")


class NetC(nn.Module):
    """The transformer (``unet``, as the recipes call what paints), and base A's text tower and UNet, both frozen."""

    def __init__(self, ids: torch.Tensor, channels: int) -> None:
        super().__init__()
        text = small_base().build_clip().cond_stage_model.clip_l.transformer
        demo, rule = (
            importlib.import_module(f"mos_pack.nodes.bridge.{name}")
            for name in ("demo.small_base_dit", "training.rule")
        )
        model = demo.build_net(channels)
        sampling = model.model_sampling
        self.schedule, self.times = rule.schedule_of(sampling), sampling.timestep(sampling.sigmas).float()
        self.unet = model.diffusion_model
        initialise(self.unet)
        self.text = base.TextTower(text, ids)
        self.teacher = Teacher(self.schedule, channels)
        self.unet.requires_grad_(True)
        self.text.requires_grad_(False)

    def conditions(self, rows: torch.Tensor, height: int, width: int) -> dict[str, torch.Tensor]:
        """What the net is told about captions [B, 77] for latents of any size."""
        with torch.no_grad():
            return {"context": self.text(rows)}

    def answer(self, shown: torch.Tensor, steps: torch.Tensor, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
        """The net's answer [B, C, h, w] to noisy pictures at ``steps`` [B] of the schedule: films of one frame."""
        options = {"optimized_attention_override": attend}
        return self.unet(
            shown.unsqueeze(2), self.times[steps].to(shown.device), **conditions, transformer_options=options
        ).squeeze(2)


def attend(_, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **options) -> torch.Tensor:
    """The host's own choice asks for free memory at every call, which torch.compile cannot look through; torch's fused
    one takes half of a step on a CPU, for the gradients of so few tokens."""
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).float().softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


def initialise(root: nn.Module) -> None:
    """Norms are ones; what shifts, scales and gates a branch, and the last layer, begin at zero: adaLN-Zero
    (arXiv 2212.09748)."""
    for name, module in root.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        if weight.dim() == 1:
            nn.init.ones_(weight)
        elif name.endswith(ZEROS):
            nn.init.zeros_(weight)
        else:
            nn.init.xavier_uniform_(weight)


def draw_steps(count: int, net: NetC) -> torch.Tensor:
    """[count] steps of the host's schedule: their times are half uniform, half logit-normal, as base A's are."""
    times = torch.where(torch.rand(count) < 0.5, torch.rand(count), torch.randn(count).sigmoid())
    return torch.searchsorted(net.times, times).clamp(max=len(net.times) - 1)


def loss_of(net: NetC, x: torch.Tensor, rows: torch.Tensor, schedule: torch.Tensor) -> torch.Tensor:
    """The mean squared error of the net's answer against base A's; ``schedule`` is base A's and not asked."""
    steps, noise = draw_steps(len(x), net), torch.randn_like(x)
    shown, conditions = net.schedule.noisy(x, noise, steps), net.conditions(rows, *x.shape[-2:])
    lesson = net.schedule.target(*net.teacher(shown, x, noise, steps, conditions["context"]), steps)
    return (net.answer(shown, steps, conditions).float() - lesson).pow(2).mean()


@torch.inference_mode()
def sample(
    net: NetC, data, prompts: tuple[str, ...], width: int, seed: int, steps: int = 20, guidance: float = 3.0
) -> torch.Tensor:
    """Standardised latents [N, C, 8, width] by Euler steps at even times, with classifier-free guidance."""
    rows = torch.searchsorted(data.ids, tokenize(list(prompts))).clamp(max=len(data.ids) - 1)
    device = next(net.parameters()).device
    conditions = net.conditions(torch.cat([rows, data.empty.expand(len(rows), -1)]).to(device), 8, width)
    generator = torch.Generator().manual_seed(seed)
    last = len(net.times) - 1
    picks = torch.searchsorted(net.times, torch.linspace(float(net.times[-1]), float(net.times[0]), steps + 1))
    noise = torch.randn(len(prompts), data.channels, 8, width, generator=generator).to(device)
    x = net.schedule.noisy(torch.zeros_like(noise), noise, torch.tensor([last]))
    for now, then in zip(picks[:-1].clamp(max=last)[:, None], picks[1:, None], strict=True):
        both = net.answer(torch.cat([x, x]), now.expand(2 * len(x)), conditions)
        positive, negative = both.float().chunk(2)
        clean = net.schedule.clean(x, negative + guidance * (positive - negative), now)
        x = net.schedule.noisy(clean, net.schedule.noise_in(x, clean, now), then)
    return clean.cpu()


def start_from(net: NetC, ids: torch.Tensor, path: Path) -> None:
    """Base A from its shipped file; words that it does not know are its average word."""
    tensors = autoencoders.demo_module("rows").unpack(load_file(path))
    known, rows = tensors["text.vocabulary.ids"].long(), tensors["text.vocabulary.rows"]
    weights = {f"model.{name[16:]}": t for name, t in tensors.items() if name.startswith("text.text_model.")}
    table = rows.mean(0, keepdim=True).repeat(len(ids), 1)
    there = torch.isin(ids, known)
    table[there] = rows[torch.searchsorted(known, ids[there])]
    net.text.load_state_dict(weights | {"table.weight": table})
    net.teacher.unet.load_state_dict({name[5:]: t for name, t in tensors.items() if name.startswith("unet.")})


def blocks(net: NetC) -> list[nn.Module]:
    """All blocks are alike: compiled one by one they cost one compilation per size of canvas."""
    return list(net.unet.blocks)


BASE_C = base.Recipe(CACHE / "base_c.pt", CACHE / "sheets_c", NetC, loss_of, start_from, sample, blocks)

if __name__ == "__main__":
    base.main(BASE_C, peak=PEAK, start=str(autoencoders.SHIPPED))
