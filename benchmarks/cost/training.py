"""What a training step costs: our loop, a bare PyTorch loop on the same trainable tensors, and the host's own trainer.

    python -m benchmarks.cost.training [--base lean|sd15] [--rounds 20] [--minutes 4] [--flops]

Each row is a process of its own on the same random base (`lean`: the topology of the small base; `sd15`: the layer
structure of SD1.5, narrow) at 64 px, fp32, batch 2, AdamW, no checkpointing, one thread. In every round each process
does one step, in changing order, so that other work on the machine falls on all alike. Times are processor time;
ratios are taken within a round, and shown as median with a 95 % bootstrap interval. Memory is the peak of the process
above the loaded base. The host's trainer adapts all linears, convolutions, norms and biases of the UNet and neither
words nor text encoder, so its row is another problem: read its number of parameters, too. --flops counts operations of
the real SD1.5 and SDXL shapes on no device at all, for the text encoders' share of a step.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from .start import ROOT, start

ROWS = {
    "ours": "our loop, ED-LoRA",
    "bare": "bare PyTorch loop, same tensors",
    "text": "text part alone, forward and backward",
    "host": "host's TrainLoraNode, rank 4",
}
GOALS = {"bare": (1.0, 1.0), "host": (1.2, 0.9)}  # steps per second at least, memory at most
WARM = 2
# Large blocks go back to the system at once, so that the peak is what was in use and not what the heap kept.
PLAIN_HEAP = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}


def peak() -> float:
    """Peak resident memory of this process, MB."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_base(kind: str):
    from mos_tests.host import tiny
    from mos_tests.host.training.test_train import lean_base

    base = lean_base() if kind == "lean" else tiny.tiny_base("sd15")
    base.model.model.native_size = 64
    return base


