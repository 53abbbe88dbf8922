"""What a training step costs: our loop, a bare PyTorch loop on the same trainable tensors, and the host's own trainer.

    python benchmarks/training.py [--steps 20] [--base lean|sd15]

Each row runs in a fresh process on the same random base (`lean`: the topology of the small base; `sd15`: the layer
structure of SD1.5, narrow) at 64 px, fp32, batch 2, AdamW, no checkpointing. Columns: seconds of processor time per
step (all threads, so that other work on the machine hardly matters), peak memory above the loaded base, trained
parameters. The host's trainer adapts all linears, convolutions, norms and biases of the UNet and neither words nor text
encoder, so its row is another problem: read both columns.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = {
    "ours": "our loop, ED-LoRA",
    "text": "of that: captions, forward and backward",
    "bare": "bare PyTorch loop, same tensors",
    "host": "host's TrainLoraNode, rank 4",
}


def start() -> None:
    """Make the pack importable as the tests do, with the host in this process."""
    spec = importlib.util.spec_from_file_location("mos_conftest", ROOT / "tests" / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    from mos_tests.host.runtime import find_host, start_host_in_process

    host = find_host()
    if host is None:
        sys.exit("No ComfyUI found: run `python dev.py test` once, or set COMFYUI_PATH.")
    start_host_in_process(host)


def peak() -> float:
    """Peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_base(kind: str):
    from mos_tests.host import tiny
    from mos_tests.host.test_train import lean_base

    base = lean_base() if kind == "lean" else tiny.tiny_base("sd15")
    base.model.model.native_size = 64
    return base


def timed(step, steps: int) -> float:
    step(0)
    times = []
    for number in range(1, steps + 1):
        begin = time.process_time()
        step(number)
        times.append(time.process_time() - begin)
    return statistics.median(times)


def measure_ours(base, row: str, steps: int) -> tuple[float, int]:
    import torch
    from mos_pack.mixofshow_core.training import loop
    from mos_pack.mixofshow_core.training.optimizers import make_optimizer
    from mos_pack.nodes.bridge import model as bridge_model
    from mos_pack.nodes.bridge import training, training_run
    from mos_tests.host.test_train import ask

    request = ask(base, steps=steps + 1, slots=1)
    settings = request.settings
    with torch.inference_mode():
        samples = training_run.encode_pictures(request)
    with training.host_for_training(base.model, base.clip, settings, request.index) as host:
        samples = [training_run.ordinary(s) for s in samples]
        trainables = training_run.make_trainables(request)
        host.learn_words(trainables, request.plans)
        optimizer = make_optimizer(trainables, settings)
        count = sum(p.numel() for p in trainables.parameters())
        modules = bridge_model.named_linears(base.model, host.clip)
        captions = ["a photo of zorbo, look 0"]
        latents = samples[0].latents[[0, 0]]
        which = torch.tensor([0, 0])

        def bare(number: int) -> None:
            timesteps = torch.randint(0, 1000, (2,))
            noise = torch.randn_like(latents)
            text = host.encode(captions, trainables.vectors())
            output = host.predict(host.schedule.noisy(latents, noise, timesteps), timesteps, text, which)
            loss = torch.nn.functional.mse_loss(output, host.schedule.target(latents, noise, timesteps))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def text_only(number: int) -> None:
            host.encode(captions, trainables.vectors()).layers.sum().backward()

        with trainables.attached(modules):
            if row != "ours":
                return timed(bare if row == "bare" else text_only, steps), count
            stamps = [time.process_time()]
            loop.train(host, samples, trainables, optimizer, settings, 0, training_run.RunState(),
                       lambda report: stamps.append(time.process_time()))
        return statistics.median(b - a for a, b in zip(stamps[1:], stamps[2:], strict=False)), count


def measure_host(base, steps: int) -> tuple[float, int]:
    import torch
    from comfy_extras.nodes_train import TrainLoraNode

    def run(count: int):
        generator = torch.Generator().manual_seed(0)
        channels = base.model.model.latent_format.latent_channels
        # Two dicts: with one, this version of the host's trainer stops with an UnboundLocalError.
        latents = [{"samples": torch.randn(1, channels, 8, 8, generator=generator)} for _ in range(2)]
        cond = base.clip.encode_from_tokens_scheduled(base.clip.tokenize("a photo of zorbo"))
        values = dict(model=base.model.clone(), positive=cond, batch_size=2, steps=count,
                      grad_accumulation_steps=1, learning_rate=1e-4, rank=4, optimizer="AdamW", loss_function="MSE",
                      seed=0, training_dtype="fp32", lora_dtype="fp32", algorithm="LoRA", gradient_checkpointing=False,
                      existing_lora="[None]")  # fmt: skip
        begin = time.process_time()
        result = TrainLoraNode.execute(latents=latents, **{key: [value] for key, value in values.items()})
        return time.process_time() - begin, result.result[1]

    short, _ = run(1)
    long, lora = run(1 + steps)
    trained = sum(t.numel() for key, t in lora.items() if "alpha" not in key)
    return (long - short) / steps, trained


def measure(row: str, kind: str, steps: int) -> dict:
    import torch

    with torch.inference_mode():
        base = make_base(kind)
    before = peak()
    if row == "host":
        with torch.inference_mode():
            seconds, count = measure_host(base, steps)
    else:
        seconds, count = measure_ours(base, row, steps)
    return {"seconds": seconds, "memory": peak() - before, "parameters": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--base", choices=("lean", "sd15"), default="lean")
    parser.add_argument("--row", choices=tuple(ROWS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        start()
        print("RESULT", json.dumps(measure(asked.row, asked.base, asked.steps)))
        return
    found = {}
    for row in ROWS:
        command = [sys.executable, __file__, "--row", row, "--base", asked.base, "--steps", str(asked.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        found[row] = json.loads(lines[0][7:]) if lines else None
        if not lines:
            print(f"{ROWS[row]}: failed\n{done.stderr[-1500:]}")
    print(f"random {asked.base} base, 64 px, batch 2, fp32, {asked.steps} steps, CPU seconds")
    print(f"{'':44}{'s/step':>8}{'ours is':>9}{'MB':>8}{'parameters':>12}")
    for row, result in found.items():
        if result:
            ratio = f"{result['seconds'] / found['ours']['seconds']:.2f}x" if found["ours"] else "?"
            print(f"{ROWS[row]:44}{result['seconds']:8.3f}{ratio:>9}{result['memory']:8.0f}{result['parameters']:12}")
    print("'ours is': how many times faster our loop is; for the text row, its share of our step.")


if __name__ == "__main__":
    main()
