"""Ten objects of the small world: views of small 3-D models, each with its exact mask.

Eight are built here from boxes, balls and tubes; two are meshes that come with pybullet (PyPI, zlib) under licences of
their own: Husky (BSD-3-Clause, Clearpath Robotics) and the Panda arm (Apache-2.0, Franka Emika). pybullet's renderer
runs on the CPU; the package is fetched into the cache when pictures are made, and is needed by nothing else.
"""

from __future__ import annotations

import importlib
import math
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from types import ModuleType

from PIL import Image

from .sprites import CACHE

PACKAGE = "pybullet==3.2.7"
RENDER = 384
Colour = tuple[float, float, float]

RED, ORANGE, YELLOW, GREEN = (0.85, 0.2, 0.18), (0.95, 0.55, 0.15), (0.98, 0.83, 0.25), (0.25, 0.6, 0.3)
BLUE, PURPLE, WHITE, GRAY = (0.2, 0.4, 0.85), (0.5, 0.28, 0.7), (0.95, 0.95, 0.95), (0.55, 0.57, 0.6)
BLACK, BROWN, TEAL, PINK = (0.12, 0.12, 0.14), (0.5, 0.33, 0.2), (0.1, 0.6, 0.62), (0.95, 0.55, 0.7)


@dataclass(frozen=True)
class Part:
    """shape "box" (size = half edges), "ball" (radius) or "tube" (radius, height; its axis is z before `turn`)."""

    shape: str
    size: tuple[float, ...]
    at: tuple[float, float, float]
    colour: Colour
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Thing:
    """An object: own parts, or a mesh file of the package with colours for its links (empty = as it comes)."""

    class_word: str
    parts: tuple[Part, ...] = ()
    mesh: str = ""
    paint: tuple[Colour, ...] = ()
    pose: tuple[float, ...] = ()


def cone(
    radius: float, height: float, at: tuple[float, float, float], colour: Colour, top: float = 0.0, slices: int = 14
) -> tuple[Part, ...]:
    """A pile of discs from `radius` to `top`; `at` is the middle of its foot."""
    step = height / slices
    return tuple(
        Part(
            "tube",
            (radius + (top - radius) * (i + 0.5) / slices, step * 1.02),
            (at[0], at[1], at[2] + (i + 0.5) * step),
            colour,
        )
        for i in range(slices)
    )


def wheels(xs: tuple[float, ...], y: float, z: float, radius: float, colour: Colour) -> tuple[Part, ...]:
    return tuple(
        Part("tube", (radius, 0.12), (x, side * y, z), colour, (math.pi / 2, 0, 0)) for x in xs for side in (1, -1)
    )


def sails(colour: Colour) -> tuple[Part, ...]:
    out = []
    for i in range(4):
        angle = i * math.pi / 2 + 0.4
        out.append(
            Part(
                "box",
                (0.03, 0.12, 0.42),
                (0.42, 0.45 * math.sin(angle), 1.45 + 0.45 * math.cos(angle)),
                colour,
                (-angle, 0, 0),
            )
        )
    return tuple(out)


