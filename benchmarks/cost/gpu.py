"""One run for whoever has a GPU: is it right, how fast, in how much memory; one JSON and one page to send.

    python dev.py gpu [--small] [--cpu] [--minutes 10] [--out FOLDER]

Random weights of the real structure and width, so nothing is fetched. Every part is a process of its own, which may
fail without the others: pictures and fusion of tiny nets on the CPU and on the GPU, in fp32, with the host's ways to
keep weights elsewhere (--lowvram, --novram, dynamic loading off where the host has it); launches and milliseconds per
step at SD1.5 512 and SDXL 1024 in fp16; training steps against the host's trainer; a whole fusion of 14 and of 10
concepts, and its solver alone, in float64 and in refined float32. Parts that the time did not reach are named.
`--small --cpu` is the dry run of the tests and says nothing of a GPU. **No GPU has run this yet.**
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .start import ROOT, start

VARIANTS = {
    "regions 2": (2, {}),
    "regions 8": (8, {}),
    "layered regions 2": (2, {"layered": True}),
    "routed 2": (2, {"routed": True, "feed_forward": True}),
    "routed 4": (4, {"routed": True, "feed_forward": True}),
}
STATES = {"normal": (), "lowvram": ("--lowvram",), "novram": ("--novram",)}
DYNAMIC_OFF = "--disable-dynamic-vram"


@dataclass(frozen=True)
class Size:
    """``latent`` of each family and ``concepts`` to fuse; the rest holds for both."""

    channels: int
    latent: dict[str, int]
    concepts: dict[str, int]
    rounds: int
    steps: int
    training_steps: int
    half: bool
    native_size: dict[str, int]


FULL = Size(320, {"sd15": 64, "sdxl": 128}, {"sd15": 14, "sdxl": 10}, 3, 8, 12, True, {"sd15": 512, "sdxl": 1024})
SMALL = Size(32, {"sd15": 8, "sdxl": 8}, {"sd15": 2, "sdxl": 2}, 1, 3, 2, False, {"sd15": 64, "sdxl": 64})


def pictures(family: str, size: Size) -> dict:
    """What a tiny net paints in every way, and what a tiny fusion gives, as lists of numbers to be compared."""
    from .regional import Scene

    scene = Scene(family, SMALL.channels, 16)
    scene.negative = scene.text()
    variants = {"plain": scene.plain()} | {n: scene.regions(c, **facts) for n, (c, facts) in VARIANTS.items()}
    found = {name: scene.sample(*variant, 3).flatten().tolist() for name, variant in variants.items()}
    concept, _ = fuse(family, SMALL)
    flat = [delta.dense().flatten()[:64] for _, delta in sorted(concept.deltas.items())]
    return {**found, "fused": [float(value) for part in flat for value in part]}


def steps(family: str, size: Size) -> dict:
    """Milliseconds and launches per step for every variant; each beside an unpatched one."""
    import torch

    from .launches import launches
    from .regional import Scene

    scene = Scene(family, size.channels, size.latent[family], torch.float16 if size.half else torch.float32)
    scene.negative = scene.text()
    plain = scene.plain()
    sizes = {"plain": (1, {})} | VARIANTS
    found = {}
    for name, (count, facts) in sizes.items():
        variant = plain if name == "plain" else scene.regions(count, **facts)
        reset_peak()
        times = [(scene.step(*variant, size.steps, wall)[0], scene.step(*plain, size.steps, wall)[0])]
        memory = peak_gigabytes()
        times += [
            tuple(scene.step(*one, size.steps, wall)[0] for one in (variant, plain)) for _ in range(size.rounds - 1)
        ]
        found[name] = {
            "milliseconds": 1000 * statistics.median(own for own, _ in times),
            "against plain": statistics.median(own / other for own, other in times),
            "launches": launches(scene, variant)[0].total(),
            "gigabytes": memory,
        }
    return found


def training(family: str, size: Size) -> dict:
    """Seconds per step and memory of our loop and of the host's trainer, on the same random base."""
    from .training import Gate, run_host, run_ours

    class Enough(Exception):
        pass

    class Counted(Gate):
        times: list[float]

        def wait(self) -> None:
            self.times.append(wall())
            if len(self.times) > size.training_steps:
                raise Enough

    found = {}
    for row, run in (("ours", lambda *given: run_ours(given[0], "ours", *given[1:])), ("host", run_host)):
        base, gate = make_base(family, size), Counted(0.0)
        gate.times = []
        reset_peak()
        try:
            run(base, gate, lambda parameters: None)
        except Enough:
            spans = [later - earlier for earlier, later in zip(gate.times, gate.times[1:], strict=False)]
            found[row] = {"seconds per step": statistics.median(spans[1:] or spans), "gigabytes": peak_gigabytes()}
    return found


def fusion(family: str, size: Size) -> dict:
    """A whole fusion from random concepts, calibration included."""
    reset_peak()
    begun = wall()
    _, seconds = fuse(family, size)
    return {
        "concepts": size.concepts[family],
        "seconds": wall() - begun,
        "of these": seconds,
        "gigabytes": peak_gigabytes(),
    }


def solver(family: str, size: Size) -> dict:
    """One group of layers of every width, solved here in every way."""
    from .solver import compare_arithmetic

    reset_peak()
    groups = compare_arithmetic(family, size.concepts[family], size is not FULL)
    return {"concepts": size.concepts[family], "groups": groups, "gigabytes": peak_gigabytes()}


PARTS: dict[str, Callable[[str, Size], dict]] = {
    "pictures": pictures,
    "steps": steps,
    "training": training,
    "fusion": fusion,
    "solver": solver,
}


