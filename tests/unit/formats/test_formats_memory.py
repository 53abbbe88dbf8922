"""Reading a file of real widths takes at most twice its size in memory, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mos_pack.mixofshow_core.formats import edlora, native, read_any
from mos_tests.unit.formats import reference_files as files
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[3]
SLACK = 24 * 2**20  # bytes: Python objects, torch's first use of its kernels
PROBE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from mixofshow_core.formats import read_any

class Base(dict):  # a base whose weights are made when they are asked for, as from a checkpoint
    def __contains__(self, key): return True
    def __iter__(self): return iter(())
    def __getitem__(self, key): return torch.zeros(shapes[key])

def anonymous(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

shapes = torch.load(sys.argv[3], weights_only=True)
(torch.randn(300, 300) @ torch.randn(300, 300)).half().float().isfinite().all()
before = anonymous("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
result = read_any(Path(sys.argv[2]), Base())
print((anonymous("VmHWM") - before) * 1024)
"""


def concept_file(path):
    torch.save(files.edlora(base=320, context=768, text_layers=12, rank=48), path / "reference.pth")
    native.write_concept(path / "concept.safetensors", read_any(path / "reference.pth").concept)
    return path / "concept.safetensors"


def edlora_pth(path):
    torch.save(files.edlora(base=320, context=768, text_layers=12, rank=48), path / "reference.pth")
    return path / "reference.pth"


def edlora_safetensors(path):
    tree = edlora.flatten(files.edlora(base=320, context=768, text_layers=12, rank=48, wrap=False))
    save_file({k: v.half() for k, v in tree.items()}, path / "reference.safetensors")
    return path / "reference.safetensors"


def custom_diffusion(path, half=False):
    tree = files.custom_diffusion(base=320, context=768)
    if half:
        tree["unet"] = {key: value.half() for key, value in tree["unet"].items()}
    torch.save(tree, path / "delta.bin")
    return path / "delta.bin"


def custom_diffusion_half(path):
    return custom_diffusion(path, half=True)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak counter")
@pytest.mark.parametrize(
    "make", [concept_file, edlora_pth, edlora_safetensors, custom_diffusion, custom_diffusion_half]
)
def test_reading_takes_at_most_twice_the_file(make, tmp_path):
    path = make(tmp_path)
    linears = files.attention_linears(320, 768)
    torch.save({f"diffusion_model.{files.ldm_path(p)}": torch.Size(s) for p, s in linears.items()}, tmp_path / "shapes")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(ROOT), str(path), str(tmp_path / "shapes")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    size, peak = path.stat().st_size, int(done.stdout)
    assert size > 10 * 2**20
    assert peak <= 2 * size + SLACK, f"{peak / size:.2f} times the file"
