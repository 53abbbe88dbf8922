"""Nearest identity for characters, objects, scenes and styles: `python -m world.judges.evaluator_kinds [--kind KIND]`.

References are a concept's ten training pictures and half of every look-alike's. "none" is calibrated on every second
held-out picture and reported on the others, against two sorts of strangers: the crowd (real composites of people that
are none of them, or of things) and, the hardest there are, look-alikes left out of the gallery one at a time. Both
views are reported; generated pictures are to be judged by "soft", with the threshold of the crowd.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
from PIL import Image

from . import evaluator
from .composites import load_composites
from .evaluator import CACHE, IDENTITIES

CONCEPTS = evaluator.ROOT / "world" / "data" / "concepts"
KINDS = ("character", "object", "scene", "style")
VIEWS = {"sharp": list, "soft": evaluator.see_through_base}


def picture_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.png")) if not path.name.endswith(".mask.png")]


def list_files(kind: str) -> dict[str, dict[str, list[Path]]]:
    """part -> name -> files. Parts: "train" and "test" of the concepts, "alike" of the look-alikes."""
    concepts = sorted(f for f in (CONCEPTS / kind).iterdir() if f.is_dir())
    others = sorted((CONCEPTS / "lookalikes" / kind).iterdir())
    if kind == "character":
        others += sorted(IDENTITIES.iterdir())
    names = {f.name for f in concepts}
    return {
        "train": {f.name: picture_files(f / "train") for f in concepts},
        "test": {f.name: picture_files(f / "test") for f in concepts},
        "alike": {f.name: picture_files(f) for f in others if f.is_dir() and f.name not in names},
    }


def load_features(kind: str, view: str, net: torch.nn.Module | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """Features of `list_files`, from the cache where pictures, and for "soft" the autoencoder, are unchanged."""
    files = list_files(kind)
    every = [path for part in files.values() for paths in part.values() for path in paths]
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in every))
    if view == "soft":
        stamp.update(evaluator.stamp_autoencoder())
    cache = CACHE / f"{kind}_{view}.pt"
    if cache.exists():
        saved = torch.load(cache, weights_only=True)
        if saved["stamp"] == stamp.hexdigest():
            return saved["features"]
    pictures = [Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS) for path in every]
    rows = iter(evaluator.features(net or evaluator.load_evaluator(), VIEWS[view](pictures)))
    table = {
        part: {name: torch.stack([next(rows) for _ in paths]) for name, paths in names.items()}
        for part, names in files.items()
    }
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.save({"stamp": stamp.hexdigest(), "features": table}, cache)
    return table


def build_kind_gallery(kind: str, view: str = "soft", net: torch.nn.Module | None = None) -> tuple[object, dict]:
    """(Gallery with a calibrated "none", report) of one kind."""
    identity = evaluator.load_identity()
    table = load_features(kind, view, net)
    alike = {name: (rows[: len(rows) // 2], rows[len(rows) // 2 :]) for name, rows in table["alike"].items()}
    references = table["train"] | {name: first for name, (first, _) in alike.items()}
    gallery = identity.Gallery(references)
    own = {
        name: identity.similarities(rows, gallery)[:, gallery.names.index(name)] for name, rows in table["test"].items()
    }
    alikes = [
        identity.similarities(second, identity.Gallery({n: r for n, r in references.items() if n != name}))
        .max(1)
        .values
        for name, (_, second) in alike.items()
    ]
    label = "test" if view == "sharp" else "test_soft"
    composites = load_composites([label])[label]
    wanted = [i for i, word in enumerate(composites.labels["class"]) if (word == "person") == (kind == "character")]
    crowd = [identity.similarities(composites.features[wanted], gallery).max(1).values]
    every = {name: identity.nearest_identity(rows, gallery) for name, rows in table["test"].items()}
    report = {
        "identities": len(references),
        "chance": 1 / len(references),
        "count": sum(map(len, every.values())),
        "nearest": identity.bootstrap_interval([float(m.nearest == n) for n, ms in every.items() for m in ms]),
        "similarity": float(torch.cat(list(own.values())).mean()),
    }
    for word, strangers in (("alike", alikes), ("crowd", crowd)):
        known, unknown = (torch.cat([rows[::2] for rows in part]) for part in (own.values(), strangers))
        gallery = identity.Gallery(references, identity.calibrate_none(known, unknown))
        found = {name: identity.nearest_identity(rows[1::2], gallery) for name, rows in table["test"].items()}
        report |= {
            f"threshold_{word}": gallery.threshold,
            f"right_{word}": identity.bootstrap_interval([float(m.name == n) for n, ms in found.items() for m in ms]),
            f"refused_{word}": identity.bootstrap_interval(
                (torch.cat([rows[1::2] for rows in strangers]) < gallery.threshold).float()
            ),
        }
    return gallery, report


def show(kind: str, view: str, report: dict) -> list[str]:
    """Cells of one line of docs/evidence/world.md."""

    def share(key: str) -> str:
        mean, low, high = report[key]
        return f"{mean:.0%} [{low:.0%}, {high:.0%}]"

    return [
        kind,
        view,
        share("nearest"),
        f"{report['chance']:.0%} of {report['identities']}",
        share("right_crowd"),
        share("refused_crowd"),
        share("right_alike"),
        share("refused_alike"),
        f"{report['similarity']:.2f}",
        f"{report['threshold_crowd']:.2f}, {report['threshold_alike']:.2f}",
        str(report["count"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    wanted = parser.parse_args().kind
    torch.set_num_threads(1)
    net = evaluator.load_evaluator()
    for kind in (wanted,) if wanted else KINDS:
        for view in VIEWS:
            report = build_kind_gallery(kind, view, net)[1]
            print("| " + " | ".join(show(kind, view, report)) + " |", flush=True)


if __name__ == "__main__":
    main()
