"""Trains UNet and text tower together from cached latents; run again to resume.

`python -m world.training.base --hours 1.5`

`--start FILE` begins a new run from another run's snapshot (its averaged weights) or from a shipped base
(.safetensors), and then shows several subjects all along; words that it did not know start as new rows.

One process per core, each with its own half of the batch; gradients meet in shared memory once per step, which
bears a busy machine better than threads that meet in every operation. On a GPU (`--device cuda --batch 256`) one
process takes bfloat16; so do CPUs by `--bfloat16 --batch 64`, a third faster where they multiply matrices in it (AMX).
Every minute the state is saved under another name first and then moved.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import nn

from ..drawing.sprites import CACHE
from ..host import small_base
from .batches import choose_label, draw_batch
from .carry import read_shipped
from .keep import keep
from .latents import alphas, load_data
from .sheets import draw_sheet, sample

SNAPSHOT = CACHE / "base.pt"
PEAK = 1e-3
EMA = 0.998


def rate_at(step: int, done: float, peak: float) -> float:
    """Warm-up over 200 steps, constant for 55 % of the time, then a cosine down to 3 %."""
    late = max(0.0, (done - 0.55) / 0.45)
    return peak * min(1.0, (step + 1) / 200) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, late))))


class TextTower(nn.Module):
    """The host's CLIP transformer over a compact vocabulary: rows for the tokens of our captions only."""

    def __init__(self, transformer: nn.Module, ids: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding(len(ids), transformer.text_model.final_layer_norm.weight.shape[0])
        self.model = transformer.text_model
        nn.init.normal_(self.table.weight, std=0.05)
        self.model.embeddings.token_embedding = nn.Identity()
        # The host adds residuals in place, which autograd refuses unless the layer norms see a copy.
        for layer in self.model.encoder.layers:
            for norm in (layer.layer_norm1, layer.layer_norm2):
                norm.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(),))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, 77] row numbers -> [B, 77, C]."""
        return self.model(None, embeds=self.table(rows), num_tokens=[1] * len(rows))[0]


def initialise(root: nn.Module) -> None:
    """The host's layers start uninitialised: torch's defaults, and zeros where a branch joins its trunk."""
    for name, module in root.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or isinstance(module, nn.Identity):
            continue
        if "norm" in type(module).__name__.lower():
            nn.init.ones_(weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) or "position_embedding" in name:
            nn.init.normal_(weight, std=0.02)
        else:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(("out_layers.3", "proj_out", "out.2")):
                nn.init.zeros_(weight)


class Net(nn.Module):
    """UNet and text tower."""

    def __init__(self, ids: torch.Tensor, channels: int) -> None:
        super().__init__()
        module = small_base()
        self.unet = module.build_unet(channels).diffusion_model
        self.text = TextTower(module.build_clip().cond_stage_model.clip_l.transformer, ids)
        initialise(self.unet)
        initialise(self.text.model)
        self.requires_grad_(True)

    def conditions(self, rows: torch.Tensor, height: int, width: int) -> dict[str, torch.Tensor]:
        """What the UNet is told about captions [B, 77] for latents of this size."""
        return {"context": self.text(rows)}


def loss_of(net: nn.Module, x: torch.Tensor, rows: torch.Tensor, schedule: torch.Tensor, **place: int) -> torch.Tensor:
    """v-prediction: v = a n - b x at x_t = a x + b n. ``place`` goes to the net's conditions.

    Half of the timesteps are uniform, half logit-normal: what a picture shows is decided in the middle.
    """
    t = torch.where(torch.rand(len(x)) < 0.5, torch.rand(len(x)), torch.randn(len(x)).sigmoid()).mul(1000)
    t = t.long().to(x.device)
    a, b = schedule[t].sqrt().view(-1, 1, 1, 1), (1 - schedule[t]).sqrt().view(-1, 1, 1, 1)
    noise = torch.randn_like(x)
    out = net.unet(a * x + b * noise, t.float(), **net.conditions(rows, *x.shape[-2:], **place))
    return (out.float() - (a * noise - b * x)).pow(2).mean()


def start_from(net: Net, ids: torch.Tensor, path: Path) -> None:
    """Take over another run's averaged weights, or a shipped base. Words that it did not know keep their fresh rows."""
    saved = read_shipped(path) if path.suffix == ".safetensors" else torch.load(path)
    weights = dict(saved["ema"])
    old = weights.pop("text.table.weight")
    missing, extra = net.load_state_dict(weights, strict=False)
    if extra or set(missing) != {"text.table.weight"}:
        raise SystemExit(f"{path} is a snapshot of another net: missing {missing[:3]}, unknown {extra[:3]}")
    known = torch.isin(ids, saved["ids"])
    with torch.no_grad():
        net.text.table.weight[known] = old[torch.searchsorted(saved["ids"], ids[known])]