def fuse(family: str, size: Size):
    """(the fused concept, what it says about its seconds)"""
    import torch
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.mixofshow_core.fusion.plan import preset
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
    from mos_tests.host.builders import make_concept, tiny_plan

    base = make_base(family, size)
    plan = preset("standard") if size is FULL else tiny_plan()
    uses = [ConceptUse(make_concept(base, f"random{k}", k), 1.0) for k in range(size.concepts[family])]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        fused = fuse_uses(base.model, base.clip, uses, "exact", plan, FusionSettings(), Path(folder))
    return fused.concept, fused.summary.get("seconds", {})


def make_base(family: str, size: Size):
    """MODEL, CLIP and VAE with random weights, where the host wants them."""
    import comfy.model_management
    import torch
    from mos_tests.host import tiny

    from .regional import build_model

    wide = size is FULL
    if wide:
        dtype = torch.float16 if size.half else torch.float32
        base = tiny.TinyBase(
            build_model(family, size.channels, dtype), tiny.tiny_clip(family, 3, True), tiny.tiny_vae()
        )
    else:
        base = tiny.tiny_base(family)
        base.model.load_device = comfy.model_management.get_torch_device()
    base.model.model.native_size = size.native_size[family]
    return base


def wall() -> float:
    """Seconds, when all that was sent to the GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes() -> float:
    """The highest sum of tensors on the GPU since `reset_peak`; without one, the process's peak."""
    import torch

    from .training import peak

    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else peak() / 1e3


def describe() -> dict:
    """What this ran on; no names of people, machines or folders."""
    import comfy.model_management
    import torch
    from comfyui_version import __version__ as host

    device = comfy.model_management.get_torch_device()
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "memory_gb": round(comfy.model_management.get_total_memory(device) / 1e9, 1),
        "torch": torch.__version__,
        "host": host,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def plan_runs(cpu: bool, small: bool, can_be_dynamic: bool) -> list[tuple[str, str, str]]:
    """(part, family, state) from the most to the least telling; "cpu" is what the others are compared with."""
    states = ["cpu", *(() if cpu else ("normal", "lowvram", "novram", *(("dynamic off",) if can_be_dynamic else ())))]
    runs = [("pictures", family, state) for family in ("sd15", "sdxl") for state in states]
    where = "cpu" if cpu else "normal"
    runs += [(part, family, where) for part in ("steps", "fusion", "solver", "training") for family in ("sd15", "sdxl")]
    if can_be_dynamic and not cpu:
        runs += [("steps", family, "dynamic off") for family in ("sd15", "sdxl")]
    return [run for run in runs if not (run[0] == "training" and run[1] == "sdxl" and small)]


def run_part(part: str, family: str, state: str, small: bool, seconds: float) -> dict:
    """One part in a process of its own; an error is an answer too."""
    words = [sys.executable, "-m", "benchmarks.cost.gpu", "--part", part, "--family", family, "--state", state]
    try:
        done = subprocess.run(
            [*words, *(("--small",) if small else ())],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {seconds:.0f} s"}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    return {"error": " / ".join(done.stderr.strip().splitlines()[-2:])[-300:] or f"ended with {done.returncode}"}


def compare(found: dict, wanted: dict) -> dict[str, float]:
    """By name: the largest difference as a share of the largest value."""
    return {
        name: max(abs(a - b) for a, b in zip(found[name], values, strict=True)) / max(map(abs, values))
        for name, values in wanted.items()
    }


def collect(runs, ask: Callable[..., dict], minutes: float) -> dict:
    """All answers by part, family and state, pictures as differences from the CPU's; what the time did not reach."""
    begun, answers, references, late = time.monotonic(), {}, {}, []
    for part, family, state in runs:
        left = 60 * minutes - (time.monotonic() - begun)
        if left < 5:
            late.append(f"{part} {family} {state}")
            continue
        answer = ask(part, family, state, left)
        if part == "pictures" and "error" not in answer:
            own = answer.pop("values")
            if state == "cpu":
                references[family] = own
            elif family in references:
                answer["differences"] = compare(own, references[family])
        answers[f"{part} {family} {state}"] = answer
    return {"answers": answers, "not reached": late, "seconds": round(time.monotonic() - begun)}


def answer(part: str, family: str, size: Size) -> dict:
    """What one process says."""
    found = PARTS[part](family, size)
    return {"values": found} | {"on": describe()} if part == "pictures" else {"found": found, "on": describe()}


def main() -> int:
    from .gpu_page import write_page

    parser = argparse.ArgumentParser(
        prog="gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="tiny nets throughout: whether the script itself works")
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "gpu")
    for name, choices in {"part": PARTS, "family": ("sd15", "sdxl"), "state": ("cpu", "dynamic off", *STATES)}.items():
        parser.add_argument(f"--{name}", choices=list(choices), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        start({"cpu": ("--cpu",), "dynamic off": (DYNAMIC_OFF,)}.get(asked.state) or STATES[asked.state])
        print("RESULT " + json.dumps(answer(asked.part, asked.family, SMALL if asked.small else FULL)), flush=True)
        return 0
    from .start import host_options

    runs = plan_runs(asked.cpu, asked.small, DYNAMIC_OFF in host_options())

    def ask(part: str, family: str, state: str, left: float) -> dict:
        print(f"{part}, {family}, {state} ...", flush=True)
        return run_part(part, family, state, asked.small, left)

    write_page(collect(runs, ask, asked.minutes), asked.small, asked.cpu, asked.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
