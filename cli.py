"""Mix-of-Show without ComfyUI: look into files and convert them.

    python cli.py inspect FILE [--plot PICTURE.png] [--base CHECKPOINT]
    python cli.py convert FILE --to FORMAT --out PATH_WITHOUT_SUFFIX [--size 16] [--strength 0.8] [--base CHECKPOINT]

Foreign LoRAs (kohya, PEFT, LyCORIS) are read by ComfyUI's own parser, so those need the nodes. Exit code 2: refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mixofshow_core.errors import MixOfShowError
from mixofshow_core.formats import read_any
from mixofshow_core.formats.card import describe, plot_norms
from mixofshow_core.formats.checkpoint import CheckpointWeights
from mixofshow_core.formats.export import FORMATS, export


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 when the input was refused (the reason goes to stderr)."""
    options = build_parser().parse_args(arguments)
    try:
        sys.stdout.write(options.run(options) + "\n")
    except MixOfShowError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cli.py", description="Look into concept files and convert them.")
    commands = parser.add_subparsers(required=True)
    inspect = commands.add_parser("inspect", help="show what a file holds")
    inspect.add_argument("--plot", type=Path, help="save the norm of every layer's change as a picture")
    inspect.set_defaults(run=run_inspect)
    convert = commands.add_parser("convert", help="write a file in another dialect")
    convert.add_argument("--to", required=True, choices=list(FORMATS), help="the dialect to write")
    convert.add_argument("--out", required=True, type=Path, help="path without suffix")
    convert.add_argument("--size", default="auto", help="auto, exact, or the largest rank")
    convert.add_argument("--strength", type=float, default=1.0, help="folded into the weights")
    convert.set_defaults(run=run_convert)
    for command in (inspect, convert):
        command.add_argument("file", type=Path)
        command.add_argument("--base", type=Path, help="checkpoint or diffusers folder, for files with whole weights")
        command.add_argument("--name", default="", help="another plain name for a single concept")
    return parser


def _read(options: argparse.Namespace):
    base = CheckpointWeights(options.base) if options.base else None
    return read_any(options.file, base, options.name), base


def run_inspect(options: argparse.Namespace) -> str:
    result, _ = _read(options)
    if options.plot and result.concept:
        plot_norms(result.concept, options.file.name).save(options.plot)
    return describe(result, options.file.name)


def run_convert(options: argparse.Namespace) -> str:
    result, base = _read(options)
    if result.kind == "lora":
        raise MixOfShowError(f"{options.file.name} is a foreign LoRA; use Load Concept and Export in ComfyUI.")
    taken = [path.name for path in options.out.parent.glob(f"{options.out.name}.*")]
    if taken or options.out.exists():
        raise MixOfShowError(f"{options.out} exists already ({', '.join(taken) or 'a folder'}); choose another --out.")
    done = export(result.concept, options.to, options.out, options.size, options.strength, base)
    return f"{result.summary()}\n{done.report()}"


if __name__ == "__main__":
    sys.exit(main())
