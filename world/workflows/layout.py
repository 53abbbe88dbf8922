"""Where the nodes of a workflow stand: in rows of columns, so that none covers another and the whole fits a screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .graphs import Step

GAP = 40
TITLE = 30  # a node's title bar stands above its place
ORIGIN = (40, 80)

# (width, height) with room for what a node shows after a run: its words, its picture. The front end enlarges a node
# that is too small for its widgets, over its neighbour; tests/browser/test_templates.py sees that.
SIZES = {
    "CLIPTextEncode": (360, 140),
    "CheckpointLoaderSimple": (360, 120),
    "EmptyLatentImage": (330, 120),
    "ImageCompositeMasked": (300, 190),
    "ImageCrop": (300, 170),
    "ImageScale": (300, 170),
    "ImageScaleBy": (300, 110),
    "KSampler": (330, 270),
    "MarkdownNote": (360, 420),
    "PreviewImage": (330, 320),
    "SaveImage": (400, 440),
    "VAEDecode": (220, 60),
    "VAEEncode": (300, 60),
    "MixOfShowCast": (460, 620),
    "MixOfShowCompare": (700, 1300),
    "MixOfShowControlImage": (300, 120),
    "MixOfShowCoverage": (420, 420),
    "MixOfShowDataset": (330, 560),
    "MixOfShowDemoControl": (300, 60),
    "MixOfShowDemoModel": (360, 100),
    "MixOfShowFuse": (330, 460),
    "MixOfShowFusionSettings": (330, 640),
    "MixOfShowLoadConcept": (330, 460),
    "MixOfShowPickRegion": (300, 480),
    "MixOfShowPlace": (330, 350),
    "MixOfShowRegionControl": (340, 240),
    "MixOfShowRegions": (780, 760),
    "MixOfShowScore": (360, 460),
    "MixOfShowTrain": (330, 840),
    "MixOfShowTrainSettings": (330, 1060),
}


def size_of(step: Step) -> tuple[int, int]:
    return step.size or SIZES[step.type]


def arrange(steps: Mapping[str, Step], *rows: Iterable[str]) -> dict[str, Step]:
    """``steps`` with their places. A row is columns from left to right, a column is names from top to bottom, as in
    ``arrange(steps, ("story base", "pictures", "train"), ("regions", "place sample"))``. KeyError names a step that
    stands nowhere."""
    placed: dict[str, Step] = {}
    top = ORIGIN[1]
    for row in rows:
        left, bottom = ORIGIN[0], top
        for column in row:
            y, wide = top, 0
            for name in column.split():
                width, height = size_of(steps[name])
                placed[name] = replace(steps[name], pos=(left, y), size=(width, height))
                y, wide = y + height + TITLE + GAP, max(wide, width)
            left, bottom = left + wide + GAP, max(bottom, y)
        top = bottom
    if missing := set(steps) - set(placed):
        raise KeyError(f"no place for {sorted(missing)}")
    return {name: placed[name] for name in steps}
