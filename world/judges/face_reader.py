"""Reads hair, glasses, eyes and mouth of a drawn person: a small network fitted on pictures as they are drawn.

It judges autoencoders (`world.judges.autoencoder`), so it must not depend on one, nor on the features that one may be
trained on: no picture that it is fitted on was ever encoded, and it sees pixels only. One face in five is drawn without
eyes and one in five without a mouth, so that "nothing there" is an answer of its own. To bear a soft picture, half of
what it is fitted on is blurred a little.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ..drawing import sprites
from ..drawing.captions import BACKGROUNDS, Subject
from ..drawing.people import MOODS, Person, draw_person, is_held_out
from .composites import FACE, UNKNOWN, label_subject

HOME = sprites.CACHE / "judge"
ABSENT = "nothing"
QUESTIONS = {
    "hair": ("black", "brown", "red", "blonde", "white", "pink", "blue", "green", "purple"),
    "glasses": ("no glasses", "glasses", "sunglasses"),
    "eyes": (ABSENT, "default", "happy", "side"),
    "mouth": (ABSENT, *(mouth for mouths in MOODS.values() for mouth in mouths)),
}
MOOD_OF = {mouth: mood for mood, mouths in MOODS.items() for mouth in mouths}
COUNT, EPOCHS, BATCH, PLACINGS = 6000, 5, 64, 3


@dataclass(frozen=True)
class Drawing:
    """A person as drawn, perhaps without eyes or mouth."""

    person: Person
    eyes: bool = True
    mouth: bool = True

    def options(self) -> dict:
        options = self.person.options()
        return options | ({} if self.eyes else {"eyes": []}) | ({} if self.mouth else {"mouth": []})

    def labels(self) -> dict[str, str]:
        """An answer per question, "" where the drawing does not show it (hair under a hat, eyes behind sunglasses)."""
        answers = label_subject(Subject(0, self.person))
        eyes = self.person.eyes if self.eyes else ABSENT
        return {
            "hair": answers["hair"],
            "glasses": answers["glasses"],
            "eyes": UNKNOWN if self.person.glasses == "sunglasses" else eyes,
            "mouth": self.person.mouth if self.mouth else ABSENT,
        }


@dataclass(frozen=True)
class Place:
    """How a person stands on its canvas, as in training: side and place in pixels, mirrored, colour behind."""

    side: int
    shift: int
    mirrored: bool
    colour: tuple[int, ...]

    def paste(self, sprite: Image.Image) -> Image.Image:
        """RGB [64, 64]."""
        if self.mirrored:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sprite = sprite.resize((self.side, self.side), Image.Resampling.LANCZOS)
        canvas = Image.new("RGB", (64, 64), self.colour)
        canvas.paste(sprite, ((64 - self.side) // 2 + self.shift, 64 - self.side), sprite)
        return canvas


def choose_place(rng: random.Random) -> Place:
    colour = tuple(max(0, min(255, c + rng.randint(-8, 8))) for c in rng.choice(list(BACKGROUNDS.values())))
    return Place(rng.randint(56, 64), rng.randint(-2, 2), rng.random() < 0.5, colour)


def render(drawings: list[Drawing], name: str) -> list[Image.Image]:
    """RGBA sprites of 128 pixels, from the cache where they were drawn before."""
    folder, specs = HOME / name, HOME / f"{name}.jsonl"
    rows = [json.dumps({"file": f"{i:05d}.png", "options": d.options()}) for i, d in enumerate(drawings)]
    done = HOME / f"{name}.done.jsonl"  # last: it says that all is there
    if not done.exists() or done.read_text() != "\n".join(rows):
        HOME.mkdir(parents=True, exist_ok=True)
        specs.write_text("\n".join(rows))
        script = Path(sprites.__file__).with_name("people.mjs")
        subprocess.run(["node", str(script), str(specs), str(folder), str(sprites.fetch())], check=True)
        os.replace(specs, done)
    return [Image.open(folder / f"{i:05d}.png").convert("RGBA") for i in range(len(drawings))]


def pixels_of(pictures: list[Image.Image]) -> torch.Tensor:
    """uint8 [N, 64, 64, 3]."""
    rows = [torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8).view(p.height, p.width, 3) for p in pictures]
    return torch.stack(rows)


def draw_crowd(count: int, seed: int) -> list[Drawing]:
    """Random people, none of them a held-out identity or like one."""
    rng, out = random.Random(seed), []
    while len(out) < count:
        person = draw_person(rng)
        if not is_held_out(person):
            out.append(Drawing(person, rng.random() > 0.2, rng.random() > 0.2))
    return out


class Reader(nn.Module):
    """[N, 3, 64, 64] in -1..1 -> an answer per question. It sees the face as it is and the whole at half its size."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((6, 24, 1), (24, 32, 1), (32, 48, 2), (48, 48, 1), (48, 64, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 64, 128), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(words)) for name, words in QUESTIONS.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        left, top, right, bottom = FACE
        seen = torch.cat([pixels[..., top:bottom, left:right], F.avg_pool2d(pixels, 2)], 1)
        hidden = self.trunk(seen)
        return {name: head(hidden) for name, head in self.heads.items()}

    @torch.inference_mode()
    def answer(self, pixels: torch.Tensor) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {name: [] for name in QUESTIONS}
        for part in pixels.split(256):
            for name, logits in self(part).items():
                found[name] += [QUESTIONS[name][i] for i in logits.argmax(1).tolist()]
        return found


