"""Progress bar, line of words with the time left, preview picture and cancel for long work inside a node."""

from __future__ import annotations

import time
from collections.abc import Mapping

import comfy.model_management
import comfy.utils
from PIL import Image

from .show import show_progress

PREVIEW_SIDE = 512  # pixels of the longer side that the front end receives
TOLD_EVERY = 0.25  # seconds between two lines of words


def clock(seconds: float) -> str:
    """1:05, or 2:01:05 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """How long what is left will take, from how long every sort of work took so far.

    work: units of every sort that are to be done. A sort is unknown until one unit of it was timed.
    """

    def __init__(self, work: Mapping[str, int]) -> None:
        self._left = dict(work)
        self._took: dict[str, tuple[float, int]] = {}  # seconds and units
        self._since = time.monotonic()

    def count(self, sort: str, units: int, timed: bool = True) -> None:
        """`units` more are done; not timed: they were found done, or the time went into something else."""
        now = time.monotonic()
        if timed and units > 0:
            seconds, done = self._took.get(sort, (0.0, 0))
            self._took[sort] = seconds + now - self._since, done + units
        self._since = now
        self._left[sort] = max(0, self._left.get(sort, 0) - units)

    def each(self, sort: str = "") -> float:
        """Seconds that one unit takes; 0 while that is unknown."""
        seconds, done = self._took.get(sort, (0.0, 0))
        return seconds / done if done else 0.0

    def told(self) -> str:
        """`1:20 left`, with `, then solving` where a sort was not timed yet; empty when nothing is known or left."""
        left = {sort: units for sort, units in self._left.items() if units}
        unknown = [sort for sort in left if sort not in self._took]
        if len(unknown) == len(left):
            return ""
        seconds = sum(units * self.each(sort) for sort, units in left.items())
        return f"{clock(seconds)} left" + "".join(f", then {sort}" for sort in unknown if sort)


class Progress:
    """The bar of the node that is running now; call `step` at least once per unit of work.

    total: number of units. node_id: only for work that runs outside its own node. begun: units that were done before.
    work: units by sort, where some take longer than others; all of one sort without it.
    """

    def __init__(
        self, total: int, node_id: str | None = None, begun: int = 0, work: Mapping[str, int] | None = None
    ) -> None:
        if total < 1:
            raise ValueError(f"progress needs at least one step, got total={total}")
        self.total = total
        self.pace = Pace(work or {"": total - begun})
        self._done, self._told, self._node = begun, 0.0, node_id
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)

    def step(
        self, done: int, preview: Image.Image | None = None, words: str = "", sort: str = "", timed: bool = True
    ) -> None:
        """Shows `done` of `total` units, with a picture and words if given, the time left behind the words.

        Raises the host's interrupt if the user cancelled, which is not an Exception in newer hosts: clean up with
        try/finally. sort, timed: as Pace takes them.
        """
        self.pace.count(sort, done - self._done, timed)
        self._done = done
        picture = None if preview is None else ("JPEG", preview.convert("RGB"), PREVIEW_SIDE)
        self._bar.update_absolute(min(done, self.total), self.total, picture)
        now = time.monotonic()
        if words and (now - self._told >= TOLD_EVERY or done >= self.total):
            self._told = now
            show_progress(", ".join(filter(None, (words, self.pace.told()))), self._node)
        self.check_cancelled()

    @staticmethod
    def check_cancelled() -> None:
        """The bar's own check is throttled by the host, so ask on every call."""
        comfy.model_management.throw_exception_if_processing_interrupted()


class Steps:
    """A bar for conversions, which learn how many layers there are when they have begun: called with (done, total).

    words: what the units are, for the line on the node.
    """

    def __init__(self, words: str = "layers read") -> None:
        self._words = words
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None or self._bar.total != total:
            self._bar = Progress(max(total, 1))
        self._bar.step(done, words=f"{self._words}: {done} of {total}")
