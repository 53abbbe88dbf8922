"""Control pictures from pictures: lines by ourselves, everything else by the package controlnet_aux when it is there.

controlnet_aux is imported only when one of its kinds is asked for, and never downloads: weights are read from
models/controlnet_aux.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
from PIL import Image
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.regional.lines import draw_lines
from ..host.images import to_image_batch

PACKAGE = "controlnet_aux"
INSTALL = "pip install controlnet-aux"
SOURCE = "https://huggingface.co/lllyasviel/Annotators"
FINEST = 64  # controlnet_aux rounds sides to multiples of this


@dataclass(frozen=True)
class Detector:
    """A class of controlnet_aux and the weight files that it wants; ``needs``: what else has to be installed."""

    name: str
    files: tuple[str, ...] = ()
    needs: str = ""


LINES = "lines"
DETECTORS = {
    "canny": Detector("CannyDetector"),
    "lineart": Detector("LineartDetector", ("sk_model.pth", "sk_model2.pth")),
    "HED": Detector("HEDdetector", ("ControlNetHED.pth",)),
    "openpose": Detector("OpenposeDetector", ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth")),
    "dwpose": Detector("DWposeDetector", needs="mmpose, mmdet and mmcv"),
}
KINDS = (LINES, *DETECTORS)


def control_image(image: Tensor, kind: str, resolution: int = 0) -> Tensor:
    """IMAGE [B, H, W, 3] -> the control picture of ``kind`` in the same proportions.

    ``resolution``: shorter side at which a detector looks and draws, 0 = the picture's own. Lines ignore it.
    """
    if image.dim() != 4 or 0 in image.shape or image.shape[-1] < 3:
        raise MixOfShowError(f"Control Image: image is {tuple(image.shape)}; connect one [batch, height, width, 3].")
    if kind == LINES:
        return draw_lines(image[..., :3].movedim(-1, 1)).movedim(1, -1).repeat(1, 1, 1, 3)
    if kind not in DETECTORS:
        raise MixOfShowError(f"Control Image: unknown kind {kind!r}; known: {', '.join(KINDS)}.")
    detect = _make_detector(kind)
    height, width = image.shape[1:3]
    side = resolution or min(height, width)
    size = round(width * side / min(height, width)), round(height * side / min(height, width))
    side = max(FINEST, side)
    found = []
    for picture in image[..., :3]:
        pixels = (picture.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)
        made = detect(Image.fromarray(pixels), detect_resolution=side, image_resolution=side, output_type="pil")
        found.append(made.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    return to_image_batch(found)


def weights_folder() -> Path:
    return Path(folder_paths.models_dir) / PACKAGE


def _make_detector(kind: str):
    wanted = DETECTORS[kind]
    try:
        made = getattr(importlib.import_module(PACKAGE), wanted.name)
    except Exception as error:  # a broken torchvision or opencv fails in many ways
        raise MixOfShowError(
            f"Control Image: kind {kind!r} needs the package controlnet-aux, which cannot be imported "
            f"({type(error).__name__}: {error}). Install it into ComfyUI's Python ({INSTALL}), or take {LINES!r}."
        ) from error
    missing = [name for name in wanted.files if not (weights_folder() / name).is_file()]
    if missing:
        raise MixOfShowError(
            f"Control Image: kind {kind!r} misses the weights {', '.join(missing)}. Put them into {weights_folder()}; "
            f"they are published at {SOURCE}."
        )
    try:
        detector = made.from_pretrained(str(weights_folder())) if wanted.files else made()
        device = comfy.model_management.get_torch_device()
        return detector.to(device) if hasattr(detector, "to") else detector
    except Exception as error:
        more = f" It also needs {wanted.needs}." if wanted.needs else ""
        raise MixOfShowError(
            f"Control Image: kind {kind!r} of controlnet-aux did not start ({type(error).__name__}: {error}).{more}"
        ) from error
