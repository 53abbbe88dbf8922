"""Linear probes fitted on real composites only: `python -m world.probes`.

Class and glasses are read from EfficientNet-Lite2 features; background and hair colour from a coarse grid of colours,
because those features tell only 64 % of backgrounds and 44 % of hair colours (soft test) from each other.

Draws composites as `world.build` does, with complete labels; half of them are seen through the base's autoencoder, the
softest that a right picture can be. Prints the real-image ceiling of every probe beside chance. The people of the test
were in no fitted composite; emoji are the same drawings, placed anew. No generated picture is ever fitted.
"""
from __future__ import annotations

import random
import time
from dataclasses import dataclass

import torch
from PIL import Image

from . import build, evaluator
from .captions import BACKGROUNDS, Scene, Subject, name
from .evaluator import CACHE
from .people import CLOTHES_COLOURS, HAIR_COLOURS, HATS, SKINS, Person

PROBES = CACHE / "probes.pt"
FITTED, TESTED = 2600, 500
PEOPLE_SHARE = 0.4  # less than in training: 42 classes need their pictures
DECAY = {"features": 3e-3, "colours": 3e-4}
READS = {"class": "features", "background": "colours", "hair": "colours", "glasses": "features"}
QUESTIONS = tuple(READS)
UNKNOWN = ""


@dataclass(frozen=True)
class Composites:
    """features [N, 1280], colours [N, 496]; per picture a full caption and every question's answer ("" = none)."""

    features: torch.Tensor
    colours: torch.Tensor
    captions: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]


def label_subject(subject: Subject) -> dict[str, str]:
    """The answers that one subject gives; hair under a hat or none has no colour to see."""
    if not isinstance(subject.what, Person):
        return {"class": subject.what, "hair": UNKNOWN, "glasses": UNKNOWN}
    person = subject.what
    hair = UNKNOWN if person.hair in HATS or person.hair == "no hair" else person.hair_colour
    return {"class": "person", "hair": hair, "glasses": person.glasses or "no glasses"}


def draw_composites(count: int, seed: int, held_out: bool) -> tuple[list[Image.Image], list[str], list[dict[str, str]]]:
    """Single canvases; every sixth person of the crowd belongs to the test."""
    if not build._people:
        build.load_sprites()
    people = [p for i, p in enumerate(build._people) if (i % 6 == 5) == held_out]
    rng = random.Random(seed)
    pictures, captions, labels = [], [], []
    for _ in range(count):
        subject = rng.choice(people if rng.random() < PEOPLE_SHARE else build._emoji)
        background = rng.choice(list(BACKGROUNDS))
        pictures.append(Image.fromarray(build.draw(Scene((subject,), background, ""), rng)))
        captions.append(f"{name(subject, rng, 1.0)}, {background} background")
        labels.append({**label_subject(subject), "background": background})
    return pictures, captions, labels


def palette() -> torch.Tensor:
    """Every colour that canvases are drawn with [31, 3]."""
    words = [v for table in (HAIR_COLOURS, SKINS, CLOTHES_COLOURS) for v in table.values()]
    return torch.tensor(sorted({*BACKGROUNDS.values(), *(tuple(bytes.fromhex(word)) for word in words)}))