def whole_unet(net: nn.Module) -> list[nn.Module]:
    return [net.unet]


@dataclass(frozen=True)
class Recipe:
    """What tells one base's training from another's; the functions are a module's own, so that processes share them."""

    snapshot: Path
    sheets: Path
    build: Callable[[torch.Tensor, int], nn.Module]  # vocabulary ids, latent channels -> fresh net
    loss: Callable[..., torch.Tensor] = loss_of  # net, latents, caption rows, schedule
    start: Callable[[nn.Module, torch.Tensor, Path], None] = start_from
    sample: Callable[..., torch.Tensor] = sample  # what a sheet shows: net, data, prompts, width, seed
    parts: Callable[[nn.Module], list[nn.Module]] = whole_unet  # what --compile compiles


BASE_A = Recipe(SNAPSHOT, CACHE / "sheets", Net)


@dataclass(frozen=True)
class Run:
    """How long, how fast, from where, on what and in which numbers; ``batch`` is of one process, in fields."""

    recipe: Recipe
    seconds: float
    peak: float
    start: str
    device: str
    bfloat16: bool
    batch: int
    sheets: float  # seconds between sample sheets
    compile: bool


def trained(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def exchange(parameters: list[nn.Parameter], shared: torch.Tensor, rank: int, barrier: mp.Barrier, now: float) -> float:
    """Every process's gradients become their mean; returns the first one's clock, so that all agree about the time."""
    parts = [p.grad.reshape(-1) if p.grad is not None else torch.zeros(p.numel()) for p in parameters]
    shared[rank, :-1].copy_(torch.cat(parts))
    if rank == 0:
        shared[0, -1] = now
    barrier.wait()
    total, now = shared[:, :-1].mean(0), float(shared[0, -1])
    barrier.wait()
    offset = 0
    for p in parameters:
        p.grad = total[offset : offset + p.numel()].view_as(p)
        offset += p.numel()
    return now


def work(rank: int, barrier: mp.Barrier, shared: torch.Tensor, run: Run) -> None:
    """One training process."""
    torch.set_num_threads(1)
    data, recipe, seconds, peak = load_data(), run.recipe, run.seconds, run.peak
    torch.manual_seed(0)
    net = recipe.build(data.ids, data.channels)
    workers = len(shared)
    if run.start and not recipe.snapshot.exists():
        recipe.start(net, data.ids, Path(run.start))
    net, schedule, near = net.to(run.device), alphas().to(run.device), data.to(run.device)
    if run.compile:
        torch._dynamo.config.recompile_limit = 32  # every size of canvas compiles anew
        for part in recipe.parts(net):
            part.compile(dynamic=False)
    parameters = trained(net)
    average = {k: v.clone() for k, v in net.state_dict().items()}
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    step, elapsed, seen = 0, 0.0, 0
    if recipe.snapshot.exists():
        saved = torch.load(recipe.snapshot, map_location=run.device)
        net.load_state_dict(saved["net"])
        optimiser.load_state_dict(saved["optimiser"])
        average, step, elapsed, seen = saved["ema"], saved["step"], saved["elapsed"], saved["seen"]
        # Half-finished work of another snapshot may sit in the buffer.
        barrier.wait()
    torch.manual_seed(1000 * step + rank)
    clock, saved_at, shown_at, sheet_at = time.time(), time.time(), time.time(), time.time() - run.sheets / 3
    losses: list[torch.Tensor] = []
    start_step, start_time = step, time.time()
    kinds = torch.Generator().manual_seed(step)
    while elapsed < seconds:
        done = elapsed / seconds
        label = choose_label(1.0 if run.start else done, torch.rand(1, generator=kinds).item())
        with torch.autocast(run.device.split(":")[0], torch.bfloat16, enabled=run.bfloat16):
            loss = recipe.loss(net, *draw_batch(near, label, run.batch), schedule)
        loss.backward()
        now = elapsed + time.time() - clock
        if workers > 1:
            now = exchange(parameters, shared, rank, barrier, now)
        clock += now - elapsed if rank == 0 else 0
        elapsed = now
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, done, peak)
        optimiser.step()
        optimiser.zero_grad()
        step, seen = step + 1, seen + workers * run.batch
        if rank:
            continue
        losses = [*losses[-199:], loss.detach()]
        decay = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(net.state_dict().values()), 1 - decay)
        if time.time() - shown_at > 30:
            shown_at = time.time()
            speed = (step - start_step) * workers * run.batch / (time.time() - start_time)
            print(
                f"{time.strftime('%H:%M:%S')} step {step} images {seen} {100 * done:.1f}% {speed:.0f}/s loss "
                f"{float(torch.stack(losses).mean()):.4f} rate {rate_at(step, done, peak):.1e}",
                flush=True,
            )
        if time.time() - saved_at > 60 or elapsed >= seconds:
            saved_at = time.time()
            keep(
                {
                    "net": net.state_dict(),
                    "ema": average,
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "elapsed": elapsed,
                    "seen": seen,
                    "ids": data.ids,
                },
                recipe.snapshot,
            )
        if time.time() - sheet_at > run.sheets:
            sheet_at = time.time()
            draw_sheet(net, data, recipe.sheets / f"{step:06d}-raw.png", recipe.sample)
            if done > 0.15:
                weights = {k: v.clone() for k, v in net.state_dict().items()}
                net.load_state_dict(average)
                draw_sheet(net, data, recipe.sheets / f"{step:06d}-ema.png", recipe.sample)
                net.load_state_dict(weights)


