"""Progress bar, preview picture and cancel for long work inside a node."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from PIL import Image

PREVIEW_SIDE = 512  # pixels of the longer side that the front end receives


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
