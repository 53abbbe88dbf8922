"""Progress bar, preview picture, cancel and words for what runs inside a node."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import comfy.model_management
import comfy.utils
from comfy_execution.utils import get_executing_context
from PIL import Image

PREVIEW_SIDE = 512  # pixels of the longer side that the front end receives

SPEAKER = "Mix-of-Show: "  # whose words these are, on a node that is not ours


def running_node() -> tuple | None:
    """Which node of which prompt runs now (and which piece of its list); None outside a server."""
    found = get_executing_context()
    return None if found is None else tuple(found)


def show_on_node(lines: Sequence[str]) -> None:
    """Show words on the node that runs now, in place of earlier ones; nothing happens where no server shows nodes."""
    context = get_executing_context()
    server = getattr(sys.modules.get("server"), "PromptServer", None)  # never imported by us: it brings a web server
    instance = getattr(server, "instance", None)
    if context is not None and instance is not None:
        instance.send_progress_text(SPEAKER + "\n".join(lines), context.node_id)


class Progress:
    """The bar of the node that is running now; call `step` at least once per unit of work.

    total: number of units. node_id: only for work that runs outside its own node.
    """

    def __init__(self, total: int, node_id: str | None = None) -> None:
        if total < 1:
            raise ValueError(f"progress needs at least one step, got total={total}")
        self.total = total
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)

    def step(self, done: int, preview: Image.Image | None = None) -> None:
        """Shows `done` of `total` units, with a picture if given; raises the host's interrupt if the user cancelled.

        The interrupt is not an Exception in newer hosts: clean up with try/finally.
        """
        picture = None if preview is None else ("JPEG", preview.convert("RGB"), PREVIEW_SIDE)
        self._bar.update_absolute(min(done, self.total), self.total, picture)
        self.check_cancelled()

    @staticmethod
    def check_cancelled() -> None:
        """The bar's own check is throttled by the host, so ask on every call."""
        comfy.model_management.throw_exception_if_processing_interrupted()


class Steps:
    """A bar for conversions, which learn how many layers there are when they have begun: called with (done, total)."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None or self._bar.total != total:
            self._bar = Progress(max(total, 1))
        self._bar.step(done)