def main(recipe: Recipe = BASE_A, workers: int = 2, peak: float = PEAK, start: str = "") -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=1.4, help="whole length of training, earlier runs included")
    parser.add_argument("--workers", type=int, default=workers, help="processes, one thread each")
    parser.add_argument("--peak", type=float, default=peak, help="highest learning rate")
    parser.add_argument("--start", default=start, help="another run's snapshot, or a shipped base, to begin from")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: one process in bfloat16")
    parser.add_argument("--bfloat16", action="store_true", help="on a CPU, too")
    parser.add_argument("--batch", type=int, default=16, help="fields per process and step")
    parser.add_argument("--sheets", type=float, default=330, help="seconds between sample sheets")
    parser.add_argument("--compile", action="store_true", help="by torch.compile, which needs a C++ compiler")
    options = parser.parse_args()
    recipe.sheets.mkdir(parents=True, exist_ok=True)
    data = load_data()
    size = sum(p.numel() for p in trained(recipe.build(data.ids, data.channels)))
    print(f"{size / 1e6:.2f} M parameters", flush=True)
    context = mp.get_context("spawn")
    workers = 1 if options.device != "cpu" else options.workers
    shared = torch.zeros(workers, size + 1, dtype=torch.float32).share_memory_()
    half = options.bfloat16 or options.device != "cpu"
    run = Run(
        recipe,
        options.hours * 3600,
        options.peak,
        options.start,
        options.device,
        half,
        options.batch,
        options.sheets,
        options.compile,
    )
    mp.spawn(work, (context.Barrier(workers), shared, run), nprocs=workers)


if __name__ == "__main__":
    main()