def colours(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures of 64 pixels a side -> [N, 496]."""
    pixels = [torch.frombuffer(bytearray(p.convert("RGB").tobytes()), dtype=torch.uint8) for p in pictures]
    return evaluator.load_metrics("colour").colour_grid(torch.stack(pixels).view(-1, 64, 64, 3), palette())


def answer_all(probes: dict, net: torch.nn.Module, pictures: list[Image.Image]) -> tuple[list[dict], torch.Tensor]:
    """(per picture every question's answer, the features [N, 1280])."""
    read = {"features": evaluator.features(net, pictures), "colours": colours(pictures)}
    said = {question: probes[question].answer(read[READS[question]]) for question in QUESTIONS}
    return [{q: words[i] for q, words in said.items()} for i in range(len(pictures))], read["features"]


def collect(net: torch.nn.Module, drawn: tuple[list, list, list]) -> Composites:
    pictures, captions, labels = drawn
    return Composites(evaluator.features(net, pictures), colours(pictures), tuple(captions),
                      {q: tuple(row[q] for row in labels) for q in QUESTIONS})


def merge(*parts: Composites) -> Composites:
    return Composites(torch.cat([p.features for p in parts]), torch.cat([p.colours for p in parts]),
                      sum((p.captions for p in parts), ()),
                      {q: sum((p.labels[q] for p in parts), ()) for q in QUESTIONS})


def load_composites() -> dict[str, Composites]:
    """"sharp" and "soft" (through the autoencoder) to fit, "test", and "test_soft", the same through the autoencoder.

    Features cost most of the time here: each set is cached as soon as it is there.
    """
    plans = {"sharp": (FITTED // 2, 11, False), "soft": (FITTED // 2, 12, False), "test": (TESTED, 13, True),
             "test_soft": (TESTED, 13, True)}
    sets, net = {}, None
    for label, plan in plans.items():
        path = CACHE / f"composites_{label}.pt"
        if not path.exists():
            net = net or evaluator.load_evaluator()
            drawn = draw_composites(*plan)
            if "soft" in label:
                drawn = (evaluator.see_through_base(drawn[0]), *drawn[1:])
            torch.save(vars(collect(net, drawn)), path)
            print(f"  {label}: features of {len(drawn[0])} composites", flush=True)
        sets[label] = Composites(**torch.load(path, weights_only=True))
    return sets


def fit_probes(sets: dict[str, Composites]) -> dict[str, object]:
    """One probe per question, kept in the cache."""
    probe = evaluator.load_metrics("probe")
    fitted, data = {}, merge(sets["sharp"], sets["soft"])
    for question in QUESTIONS:
        known = [i for i, label in enumerate(data.labels[question]) if label != UNKNOWN]
        fitted[question] = probe.fit_probe(vars(data)[READS[question]][known],
                                           [data.labels[question][i] for i in known], DECAY[READS[question]])
    torch.save({k: vars(v) for k, v in fitted.items()}, PROBES)
    return fitted


def load_probes() -> dict[str, object]:
    """The fitted probes; fits them first where the cache has none."""
    if not PROBES.exists():
        return fit_probes(load_composites())
    probe = evaluator.load_metrics("probe")
    return {k: probe.LinearProbe(**v) for k, v in torch.load(PROBES, weights_only=True).items()}


def report(probes: dict[str, object], sets: dict[str, Composites]) -> list[dict]:
    """Share right on the test with a 95 % interval, as drawn and through the autoencoder, and chance."""
    interval = evaluator.load_identity().bootstrap_interval
    rows = []
    for question in QUESTIONS:
        row = {"question": question, "answers": len(probes[question].answers),
               "chance": 1 / len(probes[question].answers)}
        for label in ("test", "test_soft"):
            known = [i for i, answer in enumerate(sets[label].labels[question]) if answer != UNKNOWN]
            said = probes[question].answer(vars(sets[label])[READS[question]][known])
            hits = [float(a == sets[label].labels[question][i]) for a, i in zip(said, known, strict=True)]
            row[label] = interval(hits)
        row["count"] = len(known)
        rows.append(row)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    start = time.time()
    sets = load_composites()
    print(f"{FITTED} composites fitted, {TESTED} tested ({time.time() - start:.0f} s)")
    for row in report(fit_probes(sets), sets):
        shown = [f"{mean:.1%} [{low:.1%}, {high:.1%}]" for mean, low, high in (row["test"], row["test_soft"])]
        print(f"  {row['question']:11} as drawn {shown[0]}  through the autoencoder {shown[1]}  "
              f"chance {row['chance']:.1%} of {row['answers']} answers  (n = {row['count']})")


if __name__ == "__main__":
    main()
