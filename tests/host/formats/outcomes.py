"""What becomes of LoRA files that other programs write: their key lists, rebuilt with random values and read.

    python tests/host/formats/outcomes.py          # writes the table into docs/formats.md

`tests/golden/lora_key_lists.json.gz` holds names, dtypes and shapes of files that were published, or written by kohya's
scripts, LyCORIS, diffusers and PEFT, or listed by InvokeAI's tests (Apache-2.0); no weights.
"""

import gzip
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[3]
LISTS = ROOT / "tests" / "golden" / "lora_key_lists.json.gz"
PAGE = ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- outcomes: python tests/host/formats/outcomes.py -->", "<!-- end of outcomes -->"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
DTYPES |= {f"torch.{str(kind).partition('.')[2]}": kind for kind in DTYPES.values()}
LARGE = 20_000_000  # values; what is larger is of other models and refused by its names alone, so it is made small
PART = re.compile(
    r"(\.lora_(?:up|down|mid|A|B)\.weight|_lora\.(?:up|down)\.weight|\.lora(?:_linear_layer)?\.(?:up|down)\.weight"
    r"|\.(?:alpha|dora_scale|rescale|diff|diff_b|ia3_l|oft_blocks|oft_R\.weight|[ab][12]\.weight)"
    r"|\.(?:hada|lokr)_\w+|\.\w+_lora[12]\.(?:up|down)\.weight|:(?:up|down)|\.weight|\.bias)$"
)


@dataclass(frozen=True)
class Outcome:
    """One row: layers in the file, layers of ours (or words), unused keys with their share of the norm, and why not."""

    label: str
    layers: int
    used: int
    unused: int
    share: float
    remark: str

    def row(self) -> str:
        share = f"{self.unused} ({self.share:.0%})" if self.unused else "0"
        return f"| {self.label} | {self.layers} | {self.used} | {share} | {self.remark} |"


def lists() -> dict[str, dict[str, tuple[str, list[int]]]]:
    """{label: {key: (dtype, shape)}}"""
    with gzip.open(LISTS) as file:
        return {label: entry["keys"] for label, entry in json.load(file).items()}


def layer_of(key: str) -> str:
    return PART.sub("", key)


def every(keys: Mapping[str, tuple], step: int) -> dict[str, tuple]:
    """The keys of every `step`-th layer."""
    chosen = set(sorted({layer_of(key) for key in keys})[::step])
    return {key: value for key, value in keys.items() if layer_of(key) in chosen}


def rebuild(keys: Mapping[str, tuple[str, list[int]]], path: Path) -> None:
    """A file with these keys and small random values; alphas are 1."""
    generator = torch.Generator().manual_seed(0)
    total = sum(torch.Size(shape).numel() for _, shape in keys.values())
    tensors = {}
    for key, (dtype, shape) in keys.items():
        shape = shape if total < LARGE else [min(side, 16) for side in shape]
        value = torch.randn(shape, generator=generator) * 0.02 if shape else torch.tensor(1.0)
        tensors[key] = (value + (1.0 if "dora_scale" in key else 0.0)).to(DTYPES[dtype])
    if path.suffix in (".safetensors",):
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


class RandomBase(Mapping):
    """Random weights of SD1.5's shapes by layer name, made on access."""

    def __init__(self) -> None:
        from mos_pack.nodes.bridge.formats.layer_names import family_key_map
        from mos_pack.nodes.bridge.host.model import layer_name_of

        self.shapes = {layer_name_of(key): shape for key, shape in family_key_map("sd15").shapes.items()}

    def __getitem__(self, layer: str) -> torch.Tensor:
        return torch.randn(self.shapes[layer], generator=torch.Generator().manual_seed(1)) * 0.02

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def read_label(label: str, keys: Mapping[str, tuple], folder: Path, base: Mapping | None) -> Outcome:
    """Read one rebuilt file; where that asks for the base, with a base of SD1.5's shapes."""
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    path = folder / (label.replace(" ", "-"))
    rebuild(keys, path)
    layers, remark = len({layer_of(key) for key in keys}), ""
    try:
        try:
            found = read_with_host(path)
        except MixOfShowError as error:
            if "depends on the base's weight" not in str(error):
                raise
            remark, found = "needs the base", read_with_host(path, base=base)
    except MixOfShowError as error:
        return Outcome(label, layers, 0, len(keys), 1.0, f"refused: {shorten(str(error), label)}")
    finally:
        path.unlink()
    words = sum(len(entry.words) for entry in found.concept.entries)
    how = "in part" if found.skipped else "all used"
    remarks = [f"{words} words" if words else how, remark, *(note.partition(",")[0] for note in found.notes)]
    used = len(found.concept.deltas) or words
    return Outcome(label, layers, used, len(found.skipped), found.skipped_share, "; ".join(filter(None, remarks)))


def shorten(message: str, label: str) -> str:
    """The reason without the file's name, up to its first keys."""
    text = message.replace(f"{label}: ", "").replace(f"{label} ", "")
    text = re.sub(r"'([^']{24})[^']{12,}'", r"'\1...'", text)
    return text if len(text) <= 150 else text[:147].rstrip() + "..."


def write_table() -> None:
    base, rows = RandomBase(), []
    with tempfile.TemporaryDirectory() as folder:
        for label, keys in lists().items():
            rows.append(read_label(label, keys, Path(folder), base).row())
            sys.stdout.write(rows[-1] + "\n")
    head = ["| file | layers in it | layers, or words, used | keys not used (share of the norm) | |", "|" + 5 * "---|"]
    text = PAGE.read_text(encoding="utf-8")
    start, stop = text.index(BEGIN), text.index(END)
    PAGE.write_text("\n".join([text[:start] + BEGIN, *head, *rows, text[stop:]]), encoding="utf-8")


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("conftest", ROOT / "tests" / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    from mos_tests.host.runtime import find_host, start_host_in_process

    start_host_in_process(find_host())
    write_table()
