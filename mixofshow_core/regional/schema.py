"""Regions as one versioned JSON string, and the frozen types it is parsed into.

Shapes are fractions of the canvas (x to the right, y down), so that a drawing fits any size. Parsing is strict:
unknown fields, wrong types, non-finite numbers, regions outside the canvas are errors that say where and what to do.
The format is documented in docs/formats.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields

from ..errors import MixOfShowError, short

VERSION = 1
MAX_BYTES = 262_144
MAX_REGIONS = 64
MAX_POINTS = 256
MAX_GRID = 4096
MIN_SIDE, MAX_SIDE = 64, 8_192
MAX_PIXELS = 2**28  # of all masks together: 16 regions on 4096 x 4096
MAX_TEXT, MAX_NAME = 4_000, 100
OVERLAPS = ("average", "priority")
EDGES = ("soft", "paper")
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
FAR = 4.0  # shapes may stick out of the canvas by this many canvases; more is taken for pixels


def _number(what: str, value: object, low: float, high: float, hint: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MixOfShowError(f"{what} is {short(value)}; a number is needed.")
    if not low <= value <= high:  # also catches NaN
        raise MixOfShowError(f"{what} is {short(value)}; it must lie between {low:g} and {high:g}.{hint}")
    return float(value)


def _whole(what: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MixOfShowError(f"{what} is {short(value)}; a whole number is needed.")
    if not low <= value <= high:
        raise MixOfShowError(f"{what} is {short(value)}; it must lie between {low} and {high}.")
    return value


def _text(what: str, value: object, limit: int) -> None:
    if not isinstance(value, str):
        raise MixOfShowError(f"{what} is {short(value)}; a text is needed.")
    if len(value) > limit:
        raise MixOfShowError(f"{what} has {len(value)} characters; at most {limit} are accepted.")


def _choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise MixOfShowError(f"{what} is {short(value)}; use one of {', '.join(choices)}.")


def _ui(value: object) -> None:
    if not isinstance(value, dict) or len(value) > 16:
        raise MixOfShowError("ui must be an object with at most 16 entries.")
    for entry in value.values():
        if not isinstance(entry, (str, int, float)) or (isinstance(entry, str) and len(entry) > MAX_NAME):
            raise MixOfShowError(f"ui holds {short(entry)}; only short texts, numbers and booleans are accepted.")
        if isinstance(entry, float) and not math.isfinite(entry):
            raise MixOfShowError(f"ui holds {short(entry)}; only finite numbers are accepted.")


def _visible(left: float, top: float, right: float, bottom: float) -> None:
    if left >= 1 or top >= 1 or right <= 0 or bottom <= 0:
        raise MixOfShowError(
            f"the shape lies outside the canvas (x {left:g} to {right:g}, y {top:g} to {bottom:g}; "
            f"the canvas is 0 to 1). Move it back."
        )


@dataclass(frozen=True)
class Box:
    """A bounding box in fractions of the canvas; what sticks out of the canvas is cut off."""

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        hint = " Shapes are fractions of the canvas, not pixels."
        for name, low, high in (("x", -FAR, 1 + FAR), ("y", -FAR, 1 + FAR), ("width", 0, 9), ("height", 0, 9)):
            object.__setattr__(self, name, _number(name, getattr(self, name), low, high, hint))
        if self.width == 0 or self.height == 0:
            raise MixOfShowError(f"the shape is {self.width:g} x {self.height:g}; it has no area.")
        _visible(self.x, self.y, self.x + self.width, self.y + self.height)


@dataclass(frozen=True)
class Rectangle(Box):
    """An axis-parallel rectangle."""


@dataclass(frozen=True)
class Ellipse(Box):
    """The ellipse that touches all four sides of its bounding box."""


@dataclass(frozen=True)
class Polygon:
    """A closed polygon, filled by the even-odd rule; ``points`` are (x, y) fractions."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not isinstance(self.points, (list, tuple)) or not 3 <= len(self.points) <= MAX_POINTS:
            raise MixOfShowError(f"points must be a list of 3 to {MAX_POINTS} pairs [x, y].")
        checked = []
        for n, point in enumerate(self.points, 1):
            if not isinstance(point, (list, tuple)) or len(point) != 2:
                raise MixOfShowError(f"point {n} is {short(point)}; a pair [x, y] is needed.")
            checked.append(tuple(_number(f"point {n}", value, -FAR, 1 + FAR) for value in point))
        object.__setattr__(self, "points", tuple(checked))
        xs, ys = zip(*checked, strict=True)
        if min(xs) == max(xs) or min(ys) == max(ys):
            raise MixOfShowError("the polygon has no area; move one of its points.")
        _visible(min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True)