def soften(x: torch.Tensor) -> torch.Tensor:
    """A batch a little darker or lighter, noisy, and every second time blurred by up to 0.9 pixels."""
    x = x * (1 + 0.1 * (torch.rand(len(x), 1, 1, 1) - 0.5)) + 0.1 * (torch.rand(len(x), 1, 1, 1) - 0.5)
    if torch.rand(()) < 0.5:
        sigma = 0.3 + 0.6 * float(torch.rand(()))
        line = torch.exp(-torch.arange(-2.0, 3.0).pow(2) / (2 * sigma * sigma))
        kernel = (line[:, None] * line[None]) / line.sum() ** 2
        x = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel.expand(3, 1, 5, 5), groups=3)
    return x + 0.03 * torch.randn_like(x)


def numbers_of(drawings: list[Drawing]) -> dict[str, torch.Tensor]:
    """Answers as numbers, -100 (what cross entropy leaves out) where there is none."""
    labels = [d.labels() for d in drawings]
    return {
        name: torch.tensor([words.index(row[name]) if row[name] else -100 for row in labels])
        for name, words in QUESTIONS.items()
    }


def fit(seed: int = 31) -> Reader:
    """About four minutes on one core."""
    torch.manual_seed(seed)
    drawings, rng = draw_crowd(sprites.scaled(COUNT, 120), seed), random.Random(seed)
    sheets = render(drawings, "crowd")
    pixels = pixels_of([choose_place(rng).paste(sheet) for sheet in sheets for _ in range(PLACINGS)])
    numbers = {name: n.repeat_interleave(PLACINGS) for name, n in numbers_of(drawings).items()}
    reader, steps = Reader(), EPOCHS * len(pixels) // BATCH
    optimiser = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(pixels), (BATCH,))
        x = soften(pixels[rows].permute(0, 3, 1, 2).float() / 127.5 - 1)
        loss = sum(F.cross_entropy(logits, numbers[name][rows]) for name, logits in reader(x).items())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"  reader: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    return reader.eval().requires_grad_(False)


SOURCES = (fit, soften, draw_crowd, choose_place, numbers_of)  # a change of these asks for a new reader


def load() -> Reader:
    """The fitted reader, fitted first where the cache has none of this recipe."""
    recipe = repr((QUESTIONS, FACE, COUNT, EPOCHS, BATCH, PLACINGS, Reader(), [inspect.getsource(f) for f in SOURCES]))
    path, stamp = HOME / "reader.pt", hashlib.sha256(recipe.encode()).hexdigest()
    saved = torch.load(path) if path.exists() else {}
    if saved.get("stamp") != stamp:
        saved = {"stamp": stamp, "weights": fit().state_dict()}
        torch.save(saved, path)
    reader = Reader()
    reader.load_state_dict(saved["weights"])
    return reader.eval().requires_grad_(False)
