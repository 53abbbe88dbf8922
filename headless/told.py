"""What a command says: lines and a bar for a person, or one JSON object a line for a program (--json)."""

from __future__ import annotations

import json
import logging
import sys
import time

EVERY = 1.0  # seconds between two lines of progress


class Teller:
    """Writes results to stdout; bars go to stderr, and only where somebody looks on."""

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        """quiet: says nothing, for work whose answer is told elsewhere."""
        self._json, self._quiet = as_json, quiet
        self._bar, self._last = None, 0.0

    def say(self, event: str, text: str = "", **facts: object) -> None:
        """One thing that happened. event: note, result, refused, failed; facts are JSON-able."""
        self.close_bar()
        if self._quiet:
            return
        if self._json:
            known = {"time": round(time.time(), 3), "event": event, "text": text} | facts
            sys.stdout.write(json.dumps(known) + "\n")
        elif text:
            (sys.stderr if event in ("refused", "failed") else sys.stdout).write(text + "\n")
        sys.stdout.flush()

    def progress(self, done: int, total: int) -> None:
        """Called very often; told once a second."""
        if self._json:
            if time.monotonic() - self._last >= EVERY or done >= total:
                self._last = time.monotonic()
                self.say("progress", done=done, total=total)
        elif sys.stderr.isatty() and not self._quiet:
            if self._bar is None or self._bar.total != total or done < self._bar.n:
                from tqdm import tqdm  # ComfyUI requires it; the commands that need no ComfyUI do without

                self.close_bar()
                self._bar = tqdm(total=total, leave=False, file=sys.stderr)
            self._bar.update(done - self._bar.n)

    def close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def listen(self) -> None:
        """What the pack logs becomes lines too: everything with --json, else warnings alone."""
        handler = _Lines(self)
        handler.setLevel(logging.INFO if self._json else logging.WARNING)
        log = logging.getLogger("mixofshow")
        log.addHandler(handler)
        log.propagate = False
        log.setLevel(logging.INFO)


class _Lines(logging.Handler):
    def __init__(self, teller: Teller) -> None:
        super().__init__()
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        self._teller.say("log", record.getMessage(), level=record.levelname)
