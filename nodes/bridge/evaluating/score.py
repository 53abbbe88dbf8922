"""Pictures against references and texts: per picture, per group, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....mixofshow_core.errors import MixOfShowError
from ....mixofshow_core.metrics.alignment import image_alignment, kernel_distance, text_alignment
from ....mixofshow_core.metrics.comparison import KINDS, Cell, mentions, read_table, with_class_words
from ....mixofshow_core.metrics.drawing import Bar, Panel
from ....mixofshow_core.metrics.identity import Gallery, bootstrap_interval, nearest_identity
from ....mixofshow_core.training.dataset import TrainingSet
from ..host.progress import Progress
from .evaluators import Evaluator

ANY = ""  # the name of references that came without one
EVERYTHING = "all pictures"


@dataclass(frozen=True)
class Shown:
    """What one picture is: its group (a column of Compare), the prompt, its text for scoring, and who is in it."""

    group: str
    kind: str
    prompt: str
    text: str
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class References:
    """IMAGE per name, each [M, H, W, 3], and the class word that stands for a name in texts."""

    pictures: Mapping[str, tuple[Tensor, ...]]
    classes: Mapping[str, str]


def collect_references(images: Sequence[Tensor], dataset: TrainingSet | None) -> References:
    """images: batches of any sizes."""
    if images and dataset is not None:
        raise MixOfShowError("Score: connect `references` or `dataset`, not both.")
    if dataset is not None:
        pictures = {
            concept.name: tuple(torch.from_numpy(p.pixels.copy()).float()[None] / 255 for p in concept.pictures)
            for concept in dataset.concepts
        }
        return References(pictures, {concept.name: concept.class_word for concept in dataset.concepts})
    return References({ANY: tuple(one for batch in images for one in batch.split(1))} if images else {}, {})


def describe_pictures(texts: str, count: int, references: References) -> tuple[Shown, ...]:
    """What each of ``count`` pictures is, from Compare's table or from lines (none, one for all, or one each)."""
    cells = read_table(texts)
    if cells is not None:
        if len(cells) != count:
            raise MixOfShowError(
                f"Score: the table in `texts` lists {len(cells)} pictures, `images` holds {count}. Connect `pictures` "
                "and `table` of the same Compare."
            )
        return tuple(Shown(c.column, c.kind, c.prompt, c.text, _names(c, references)) for c in cells)
    lines = [line.strip() for line in texts.splitlines() if line.strip()] or [""]
    if len(lines) not in (1, count):
        raise MixOfShowError(f"Score: `texts` has {len(lines)} lines for {count} pictures; write one each or one.")
    known = list(references.pictures)
    shown = []
    for line in lines * (count if len(lines) == 1 else 1):
        names = tuple(known) if len(known) == 1 else tuple(name for name in known if mentions(line, name))
        shown.append(Shown(EVERYTHING, "", line, with_class_words(line, references.classes), names))
    return tuple(shown)


def _names(cell: Cell, references: References) -> tuple[str, ...]:
    if ANY in references.pictures:
        return (ANY,)
    return tuple(name for name in references.pictures if mentions(cell.prompt, name))


def _features(evaluator: Evaluator, batches: Sequence[Tensor], progress: Progress, done: int) -> Tensor:
    found = []
    for batch in batches:
        found.append(evaluator.features(batch, progress, done))
        done += len(batch)
    return torch.cat(found)