class Gate:
    """Lets a step begin when the parent says so, and tells it what the step before cost."""

    def __init__(self, before: float):
        self.before, self.begun, self.count = before, 0.0, 0

    def wait(self) -> None:
        if self.count:
            answer = {"seconds": time.process_time() - self.begun, "memory": peak() - self.before}
            print("RESULT", json.dumps(answer), flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        self.begun, self.count = time.process_time(), self.count + 1


def run_ours(base, row: str, gate: Gate, ready: Callable[[int], None]) -> None:
    import torch
    from mos_pack.mixofshow_core.training import loop
    from mos_pack.mixofshow_core.training.optimizers import make_optimizer
    from mos_pack.nodes.bridge.host import model as bridge_model
    from mos_pack.nodes.bridge.training import denoiser as training
    from mos_pack.nodes.bridge.training import run as training_run
    from mos_tests.host.training.test_train import ask

    request = ask(base, steps=1_000_000, slots=1)
    settings = request.settings
    with torch.inference_mode():
        samples = training_run.encode_pictures(request)
    with training.host_for_training(base.model, base.clip, settings, request.index) as host:
        samples = [training_run.ordinary(s) for s in samples]
        trainables = training_run.make_trainables(request)
        host.learn_words(trainables, request.plans)
        groups = trainables.parameter_groups(settings.lr_embedding, settings.lr_text, settings.lr_unet, 0.01)
        optimizer = make_optimizer(trainables, settings) if row == "ours" else torch.optim.AdamW(groups)
        captions, draws = ["a photo of zorbo, look 0"], itertools.count()

        def bare() -> None:
            draw = next(draws)
            told, chosen, which = loop.pick_batch(samples, settings, 0, draw, loop.step_random(0, draw))
            latents = torch.stack([samples[picture].latents[placement] for picture, placement in chosen])
            timesteps = torch.randint(0, 1000, (2,))
            noise = torch.randn_like(latents)
            text = host.encode(told, trainables.vectors())
            noisy = host.schedule.noisy(latents, noise, timesteps)
            output = host.predict(noisy, timesteps, text, torch.tensor(which))
            loss = torch.nn.functional.mse_loss(output, host.schedule.target(latents, noise, timesteps))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def text_only() -> None:
            optimizer.zero_grad()
            host.encode(captions, trainables.vectors()).layers.sum().backward()

        with trainables.attached(bridge_model.named_linears(base.model, host.clip)):
            ready(sum(p.numel() for p in trainables.parameters()))
            gate.wait()
            if row == "ours":
                loop.train(
                    host,
                    samples,
                    trainables,
                    optimizer,
                    settings,
                    0,
                    training_run.RunState(),
                    lambda report: gate.wait(),
                )
            while True:
                (bare if row == "bare" else text_only)()
                gate.wait()


def run_host(base, gate: Gate, ready: Callable[[int], None]) -> None:
    import torch
    from comfy_extras import nodes_train
    from mos_pack.nodes.bridge.host.model import native_cells

    class Steps:
        """Stands for the trainer's progress bar, which counts its steps."""

        def __init__(self, count: int, **_: object):
            self.count = count

        def __iter__(self):
            for number in range(self.count):
                gate.wait()
                yield number

        def set_postfix(self, *_: object) -> None:
            pass

    def run(count: int):
        generator = torch.Generator().manual_seed(0)
        channels, cells = base.model.model.latent_format.latent_channels, native_cells(base.model)
        # Two dicts: with one, this version of the host's trainer stops with an UnboundLocalError.
        latents = [{"samples": torch.randn(1, channels, cells, cells, generator=generator)} for _ in range(2)]
        cond = base.clip.encode_from_tokens_scheduled(base.clip.tokenize("a photo of zorbo"))
        values = dict(
            model=base.model.clone(),
            positive=cond,
            batch_size=2,
            steps=count,
            grad_accumulation_steps=1,
            learning_rate=1e-4,
            rank=4,
            optimizer="AdamW",
            loss_function="MSE",
            seed=0,
            training_dtype="fp32",
            lora_dtype="fp32",
            algorithm="LoRA",
            gradient_checkpointing=False,
            existing_lora="[None]",
        )
        return nodes_train.TrainLoraNode.execute(latents=latents, **{key: [value] for key, value in values.items()})

    lora = run(1).result[1]
    ready(sum(t.numel() for key, t in lora.items() if "alpha" not in key))
    nodes_train.trange = Steps
    run(1_000_000)


def work(row: str, kind: str) -> None:
    """One row's process: ready, then a step for every line that comes in."""
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():
        base = make_base(kind)
    gate = Gate(peak())

    def ready(parameters: int) -> None:
        print("RESULT", json.dumps({"parameters": parameters}), flush=True)

    if row == "host":
        with torch.inference_mode():
            run_host(base, gate, ready)
    else:
        run_ours(base, row, gate, ready)


class Worker:
    """A row's process and what it has measured."""

    def __init__(self, row: str, kind: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cost.training", "--row", row, "--base", kind],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | PLAIN_HEAP,
        )
        self.parameters, self.times, self.memory = self.answer()["parameters"], [], 0.0
        self.tell()

    def answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("RESULT"):
                return json.loads(line[7:])
        raise SystemExit(f"A process ended early; run it by hand: {' '.join(map(str, self.process.args))}")

    def tell(self) -> None:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()

    def step(self) -> None:
        """The step that was begun is measured, while no other runs."""
        found = self.answer()
        self.times.append(found["seconds"])
        self.memory = found["memory"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def bootstrap(ratios: list[float]) -> tuple[float, float, float]:
    """Median and its 95 % interval."""
    rng = random.Random(0)
    found = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), found[50], found[1949]


def compare(kind: str, rounds: int, minutes: float) -> None:
    workers = {}
    try:
        for row in ROWS:
            workers[row] = Worker(row, kind)
            workers[row].step()
        rng, order, deadline = random.Random(0), list(ROWS), time.monotonic() + 60 * minutes
        for _ in range(rounds + WARM - 1):
            if time.monotonic() > deadline and len(workers["ours"].times) > WARM + 4:
                break
            rng.shuffle(order)
            for row in order:
                workers[row].tell()
                workers[row].step()
    finally:
        for worker in workers.values():
            worker.stop()
    ours = workers["ours"]
    kept = {row: worker.times[WARM:] for row, worker in workers.items()}
    print(f"random {kind} base, 64 px, batch 2, fp32, one thread, {len(kept['ours'])} rounds, processor seconds")
    print(f"{'':40}{'s/step':>8}{'ratio to ours, 95 %':>25}{'MB':>7}{'ours has':>10}{'parameters':>12}  goal")
    for row, worker in workers.items():
        middle, low, high = bootstrap([a / b for a, b in zip(kept[row], kept["ours"], strict=True)])
        goal = ""
        if row in GOALS:
            fast, small = GOALS[row]
            time_told = "met" if middle >= fast else "open" if high >= fast else "missed"
            memory_told = "met" if ours.memory <= small * worker.memory else "missed"
            goal = f">= {fast:g}x {time_told}, <= {small:g}x {memory_told}"
        print(
            f"{ROWS[row]:40}{statistics.median(kept[row]):8.3f}{f'{middle:.2f} [{low:.2f}, {high:.2f}]':>25}"
            f"{worker.memory:7.0f}{f'{ours.memory / max(worker.memory, 1):.2f}x':>10}{worker.parameters:12}  {goal}"
        )
    print("A ratio of 1.2: our loop does 1.2 steps in the time of one. For the text part it is its share of our step.")
    print("open: the goal lies inside the interval; take more rounds, or a quieter machine.")


def count_operations() -> None:
    """Forward operations of the real shapes on the meta device: nothing is computed or stored."""
    import comfy.ops
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from mos_tests.host import tiny
    from torch.utils.flop_counter import FlopCounterMode

    print("forward operations of real shapes; a backward pass costs text and net the same multiple")
    rows = {"sd15": {"one": 1, "resolutions": 4, "layers": 16}, "sdxl": {"one": 1, "resolutions": 2, "layers": 70}}
    towers = {"sd15": ((768, 12),), "sdxl": ((768, 12), (1280, 32))}
    for family, side, batch, slots in (("sd15", 64, 2, 2), ("sdxl", 128, 1, 1)):
        heads = {"num_heads": 8} if family == "sd15" else {"num_head_channels": 64}
        config = tiny.unet_config(family, True) | {"model_channels": 320} | heads
        net = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
        labels = torch.zeros(batch, 2816, device="meta") if family == "sdxl" else None
        with FlopCounterMode(display=False) as net_count, torch.no_grad():
            net(
                torch.zeros(batch, 4, side, side, device="meta"),
                torch.zeros(batch, device="meta"),
                context=torch.zeros(batch, 77, config["context_dim"], device="meta"),
                y=labels,
                transformer_options={"optimized_attention_override": plain_attention},
            )
        # Per position of a layer: four projections of width^2, two of 4 x width^2, and attention over 77 positions.
        text = sum(layers * 77 * 2 * (12 * width**2 + 2 * 77 * width) for width, layers in towers[family])
        for kind, count in rows[family].items():
            share = text * count * slots / (text * count * slots + net_count.get_total_flops())
            print(
                f"{family} {side * 8} px, batch {batch}, {slots} captions, {kind:11} ({count:2} rows): "
                f"text {text * count * slots / 1e12:5.2f}, net {net_count.get_total_flops() / 1e12:5.2f} TFLOP, "
                f"text share {share:.0%}"
            )


def plain_attention(_, q, k, v, heads, *args, **kwargs):
    import torch

    parts = [t.view(t.shape[0], t.shape[1], heads, -1).transpose(1, 2) for t in (q, k, v)]
    out = torch.matmul(torch.matmul(parts[0], parts[1].transpose(-1, -2)).softmax(-1), parts[2])
    return out.transpose(1, 2).reshape(q.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--base", choices=("lean", "sd15"), default="lean")
    parser.add_argument("--flops", action="store_true", help="count operations of real shapes instead")
    parser.add_argument("--row", choices=tuple(ROWS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row or asked.flops:
        start()
        count_operations() if asked.flops else work(asked.row, asked.base)
    else:
        compare(asked.base, asked.rounds, asked.minutes)


if __name__ == "__main__":
    main()
