"""Real composites with complete labels, in three views, and what the evaluators read of them.

"sharp": as drawn. "soft": seen through base A's autoencoder, the softest that a right picture can be. "worn": bent a
little, and with noise on its latents before they are decoded, so that a probe learns what is left of a thing in the
mosaic that a small base paints. Every one is drawn from real pictures; no generated picture is ever among them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image

from ..drawing import build
from ..drawing.captions import BACKGROUNDS, Scene, Subject, name
from ..drawing.people import CLOTHES_COLOURS, HAIR_COLOURS, HATS, SKINS, Person
from ..drawing.sprites import scaled
from . import evaluator
from .evaluator import CACHE

QUESTIONS = ("class", "background", "hair", "glasses")
PEOPLE_SHARE = 0.4  # less than in training: 42 classes need their pictures
FACE = (16, 14, 48, 46)  # people stand at a fixed place: where their eyes are on 64 pixels
NOISE, BEND = (0.2, 0.7), 1.0  # of a latent channel's deviation; pixels
UNKNOWN = ""
# name -> (how many, seed, people kept for the test, view)
PLANS = {
    "sharp": (1000, 11, False),
    "soft": (1000, 12, False),
    "worn": (2400, 14, False),
    "test": (500, 13, True),
    "test_soft": (500, 13, True),
    "test_worn": (500, 13, True),
}
TESTS = ("test", "test_soft", "test_worn")


@dataclass(frozen=True)
class Composites:
    """features and faces [N, 1280] (faces of things are 0), colours [N, 496]; captions; each question's answers.

    The stamp changes with anything that they were made from.
    """

    features: torch.Tensor
    faces: torch.Tensor
    colours: torch.Tensor
    captions: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    stamp: str


def label_subject(subject: Subject) -> dict[str, str]:
    """The answers that one subject gives; hair under a hat or none has no colour to see."""
    if not isinstance(subject.what, Person):
        return {"class": subject.what, "hair": UNKNOWN, "glasses": UNKNOWN}
    person = subject.what
    hair = UNKNOWN if person.hair in HATS or person.hair == "no hair" else person.hair_colour
    return {"class": "person", "hair": hair, "glasses": person.glasses or "no glasses"}


def draw_composites(count: int, seed: int, held_out: bool) -> tuple[list[Image.Image], list[str], list[dict[str, str]]]:
    """Single canvases; every sixth person of the crowd belongs to the test."""
    build.load_sprites()
    people = [p for i, p in enumerate(build._people) if (i % 6 == 5) == held_out]
    rng = random.Random(seed)
    pictures, captions, labels = [], [], []
    for _ in range(scaled(count, 100)):
        subject = rng.choice(people if rng.random() < PEOPLE_SHARE else build._emoji)
        background = rng.choice(list(BACKGROUNDS))
        pictures.append(Image.fromarray(build.draw(Scene((subject,), background, ""), rng)))
        captions.append(f"{name(subject, rng, 1.0)}, {background} background")
        labels.append({**label_subject(subject), "background": background})
    return pictures, captions, labels


@torch.inference_mode()
def wear(pictures: Sequence[Image.Image], seed: int) -> list[Image.Image]:
    """Pictures of 64 pixels bent by a smooth random field, encoded, disturbed by NOISE and decoded."""
    autoencoder, deviation = evaluator.load_autoencoder()
    generator = torch.Generator().manual_seed(seed)
    straight = F.affine_grid(torch.eye(2, 3)[None], (1, 3, 64, 64), align_corners=False)
    out = []
    for start in range(0, len(pictures), 50):
        pixels = evaluator.to_pixels(pictures[start : start + 50])
        field = torch.randn(len(pixels), 2, 5, 5, generator=generator) * BEND / 32
        bend = F.interpolate(field, (64, 64), mode="bicubic").permute(0, 2, 3, 1)
        codes = autoencoder.encode(F.grid_sample(pixels, straight + bend, "bilinear", "border", align_corners=False))
        strength = torch.empty(len(pixels), 1, 1, 1).uniform_(*NOISE, generator=generator)
        noise = torch.randn(codes.shape, generator=generator)
        out += evaluator.to_pictures(autoencoder.decode(codes + strength * deviation.view(1, -1, 1, 1) * noise))
    return out


def palette() -> torch.Tensor:
    """Every colour that canvases are drawn with [31, 3]."""
    words = [v for table in (HAIR_COLOURS, SKINS, CLOTHES_COLOURS) for v in table.values()]
    return torch.tensor(sorted({*BACKGROUNDS.values(), *(tuple(bytes.fromhex(word)) for word in words)}))


def colours(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures of 64 pixels a side -> [N, 496]."""
    pixels = [torch.frombuffer(bytearray(p.convert("RGB").tobytes()), dtype=torch.uint8) for p in pictures]
    return evaluator.load_metrics("colour").colour_grid(torch.stack(pixels).view(-1, 64, 64, 3), palette())


