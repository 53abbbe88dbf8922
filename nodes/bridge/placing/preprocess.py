"""Control pictures from pictures: lines by ourselves, the rest by the packages controlnet_aux and mediapipe.

A package is imported only when one of its kinds is asked for, and never downloads: weights of controlnet_aux are read
from models/controlnet_aux, mediapipe carries its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
from .pose import make_pose_detector

PACKAGE = "controlnet_aux"
INSTALL = "pip install controlnet-aux"
SOURCE = "https://huggingface.co/lllyasviel/Annotators"
FINEST = 64  # controlnet_aux rounds sides to multiples of this


@dataclass(frozen=True)
class Detector:
    """A class of controlnet_aux and the weight files that it wants.

    ``needs``: what else has to be installed. ``sized``: it can draw in another size than the picture's.
    """

    name: str
    files: tuple[str, ...] = ()
    needs: str = ""
    sized: bool = True


LINES, POSE = "lines", "mediapipe pose"
DETECTORS = {
    "canny": Detector("CannyDetector"),
    "lineart": Detector("LineartDetector", ("sk_model.pth", "sk_model2.pth")),
    "HED": Detector("HEDdetector", ("ControlNetHED.pth",)),
    "openpose": Detector("OpenposeDetector", ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth")),
    "dwpose": Detector("DWposeDetector", needs="mmpose, mmdet and mmcv"),
    "lineart standard": Detector("LineartStandardDetector", sized=False),
}
KINDS = (LINES, *DETECTORS, POSE)


def control_image(image: Tensor, kind: str, resolution: int = 0) -> Tensor:
    """IMAGE [B, H, W, 3] -> the control picture of ``kind`` in the same proportions.

    ``resolution``: shorter side at which a detector looks and draws, 0 = the picture's own. Lines ignore it.
    """
    if image.dim() != 4 or 0 in image.shape or image.shape[-1] < 3:
        raise MixOfShowError(f"Control Image: image is {tuple(image.shape)}; connect one [batch, height, width, 3].")
    if kind == LINES:
        return draw_lines(image[..., :3].movedim(-1, 1)).movedim(1, -1).repeat(1, 1, 1, 3)
    if kind not in KINDS:
        raise MixOfShowError(f"Control Image: unknown kind {kind!r}; known: {', '.join(KINDS)}.")
    detect = make_pose_detector() if kind == POSE else _make_detector(kind)
    height, width = image.shape[1:3]
    scale = resolution / min(height, width) if resolution else 1.0
    size = round(width * scale), round(height * scale)
    pixels = (image[..., :3].clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)
    return to_image_batch([detect(Image.fromarray(picture), size) for picture in pixels])


def weights_folder() -> Path:
    return Path(folder_paths.models_dir) / PACKAGE


def _make_detector(kind: str) -> Callable[[Image.Image, tuple[int, int]], Image.Image]:
    """Picture and (width, height) of the drawing -> the drawing."""
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
        detector = detector.to(comfy.model_management.get_torch_device()) if hasattr(detector, "to") else detector
    except Exception as error:
        more = f" It also needs {wanted.needs}." if wanted.needs else ""
        raise MixOfShowError(
            f"Control Image: kind {kind!r} of controlnet-aux did not start ({type(error).__name__}: {error}).{more}"
        ) from error

    def detect(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        side = max(FINEST, min(size))
        if wanted.sized:
            drawn = detector(picture, detect_resolution=side, image_resolution=side, output_type="pil")
        else:
            drawn = detector(picture.resize(size), detect_resolution=side, output_type="pil")
        return drawn.convert("RGB").resize(size, Image.Resampling.BILINEAR)

    return detect
