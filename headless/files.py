"""Look into files anywhere on the disk and convert them; ComfyUI is asked only for what its own parser has to read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..mixofshow_core.concept import Concept, ConceptUse
from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.fitting import check_base
from ..mixofshow_core.formats import ReadResult, read_any
from ..mixofshow_core.formats.card import describe, describe_concept, plot_norms
from ..mixofshow_core.formats.checkpoint import CheckpointWeights
from ..mixofshow_core.formats.export import WHOLE_FORMATS, export
from .host import find_comfyui, pack_module, start_host

Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """Which file, and what helps to read it. base: checkpoint or diffusers folder, for files with whole weights."""

    file: Path
    base: Path | None = None
    name: str = ""
    comfyui: Path | None = None


def inspect(asked: Asked, step: Step, plot: Path | None = None) -> str:
    result, concept, _, warning = _read(asked, step)
    card = describe(result, asked.file.name)
    if concept is None:
        return f"{card}\nits layers are not shown: no ComfyUI found (--comfyui FOLDER)"
    if plot:
        plot_norms(concept, asked.file.name).save(plot)
    return "\n".join(filter(None, (card, describe_concept(concept) if result.kind == "lora" else "", warning)))


def convert(asked: Asked, step: Step, to: str, out: Path, size: str = "auto", strength: float = 1.0) -> str:
    if to in WHOLE_FORMATS and (asked.base is None or not asked.base.is_file()):
        raise MixOfShowError(f"--to {to} writes a whole model: give a single-file checkpoint as --base.")
    result, concept, base, warning = _read(asked, step)
    if concept is None:
        raise MixOfShowError(
            f"{asked.file.name} is a foreign LoRA, which ComfyUI's own parser reads: give its folder with --comfyui."
        )
    if base is not None:
        check_base(base.info(), [ConceptUse(concept)], knows_prediction=False)
    taken = [path.name for path in out.parent.glob(f"{out.name}.*")]
    if taken or out.exists():
        raise MixOfShowError(f"{out} exists already ({', '.join(taken) or 'a folder'}); choose another --out.")
    if to in WHOLE_FORMATS:
        done = _export_whole(asked, ConceptUse(concept, strength), to, out)
    else:
        done = export(concept, to, out, size, strength, base, step=step)
    return "\n".join(filter(None, (result.summary(), warning, done.report())))


def _read(asked: Asked, step: Step) -> tuple[ReadResult, Concept | None, CheckpointWeights | None, str]:
    """(what the file is, its concept or None where ComfyUI would have to parse it and is not there, the base, what is
    not used of a foreign LoRA)."""
    base = CheckpointWeights(asked.base) if asked.base else None
    result: ReadResult = read_any(asked.file, base, asked.name, step)
    if result.kind != "lora" or find_comfyui(asked.comfyui) is None:
        return result, None if result.kind == "lora" else result.concept, base, ""
    start_host(asked.comfyui)
    found = pack_module("nodes.bridge.formats.foreign").read_with_host(asked.file, asked.name, base, step)
    return result, found.concept, base, found.warning()


def _export_whole(asked: Asked, use: ConceptUse, to: str, out: Path):
    start_host(asked.comfyui)
    exporting = pack_module("nodes.bridge.formats.exporting")
    sd = importlib.import_module("comfy.sd")
    try:
        model, clip, vae, *_ = sd.load_checkpoint_guess_config(str(asked.base), output_vae=True, output_clip=True)
    except (RuntimeError, KeyError, ValueError) as error:
        raise MixOfShowError(f"ComfyUI cannot load {asked.base.name} as a base ({str(error)[:200]}).") from error
    vae = vae if getattr(vae, "first_stage_model", None) is not None else None
    pack_module("nodes.bridge.host.fitting").check_fit(model, clip, (use,))
    return exporting.export_whole(to, out, use, model, clip, vae)