class Bitmask:
    """A brushed area: ``runs`` count cells off, on, off, ... row by row on a grid of width x height cells."""

    width: int
    height: int
    runs: tuple[int, ...]

    def __post_init__(self) -> None:
        _whole("mask width", self.width, 1, MAX_GRID)
        _whole("mask height", self.height, 1, MAX_GRID)
        cells = self.width * self.height
        if not isinstance(self.runs, (list, tuple)):
            raise MixOfShowError(f"runs is {short(self.runs)}; a list of whole numbers is needed.")
        object.__setattr__(self, "runs", tuple(_whole(f"run {n}", run, 0, cells) for n, run in enumerate(self.runs, 1)))
        if sum(self.runs) != cells:
            raise MixOfShowError(f"the runs add up to {sum(self.runs)}, but the mask has {cells} cells.")
        if not any(self.runs[1::2]):
            raise MixOfShowError("the mask is empty; paint something or delete the region.")


@dataclass(frozen=True)
class InputMask:
    """The mask number ``index`` (from 0) of the batch that arrives at the node's `masks` input."""

    index: int

    def __post_init__(self) -> None:
        _whole("index", self.index, 0, MAX_REGIONS - 1)


Shape = Rectangle | Ellipse | Polygon | Bitmask | InputMask
SHAPES = {"rect": Rectangle, "ellipse": Ellipse, "polygon": Polygon, "mask": Bitmask, "input": InputMask}
SHAPE_NAMES = {kind: name for name, kind in SHAPES.items()}


@dataclass(frozen=True)
class Region:
    """One area and what belongs there.

    ``strength`` is the share (0..1) of the region's text against the background text; ``weight`` is its share
    against other regions where they overlap; ``feather`` is the width of the soft edge as a fraction of the shorter
    side; ``start`` and ``end`` are fractions of the sampling schedule; ``control`` is its weight for control images;
    ``ui`` belongs to the editor and changes no picture; what is not ``enabled`` is as if it had not been drawn.
    """

    id: str
    shape: Shape
    name: str = ""
    prompt: str = ""
    negative: str = ""
    concept: str = ""
    strength: float = 1.0
    feather: float = 0.0
    start: float = 0.0
    end: float = 1.0
    weight: float = 1.0
    control: float = 1.0
    ui: dict = field(default_factory=dict)
    enabled: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not IDENTIFIER.fullmatch(self.id):
            raise MixOfShowError(f"id is {short(self.id)}; 1 to 64 letters, digits, - or _ are needed.")
        for name, limit in (("name", MAX_NAME), ("prompt", MAX_TEXT), ("negative", MAX_TEXT), ("concept", MAX_NAME)):
            _text(name, getattr(self, name), limit)
        limits = {"strength": 1, "feather": 0.5, "start": 1, "end": 1, "weight": 100, "control": 10}
        for name, high in limits.items():
            object.__setattr__(self, name, _number(name, getattr(self, name), 0, high))
        if self.start >= self.end:
            raise MixOfShowError(f"start is {self.start:g} and end is {self.end:g}; start must come first.")
        if self.weight == 0:
            raise MixOfShowError('weight is 0; set "enabled": false to switch a region off.')
        _ui(self.ui)
        if not isinstance(self.enabled, bool):
            raise MixOfShowError(f"enabled is {short(self.enabled)}; true or false is needed.")
        if not self.name:
            object.__setattr__(self, "name", self.id)

    @property
    def claims(self) -> bool:
        """Whether it takes its place from the background: without prompt and concept nothing is said to be there."""
        return self.enabled and bool(self.prompt.strip() or self.concept.strip())


@dataclass(frozen=True)
class Background:
    """What lies under the regions: Place's prompt, with a concept (a scene) if one is named."""

    concept: str = ""
    ui: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        _text("concept", self.concept, MAX_NAME)
        _ui(self.ui)


@dataclass(frozen=True)
class RegionSet:
    """All regions of one canvas of ``width`` x ``height`` pixels; later regions lie on top of earlier ones.

    ``overlap``: "average" shares a pixel by weight (the paper), "priority" gives it to the topmost region.
    ``edges``: "soft" uses partial cover of a token, "paper" takes a token only when it is wholly covered.
    ``suffix`` is put behind every region's prompt.
    """

    width: int
    height: int
    regions: tuple[Region, ...]
    overlap: str = "average"
    edges: str = "soft"
    suffix: str = ""
    background: Background = Background()

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            _whole(name, getattr(self, name), MIN_SIDE, MAX_SIDE)
        if len(self.regions) > MAX_REGIONS:
            raise MixOfShowError(f"there are {len(self.regions)} regions; at most {MAX_REGIONS} are accepted.")
        if self.width * self.height * len(self.regions) > MAX_PIXELS:
            raise MixOfShowError(
                f"{len(self.regions)} regions on {self.width} x {self.height} pixels are too much memory; draw them on "
                f"a smaller canvas of the same proportions, shapes are fractions anyway."
            )
        _choice("overlap", self.overlap, OVERLAPS)
        _choice("edges", self.edges, EDGES)
        _text("suffix", self.suffix, MAX_TEXT)
        _unique("id", (region.id for region in self.regions))
        _unique("name", (region.name.lower() for region in self.regions))


