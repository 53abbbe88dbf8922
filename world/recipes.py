"""Every step that makes the small world, in order: `python dev.py world [--list] [--step NAME ...] [--again]`.

A finished step leaves a marker in .cache/world/done and is not run again unless it is named or --again is given; a step
that was cut off is run again, and the trainings go on from their snapshots. --smoke proves the whole chain in minutes:
every step from nothing, with tiny counts and seconds of training, in a copy of the tree that is thrown away.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DONE = ROOT / ".cache" / "world" / "done"
SMOKE = {"--minutes": "0.2", "--hours": "0.006", "--count": "1"}  # what becomes of a step's own numbers


@dataclass(frozen=True)
class Step:
    """One module to run, and what it costs on two idle CPU cores."""

    name: str
    about: str
    time: str
    words: tuple[str, ...]


STEPS = (
    Step("sprites", "packages from npm, people rendered", "1 min", ("world.drawing.sprites",)),
    Step("canvases", "training canvases and captions", "3 min", ("world.drawing.build",)),
    Step("autoencoder", "autoencoder that keeps faces", "1 h", ("world.training.autoencoder", "--hours", "1")),
    Step("latents", "cached latents", "3 min", ("world.training.latents",)),
    Step("base-a", "base A (SD1.5's kind)", "3.3 h", ("world.training.base", "--hours", "3.3")),
    Step("export-a", "base A's weights into assets/demo", "5 s", ("world.training.export",)),
    Step("adapter", "sketch adapter for both bases", "12 min", ("world.training.adapter", "--minutes", "12")),
    Step("base-b", "base B (SDXL's kind), from base A", "30 min", ("world.training.base_b", "--hours", "0.5")),
    Step("export-b", "base B's weights into assets/demo", "5 s", ("world.training.export", "--base", "b")),
    Step(
        "base-c",
        "base C (Cosmos' kind), taught by base A",
        "1.1 h",
        ("world.training.base_c", "--hours", "1.1", "--batch", "48", "--bfloat16", "--compile", "--sheets", "1e9"),
    ),
    Step("export-c", "base C's weights into assets/demo", "5 s", ("world.training.export", "--base", "c")),
    Step("pictures", "the demo's training pictures, ten look-alikes", "5 s", ("world.drawing.pictures",)),
    Step("concepts", "26 concepts and the other look-alikes", "20 s", ("world.drawing.concepts",)),
    Step("probes", "probes on real composites, ceilings", "9 min", ("world.judges.probes",)),
    Step("bridge", "EffNet-MiniLM bridge score, ceiling", "20 s", ("world.judges.bridge_score",)),
    Step("ceilings", "what all evaluators tell of real pictures", "2 min", ("world.judges.ceilings",)),
    Step(
        "scores-a",
        "what base A paints, into docs/evidence",
        "3 min",
        ("world.judges.scores", "--base", "A", "--count", "3"),
    ),
    Step(
        "scores-b",
        "what base B paints, into docs/evidence",
        "5 min",
        ("world.judges.scores", "--base", "B", "--count", "3"),
    ),
    Step(
        "scores-c",
        "what base C paints, into docs/evidence",
        "3 min",
        ("world.judges.scores", "--base", "C", "--count", "3"),
    ),
)


def is_done(step: Step) -> bool:
    return (DONE / step.name).exists()


def choose_steps(names: list[str], again: bool) -> list[Step]:
    """The steps to run: the named ones, or all that are not done."""
    return [step for step in STEPS if (step.name in names if names else again or not is_done(step))]


def words_of(step: Step) -> list[str]:
    """The step's command line; its numbers are tiny in a smoke run."""
    smoke = os.environ.get("MIXOFSHOW_WORLD_SMOKE")
    before = ("", *step.words)
    return [SMOKE.get(option, word) if smoke else word for option, word in zip(before, step.words, strict=False)]


def run_step(step: Step) -> bool:
    print(f"[world] {step.name}: {step.about} ({step.time} on two idle cores)", flush=True)
    start = time.monotonic()
    if subprocess.run([sys.executable, "-m", *words_of(step)], cwd=ROOT, check=False).returncode:
        print(f"[world] {step.name} failed; `python dev.py world` goes on from here", flush=True)
        return False
    DONE.mkdir(parents=True, exist_ok=True)
    (DONE / step.name).write_text(f"{time.monotonic() - start:.0f} s\n")
    return True


def run_smoke() -> int:
    """All steps in a copy of the tree: neither the cache nor a shipped file of this one is read or written."""
    from .host import find_host

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "pack"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "node_modules"))
        for weights in (copy / "assets" / "demo").glob("small_*.safetensors"):
            weights.unlink()
        environment = os.environ | {"MIXOFSHOW_WORLD_SMOKE": "1", "COMFYUI_PATH": str(find_host())}
        start = time.monotonic()
        command = [sys.executable, "-m", "world.recipes"]
        code = subprocess.run(command, cwd=copy, env=environment, check=False).returncode
        print(f"[world] smoke run {'failed' if code else 'passed'}: {time.monotonic() - start:.0f} s", flush=True)
        return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py world", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="only list the steps")
    parser.add_argument("--step", action="append", default=[], choices=[step.name for step in STEPS])
    parser.add_argument("--again", action="store_true", help="also what is done")
    parser.add_argument("--smoke", action="store_true", help="prove the chain with tiny counts, in a copy of the tree")
    options = parser.parse_args()
    if options.smoke:
        return run_smoke()
    chosen = choose_steps(options.step, options.again)
    for step in STEPS:
        state = "done" if is_done(step) else "-"
        print(f"  {step.name:12} {step.time:>6}  {state:4}  {step.about:48} python -m {' '.join(words_of(step))}")
    if options.list:
        return 0
    return 0 if all(map(run_step, chosen)) else 1


if __name__ == "__main__":
    sys.exit(main())