def face_features(net: torch.nn.Module, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """[N, 1280] of the enlarged place where a person's eyes are."""
    return evaluator.features(net, [picture.crop(FACE) for picture in pictures])


def collect(net: torch.nn.Module, pictures: list, captions: list, labels: list, stamp: str) -> Composites:
    features = evaluator.features(net, pictures)
    faces = torch.zeros_like(features)
    people = [i for i, row in enumerate(labels) if row["glasses"] != UNKNOWN]
    faces[people] = face_features(net, [pictures[i] for i in people])
    return Composites(
        features,
        faces,
        colours(pictures),
        tuple(captions),
        {q: tuple(row[q] for row in labels) for q in QUESTIONS},
        stamp,
    )


def merge(*parts: Composites) -> Composites:
    tensors = (torch.cat([getattr(p, key) for p in parts]) for key in ("features", "faces", "colours"))
    return Composites(
        *tensors,
        sum((p.captions for p in parts), ()),
        {q: sum((p.labels[q] for p in parts), ()) for q in QUESTIONS},
        "".join(p.stamp for p in parts),
    )


def fitted(sets: dict[str, Composites]) -> Composites:
    """What probes and the bridge score are fitted on."""
    return merge(*(sets[view] for view in ("sharp", "soft", "worn")))


def stamp_of(label: str, pictures: list[Image.Image], captions: list, labels: list) -> str:
    """Changes with the drawn pictures, their labels and, unless they stay as drawn, the shipped autoencoder."""
    stamp = hashlib.sha256(b"".join(picture.tobytes() for picture in pictures))
    stamp.update(repr((label, captions, labels, FACE)).encode())
    if label.endswith(("soft", "worn")):
        stamp.update(evaluator.stamp_autoencoder())
    if label.endswith("worn"):
        stamp.update(repr((NOISE, BEND)).encode())
    return stamp.hexdigest()


def load_composites(labels: Sequence[str] = tuple(PLANS)) -> dict[str, Composites]:
    """Sets of PLANS, each cached as soon as it is there: features cost nearly all of the time here."""
    sets, net = {}, None
    for label in labels:
        plan, path = PLANS[label], CACHE / f"composites_{label}.pt"
        pictures, captions, answers = draw_composites(*plan)
        stamp = stamp_of(label, pictures, captions, answers)
        saved = torch.load(path, weights_only=True) if path.exists() else {}
        if saved.get("stamp") != stamp:
            net = net or evaluator.load_evaluator()
            if label.endswith("soft"):
                pictures = evaluator.see_through_base(pictures)
            elif label.endswith("worn"):
                pictures = wear(pictures, plan[1])
            saved = vars(collect(net, pictures, captions, answers, stamp))
            torch.save(saved, path)
            print(f"  {label}: features of {len(pictures)} composites", flush=True)
        sets[label] = Composites(**saved)
    return sets
