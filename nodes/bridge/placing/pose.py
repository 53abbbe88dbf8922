"""The pose of one person by mediapipe, where it is installed with its models; drawn as OpenPose draws it.

No weights to fetch and no forbidden use, unlike OpenPose's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.regional.skeleton import draw_skeleton

PACKAGE = "mediapipe"
INSTALL = "pip install mediapipe==0.10.14"  # has its models inside and takes numpy 2; later ones miss one or the other
SEEN = 0.5  # mediapipe's visibility from which a point is drawn
# mediapipe's number of each point; the neck is the middle of the shoulders.
NUMBERS = {
    "nose": 0,
    "right shoulder": 12,
    "right elbow": 14,
    "right wrist": 16,
    "left shoulder": 11,
    "left elbow": 13,
    "left wrist": 15,
    "right hip": 24,
    "right knee": 26,
    "right ankle": 28,
    "left hip": 23,
    "left knee": 25,
    "left ankle": 27,
    "right eye": 5,
    "left eye": 2,
    "right ear": 8,
    "left ear": 7,
}


def make_pose_detector() -> Callable[[Image.Image, tuple[int, int]], Image.Image]:
    """Picture and (width, height) of the drawing -> the drawing; black where nobody is found."""
    try:
        finder = importlib.import_module(PACKAGE).solutions.pose.Pose(static_image_mode=True, model_complexity=1)
    except Exception as error:  # absent, without its models, or broken by another package's version
        raise MixOfShowError(
            f"Control Image: kind 'mediapipe pose' needs the package mediapipe with its models "
            f"({type(error).__name__}: {error}). Install it into ComfyUI's Python ({INSTALL}; Python 3.12 or older), "
            f"or take 'lines'."
        ) from error

    def detect(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        found = finder.process(np.asarray(picture)).pose_landmarks
        return draw_skeleton(_seen(found.landmark) if found else {}, *size)

    return detect


def _seen(landmarks) -> dict[str, tuple[float, float]]:
    marks = {name: landmarks[number] for name, number in NUMBERS.items()}
    seen = {
        name: (mark.x, mark.y)
        for name, mark in marks.items()
        if mark.visibility >= SEEN and 0 <= mark.x <= 1 and 0 <= mark.y <= 1
    }
    if "right shoulder" in seen and "left shoulder" in seen:
        (x, y), (u, v) = seen["right shoulder"], seen["left shoulder"]
        seen["neck"] = (x + u) / 2, (y + v) / 2
    return seen