def score(
    pictures: Sequence[Tensor],
    shown: Sequence[Shown],
    references: References,
    seer: Evaluator,
    reader: Evaluator | None,
) -> dict:
    """JSON-able scores. pictures: batches of any sizes; seer: for likeness; reader: for texts, or None."""
    texts = [what.text for what in shown]
    reader = reader if reader is not None and reader.read is not None and any(texts) else None
    count = sum(map(len, pictures))
    total = count * (1 + (reader is not None and reader is not seer))
    total += sum(len(rows) for rows in references.pictures.values())
    progress, done = Progress(total), count
    features = _features(seer, pictures, progress, 0)
    known = {}
    for name, rows in references.pictures.items():
        found = []
        for row in rows:  # a data set's pictures differ in size
            found.append(seer.features(row, progress, done))
            done += 1
        known[name] = torch.cat(found)
    rows = [
        {
            "picture": n,
            "group": what.group,
            "kind": what.kind,
            "prompt": what.prompt,
            "text": what.text,
            "names": list(what.names),
            "identity": None,
            "nearest": None,
            "text_match": None,
        }
        for n, what in enumerate(shown)
    ]
    gallery = Gallery(known) if len(known) > 1 else None
    for n, what in enumerate(shown):
        if len(what.names) == 1:
            rows[n]["identity"] = float(image_alignment(features[n : n + 1], known[what.names[0]])[0])
            if gallery is not None:
                rows[n]["nearest"] = nearest_identity(features[n : n + 1], gallery)[0].nearest
    if reader is not None:
        seen = features if reader is seer else _features(reader, pictures, progress, done)
        found = text_alignment(seen, reader.read(texts))
        for n, text in enumerate(texts):
            rows[n]["text_match"] = float(found[n]) if text else None
    groups = []
    order = {row["group"]: KINDS.index(row["kind"]) if row["kind"] in KINDS else 0 for row in rows}
    for title in sorted(order, key=order.get):
        own = [row for row in rows if row["group"] == title]
        group = {"group": title, "kind": own[0]["kind"], "pictures": len(own)}
        for key in ("identity", "text_match"):
            group[key] = _interval([row[key] for row in own])
        group["nearest_is_right"] = _interval(
            [None if row["nearest"] is None else row["nearest"] == row["names"][0] for row in own]
        )
        group["kernel_distance"] = _distances(own, features, known)
        groups.append(group)
    return {
        "table": "mixofshow.scores",
        "version": 1,
        "evaluator": seer.title,
        "text_evaluator": None if reader is None else reader.title,
        "references": {name or "references": len(rows) for name, rows in references.pictures.items()},
        "groups": groups,
        "pictures": rows,
    }


def _interval(values: Sequence[float | None]) -> dict | None:
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    mean, low, high = bootstrap_interval(known)
    return {"mean": mean, "low": low, "high": high, "n": len(known)}


def _distances(rows: Sequence[dict], features: Tensor, known: Mapping[str, Tensor]) -> dict[str, float]:
    """Kernel distance to each name's references of the pictures that show that name alone."""
    found = {}
    for name, references in known.items():
        own = [row["picture"] for row in rows if row["names"] == [name]]
        if len(own) > 1 and len(references) > 1:
            found[name or "references"] = kernel_distance(features[own], references)
    return found


def panels_of(scores: Mapping) -> tuple[Panel, ...]:
    """What is drawn: one panel per sort of score that was measured."""
    titles = {
        "identity": ("Like the references", "mean over all references of max(cosine, 0)"),
        "nearest_is_right": ("The nearest concept is the named one", "share of pictures"),
        "text_match": ("Fits the text", "cosine of picture and text"),
    }
    panels = []
    for key, (title, unit) in titles.items():
        bars = []
        for group in scores["groups"]:
            if group[key] is None:
                continue
            own = [row for row in scores["pictures"] if row["group"] == group["group"]]
            values = [
                row["nearest"] == row["names"][0] if key == "nearest_is_right" else row[key]
                for row in own
                if row["nearest" if key == "nearest_is_right" else key] is not None
            ]
            interval = tuple(group[key][part] for part in ("mean", "low", "high"))
            bars.append(Bar(group["group"], group["kind"], [float(value) for value in values], interval))
        if bars:
            lowest = min(min(bar.values) for bar in bars)
            panels.append(Panel(title, unit, bars, low=0.0 if lowest >= 0 else -1.0))
    return tuple(panels)


def describe_scores(scores: Mapping) -> str:
    """A report for people: one line per group."""
    counts = ", ".join(f"{name} {count}" for name, count in scores["references"].items()) or "none"
    lines = [f"evaluator: {scores['evaluator']}", f"references: {counts}"]
    if scores["text_evaluator"]:
        lines.append(f"texts read by: {scores['text_evaluator']}")
    for group in scores["groups"]:
        parts = [
            f"{title} {found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}] (n = {found['n']})"
            for title, key in (
                ("identity", "identity"),
                ("nearest is right", "nearest_is_right"),
                ("text", "text_match"),
            )
            if (found := group[key]) is not None
        ]
        parts += [f"kernel distance to {name} {value:.4f}" for name, value in group["kernel_distance"].items()]
        lines.append(f"{group['group']} ({group['pictures']} pictures): {'; '.join(parts) or 'nothing to score'}")
    left = sum(row["identity"] is None for row in scores["pictures"])
    if left and scores["references"]:
        lines.append(f"{left} pictures name several concepts or none: they have no identity score")
    lines.append("Intervals: 95 %, bootstrap over pictures. They say nothing about other trainings or other concepts.")
    return "\n".join(lines)
