"""Nearest identity for characters, objects, scenes and styles: `python -m world.evaluator_kinds [--kind KIND]`.

References are a concept's ten training pictures and half of every look-alike's. "none" is calibrated on every second
held-out picture and reported on the others. The strangers are look-alikes, left out of the gallery one at a time: the
hardest strangers that there are. Both views are reported; generated pictures are to be judged by "soft".
"""
from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
from PIL import Image

from . import evaluator
from .evaluator import CACHE, IDENTITIES, WEIGHTS

CONCEPTS = evaluator.ROOT / "world" / "concepts"
KINDS = ("character", "object", "scene", "style")
VIEWS = {"sharp": list, "soft": evaluator.see_through_base}


def picture_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.png")) if not path.name.endswith(".mask.png")]


def list_files(kind: str) -> dict[str, dict[str, list[Path]]]:
    """part -> name -> files. Parts: "train" and "test" of the concepts, "alike" of the look-alikes."""
    concepts = sorted(f for f in (CONCEPTS / kind).iterdir() if f.is_dir())
    others = IDENTITIES if kind == "character" else CONCEPTS / "lookalikes" / kind
    names = {f.name for f in concepts}
    return {
        "train": {f.name: picture_files(f / "train") for f in concepts},
        "test": {f.name: picture_files(f / "test") for f in concepts},
        "alike": {f.name: picture_files(f) for f in sorted(others.iterdir()) if f.is_dir() and f.name not in names},
    }


def load_features(kind: str, view: str, net: torch.nn.Module | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """Features of `list_files`, from the cache where pictures, and for "soft" the base's weights, are unchanged."""
    files = list_files(kind)
    every = [path for part in files.values() for paths in part.values() for path in paths]
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in every))
    if view == "soft":
        stamp.update(WEIGHTS.read_bytes())
    cache = CACHE / f"{kind}_{view}.pt"
    if cache.exists():
        saved = torch.load(cache, weights_only=True)
        if saved["stamp"] == stamp.hexdigest():
            return saved["features"]
    pictures = [Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.LANCZOS) for path in every]
    rows = iter(evaluator.features(net or evaluator.load_evaluator(), VIEWS[view](pictures)))
    table = {part: {name: torch.stack([next(rows) for _ in paths]) for name, paths in names.items()}
             for part, names in files.items()}
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
    own = {name: identity.similarities(rows, gallery)[:, gallery.names.index(name)]
           for name, rows in table["test"].items()}
    strangers = [identity.similarities(second, identity.Gallery({n: r for n, r in references.items() if n != name}))
                 .max(1).values for name, (_, second) in alike.items()]
    calibrate, report = ([torch.cat([rows[i::2] for rows in rows_of]) for rows_of in (own.values(), strangers)]
                         for i in (0, 1))
    gallery = identity.Gallery(references, identity.calibrate_none(*calibrate))
    found = {name: identity.nearest_identity(rows[1::2], gallery) for name, rows in table["test"].items()}
    every = {name: identity.nearest_identity(rows, gallery) for name, rows in table["test"].items()}
    return gallery, {
        "identities": len(references), "chance": 1 / len(references), "threshold": gallery.threshold,
        "nearest": identity.bootstrap_interval([float(m.nearest == n) for n, ms in every.items() for m in ms]),
        "right": identity.bootstrap_interval([float(m.name == n) for n, ms in found.items() for m in ms]),
        "refused": identity.bootstrap_interval((report[1] < gallery.threshold).float()),
        "similarity": float(torch.cat(list(own.values())).mean()), "count": sum(map(len, every.values())),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    wanted = parser.parse_args().kind
    torch.set_num_threads(1)
    net = evaluator.load_evaluator()
    for kind in (wanted,) if wanted else KINDS:
        for view in VIEWS:
            report = build_kind_gallery(kind, view, net)[1]
            shares = [f"{key} {mean:.0%} [{low:.0%}, {high:.0%}]" for key, (mean, low, high) in
                      ((key, report[key]) for key in ("nearest", "right", "refused"))]
            print(f"  {kind:9} {view:5} {'  '.join(shares)}  similarity {report['similarity']:.2f}  threshold "
                  f"{report['threshold']:.2f}  chance {report['chance']:.0%} of {report['identities']}  "
                  f"(n = {report['count']})", flush=True)


if __name__ == "__main__":
    main()
