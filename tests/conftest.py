"""Makes the pack importable as `mos_pack`, helpers as `mos_tests`, `mos_world`, `mos_benchmarks`: sys.path stays.

The repository root must never be on sys.path: `import nodes` would then find our nodes/ instead of the host's nodes.py.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1" if (os.cpu_count() or 1) < 4 else "2")


def _alias(name: str, folder: Path) -> None:
    if name not in sys.modules:
        module = ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module


_alias("mos_pack", ROOT)
_alias("mos_tests", ROOT / "tests")
_alias("mos_world", ROOT / "world")
_alias("mos_benchmarks", ROOT / "benchmarks")
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.fixture
def command_line(monkeypatch, capsys):
    """command_line(word, ...) -> (exit code, stdout, stderr) of cli.py in this process, which stays as it was."""
    from mos_pack import cli

    monkeypatch.setattr(cli, "PACK", "mos_pack")  # as the tests call it: one copy of every module
    log = logging.getLogger("mixofshow")

    def run(*words: object) -> tuple[int, str, str]:
        kept, handler = (log.handlers[:], log.propagate, log.level), signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        finally:
            log.handlers[:], log.propagate, log.level = kept
            signal.signal(signal.SIGTERM, handler)
        return code, *capsys.readouterr()

    return run
