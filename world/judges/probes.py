"""Linear probes fitted on real composites only: `python -m world.judges.probes`.

Class is read from EfficientNet-Lite2 features of the picture, glasses from those of the enlarged face; background and
hair colour from a coarse grid of colours, because the features tell only 64 % of backgrounds and 44 % of hair colours
(soft test) from each other.

Fitted on the pictures of composites.py: as drawn, seen through the base's autoencoder, and worn. Prints the
real-image ceiling of every probe in each of these views beside chance. The people of the test were in no fitted
composite; emoji are the same drawings, placed anew. No generated picture is ever fitted.
"""

from __future__ import annotations

import time

import torch
from PIL import Image

from . import evaluator
from .composites import PLANS, QUESTIONS, TESTS, UNKNOWN, Composites, colours, face_features, fitted, load_composites
from .evaluator import CACHE

PROBES = CACHE / "probes.pt"
DECAY = {"features": 3e-3, "faces": 3e-3, "colours": 3e-4}
READS = {"class": "features", "background": "colours", "hair": "colours", "glasses": "faces"}


def answer_all(probes: dict, net: torch.nn.Module, pictures: list[Image.Image]) -> tuple[list[dict], torch.Tensor]:
    """(per picture every question's answer, the features [N, 1280])."""
    read = {
        "features": evaluator.features(net, pictures),
        "faces": face_features(net, pictures),
        "colours": colours(pictures),
    }
    said = {question: probes[question].answer(read[READS[question]]) for question in QUESTIONS}
    return [{q: words[i] for q, words in said.items()} for i in range(len(pictures))], read["features"]


def fit_probes(sets: dict[str, Composites]) -> dict[str, object]:
    """One probe per question, kept in the cache."""
    probe = evaluator.load_metrics("probe")
    probes, data = {}, fitted(sets)
    for question in QUESTIONS:
        known = [i for i, label in enumerate(data.labels[question]) if label != UNKNOWN]
        probes[question] = probe.fit_probe(
            vars(data)[READS[question]][known], [data.labels[question][i] for i in known], DECAY[READS[question]]
        )
    torch.save({"stamp": data.stamp, "probes": {k: vars(v) for k, v in probes.items()}}, PROBES)
    return probes


def load_probes(sets: dict[str, Composites]) -> dict[str, object]:
    """The fitted probes; fits them first where the cache has none of these composites."""
    saved = torch.load(PROBES, weights_only=True) if PROBES.exists() else {}
    if saved.get("stamp") != fitted(sets).stamp:
        return fit_probes(sets)
    probe = evaluator.load_metrics("probe")
    return {k: probe.LinearProbe(**v) for k, v in saved["probes"].items()}


def report(probes: dict[str, object], sets: dict[str, Composites]) -> list[dict]:
    """Share right on the test with a 95 % interval in every view, and chance."""
    interval = evaluator.load_identity().bootstrap_interval
    rows = []
    for question in QUESTIONS:
        row = {
            "question": question,
            "answers": len(probes[question].answers),
            "chance": 1 / len(probes[question].answers),
        }
        for label in TESTS:
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
    print(
        f"{sum(count for count, _, held_out in PLANS.values() if not held_out)} composites fitted "
        f"({time.time() - start:.0f} s)"
    )
    print("| question | as drawn | soft | worn | chance | n |\n|---|---|---|---|---|---|")
    for row in report(fit_probes(sets), sets):
        shown = [f"{mean:.1%} [{low:.1%}, {high:.1%}]" for mean, low, high in (row[label] for label in TESTS)]
        print(f"| {row['question']} | {' | '.join(shown)} | {row['chance']:.0%} | {row['count']} |")


if __name__ == "__main__":
    main()