THINGS = {
    "pharo": Thing(
        "lighthouse",
        (
            *cone(0.42, 0.45, (0, 0, 0), RED, 0.38),
            *cone(0.38, 0.4, (0, 0, 0.45), WHITE, 0.34),
            *cone(0.34, 0.4, (0, 0, 0.85), RED, 0.3),
            *cone(0.3, 0.35, (0, 0, 1.25), WHITE, 0.27),
            Part("tube", (0.36, 0.07), (0, 0, 1.63), BLACK),
            Part("tube", (0.2, 0.25), (0, 0, 1.78), YELLOW),
            *cone(0.3, 0.3, (0, 0, 1.9), RED),
        ),
    ),
    "tobi": Thing(
        "toy train",
        (
            Part("box", (0.95, 0.32, 0.1), (0, 0, 0.32), BLACK),
            Part("tube", (0.3, 1.15), (0.25, 0, 0.7), GREEN, (0, math.pi / 2, 0)),
            Part("box", (0.32, 0.34, 0.5), (-0.6, 0, 0.92), RED),
            Part("box", (0.4, 0.42, 0.06), (-0.6, 0, 1.45), YELLOW),
            Part("tube", (0.12, 0.5), (0.6, 0, 1.15), BLACK),
            Part("ball", (0.13,), (0.1, 0, 1.02), YELLOW),
            *wheels((-0.6, 0.0, 0.6), 0.36, 0.24, 0.24, YELLOW),
        ),
    ),
    "olmo": Thing(
        "snowman",
        (
            Part("ball", (0.55,), (0, 0, 0.5), WHITE),
            Part("ball", (0.42,), (0, 0, 1.22), WHITE),
            Part("ball", (0.32,), (0, 0, 1.8), WHITE),
            Part("tube", (0.36, 0.13), (0, 0, 1.52), TEAL),
            Part("tube", (0.05, 0.4), (0.45, 0, 1.8), ORANGE, (0, math.pi / 2, 0)),
            Part("tube", (0.42, 0.05), (0, 0, 2.05), PURPLE),
            Part("tube", (0.27, 0.4), (0, 0, 2.25), PURPLE),
            Part("ball", (0.06,), (0.28, 0.12, 1.9), BLACK),
            Part("ball", (0.06,), (0.28, -0.12, 1.9), BLACK),
            Part("ball", (0.06,), (0.41, 0, 1.25), BLACK),
        ),
    ),
    "mola": Thing(
        "windmill",
        (
            *cone(0.5, 1.3, (0, 0, 0), BROWN, 0.32),
            *cone(0.4, 0.4, (0, 0, 1.3), BLUE),
            Part("ball", (0.1,), (0.42, 0, 1.45), BLACK),
            Part("box", (0.03, 0.13, 0.25), (0.47, 0, 0.25), BLACK),
            *sails(YELLOW),
        ),
    ),
    "vela": Thing(
        "sailboat",
        (
            Part("box", (0.85, 0.28, 0.16), (0, 0, 0.2), BLUE),
            Part("box", (0.6, 0.2, 0.06), (0, 0, 0.04), BLUE),
            Part("box", (0.87, 0.3, 0.03), (0, 0, 0.37), WHITE),
            Part("tube", (0.05, 1.7), (0, 0, 1.2), BROWN),
            *(
                Part(
                    "box",
                    (0.75 * (1 - i / 12) / 2, 0.02, 0.06),
                    (0.05 + 0.75 * (1 - i / 12) / 2, 0, 0.6 + 0.115 * i),
                    ORANGE,
                )
                for i in range(12)
            ),
            *(
                Part(
                    "box",
                    (0.5 * (1 - i / 10) / 2, 0.02, 0.06),
                    (-0.05 - 0.5 * (1 - i / 10) / 2, 0, 0.6 + 0.115 * i),
                    PINK,
                )
                for i in range(10)
            ),
        ),
    ),
    "lumo": Thing(
        "lamp",
        (
            Part("tube", (0.42, 0.1), (0, 0, 0.05), TEAL),
            Part("ball", (0.24,), (0, 0, 0.3), TEAL),
            Part("tube", (0.06, 0.9), (0, 0, 0.8), GRAY),
            *cone(0.65, 0.6, (0, 0, 1.15), PINK, 0.32),
            Part("ball", (0.1,), (0, 0, 1.8), GRAY),
        ),
    ),
    "nido": Thing(
        "birdhouse",
        (
            Part("tube", (0.09, 0.8), (0, 0, 0.4), BROWN),
            Part("box", (0.38, 0.42, 0.42), (0, 0, 1.15), YELLOW),
            Part("box", (0.5, 0.46, 0.05), (0, 0.28, 1.75), BLUE, (-0.8, 0, 0)),
            Part("box", (0.5, 0.46, 0.05), (0, -0.28, 1.75), BLUE, (0.8, 0, 0)),
            Part("ball", (0.16,), (0.3, 0, 1.25), BLACK),
            Part("tube", (0.04, 0.3), (0.45, 0, 0.98), RED, (0, math.pi / 2, 0)),
        ),
    ),
    "graba": Thing(
        "digger",
        (
            Part("box", (0.75, 0.16, 0.2), (0, 0.36, 0.2), BLACK),
            Part("box", (0.75, 0.16, 0.2), (0, -0.36, 0.2), BLACK),
            Part("box", (0.6, 0.4, 0.2), (-0.1, 0, 0.58), ORANGE),
            Part("box", (0.28, 0.3, 0.3), (-0.2, 0, 1.05), GRAY),
            Part("box", (0.32, 0.34, 0.05), (-0.2, 0, 1.38), ORANGE),
            Part("box", (0.5, 0.09, 0.09), (0.6, 0, 1.1), ORANGE, (0, -0.7, 0)),
            Part("box", (0.4, 0.08, 0.08), (1.15, 0, 1.1), ORANGE, (0, 0.95, 0)),
            Part("box", (0.16, 0.24, 0.18), (1.35, 0, 0.7), GRAY),
        ),
    ),
    "husk": Thing("rover", mesh="husky/husky.urdf"),
    "arma": Thing("robot arm", mesh="franka_panda/panda.urdf", pose=(0.0, 0.3, 0.0, -1.7, 0.0, 2.0, 0.8)),
}
# The same shapes in other colours: nobody trains these.
SWAPS: dict[str, dict[Colour, Colour]] = {
    "pharo": {RED: BLUE},
    "tobi": {GREEN: PURPLE, RED: BLUE},
    "olmo": {PURPLE: GREEN, TEAL: RED},
    "mola": {YELLOW: WHITE, BLUE: RED},
    "vela": {ORANGE: GREEN, BLUE: RED},
    "lumo": {PINK: GREEN, TEAL: BROWN},
    "nido": {YELLOW: RED, BLUE: GREEN},
    "graba": {ORANGE: GREEN},
}