def _unique(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise MixOfShowError(f"two regions have the {what} {value!r}; rename one of them.")
        seen.add(value)


def _build(kind: type, value: object, where: str):
    if not isinstance(value, dict):
        raise MixOfShowError(f"{where} is {short(value)}; an object is needed.")
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise MixOfShowError(f"{where} has the unknown field {short(unknown[0])}; known are {', '.join(known)}.")
    missing = [
        name for name, f in known.items() if name not in value and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise MixOfShowError(f"{where} lacks the field {missing[0]!r}.")
    try:
        return kind(**value)
    except MixOfShowError as error:
        raise MixOfShowError(f"{where}: {error}") from None


def _parse_region(value: object, number: int) -> Region:
    where = f"region {number}"
    if isinstance(value, dict):
        label = value.get("name") or value.get("id")
        where += f" ({short(label)})" if isinstance(label, str) else ""
        shape = value.get("shape")
        if isinstance(shape, dict):
            kind = shape.get("type")
            if not isinstance(kind, str) or kind not in SHAPES:
                raise MixOfShowError(f"{where}: shape type is {short(kind)}; use one of {', '.join(SHAPES)}.")
            rest = {key: entry for key, entry in shape.items() if key != "type"}
            value = value | {"shape": _build(SHAPES[kind], rest, f"{where}, shape")}
        elif "shape" in value:
            raise MixOfShowError(f"{where}: shape is {short(shape)}; an object with a type is needed.")
    return _build(Region, value, where)


def _reject_constant(text: str) -> None:
    raise MixOfShowError(f"a number is {text}; only finite numbers are accepted.")


def _object_without_repeats(pairs: list[tuple[str, object]]) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MixOfShowError(f"an object names a field twice; its fields are {short([key for key, _ in pairs])}.")
    return result


def _load(text: str) -> dict:
    if not isinstance(text, str):
        raise MixOfShowError(f"a {type(text).__name__} arrived; a JSON text is needed.")
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_BYTES:
        raise MixOfShowError(f"the text has {size} bytes; at most {MAX_BYTES} are accepted. Use fewer brush strokes.")
    try:
        document = json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_object_without_repeats)
    except RecursionError:
        raise MixOfShowError("the JSON is nested too deeply.") from None
    except ValueError as error:
        raise MixOfShowError(f"this is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise MixOfShowError(f"the JSON is {short(document)}; an object is needed.")
    return document


def parse_regions(text: str, width: int | None = None, height: int | None = None) -> RegionSet:
    """Read a region document; ``width`` and ``height`` (pixels) win over the size written in it.

    Raises MixOfShowError that starts with "Regions:" and names the region, the field and the remedy.
    """
    try:
        document = _load(text)
        version = document.pop("version", None)
        if version is True or version != VERSION:
            raise MixOfShowError(
                f"version is {short(version)}; this pack reads version {VERSION}. Update the pack or edit the JSON."
            )
        entries = document.get("regions", [])
        if not isinstance(entries, list):
            raise MixOfShowError(f"regions is {short(entries)}; a list is needed.")
        if len(entries) > MAX_REGIONS:
            raise MixOfShowError(f"there are {len(entries)} regions; at most {MAX_REGIONS} are accepted.")
        document["regions"] = tuple(_parse_region(entry, n) for n, entry in enumerate(entries, 1))
        if "background" in document:
            document["background"] = _build(Background, document["background"], "background")
        for name, value in (("width", width), ("height", height)):
            if value is not None:
                document[name] = value
        return _build(RegionSet, document, "the document")
    except MixOfShowError as error:
        raise MixOfShowError(f"Regions: {error}") from None


def dump_regions(regions: RegionSet) -> str:
    """The canonical JSON text of ``regions``: fixed field order, every field written."""
    document = {"version": VERSION, **asdict(regions)}
    for entry, region in zip(document["regions"], regions.regions, strict=True):
        entry["shape"] = {"type": SHAPE_NAMES[type(region.shape)], **asdict(region.shape)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