def lookalikes() -> dict[str, Thing]:
    """Every object in other colours, named after it."""
    out = {}
    for name, thing in THINGS.items():
        swap = SWAPS.get(name, {})
        out[f"{name}2"] = replace(
            thing,
            parts=tuple(replace(p, colour=swap.get(p.colour, p.colour)) for p in thing.parts),
            paint=(PURPLE, GREEN) if thing.mesh else (),
        )
    return out


def fetch() -> ModuleType:
    """pybullet from the cache; installed there first where it is missing."""
    folder = CACHE / "python"
    if not (folder / "pybullet_data").is_dir():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), PACKAGE],
            check=True,
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module("pybullet")


def build(bullet: ModuleType, thing: Thing) -> None:
    """Put the object into pybullet's empty world."""
    bullet.resetSimulation()
    if thing.mesh:
        body = bullet.loadURDF(str(CACHE / "python" / "pybullet_data" / thing.mesh), useFixedBase=True)
        for joint, value in enumerate(thing.pose):
            bullet.resetJointState(body, joint, value)
        for link in range(-1, bullet.getNumJoints(body) if thing.paint else -1):
            bullet.changeVisualShape(body, link, rgbaColor=[*thing.paint[link % len(thing.paint)], 1])
    for part in thing.parts:
        size = {
            "box": {"halfExtents": part.size},
            "ball": {"radius": part.size[0]},
            "tube": {"radius": part.size[0], "length": part.size[-1]},
        }[part.shape]
        kind = {"box": bullet.GEOM_BOX, "ball": bullet.GEOM_SPHERE, "tube": bullet.GEOM_CYLINDER}[part.shape]
        shape = bullet.createVisualShape(kind, rgbaColor=[*part.colour, 1], **size)
        bullet.createMultiBody(0, -1, shape, part.at, bullet.getQuaternionFromEuler(part.turn))


def view(bullet: ModuleType, rng: random.Random) -> Image.Image:
    """A random view from the front half, RGBA, cropped to the object."""
    yaw, pitch = rng.uniform(-75, 75) + 90, rng.uniform(-32, -8)
    matrix = bullet.computeViewMatrixFromYawPitchRoll([0, 0, 0.8], 14, yaw, pitch, 0, 2)
    lens = bullet.computeProjectionMatrixFOV(20, 1, 1, 40)
    shot = bullet.getCameraImage(
        RENDER,
        RENDER,
        matrix,
        lens,
        lightDirection=[6, 4, 8],
        shadow=0,
        lightAmbientCoeff=0.65,
        lightDiffuseCoeff=0.4,
        lightSpecularCoeff=0.05,
        renderer=bullet.ER_TINY_RENDERER,
    )
    picture = Image.fromarray(shot[2].reshape(RENDER, RENDER, 4)).convert("RGB")
    picture.putalpha(Image.fromarray(((shot[4].reshape(RENDER, RENDER) >= 0) * 255).astype("uint8")))
    return picture.crop(picture.getbbox(alpha_only=True))
