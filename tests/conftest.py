"""Makes the pack importable as `mos_pack`, helpers as `mos_tests`, `mos_world`, `mos_benchmarks`: sys.path stays.

The repository root must never be on sys.path: `import nodes` would then find our nodes/ instead of the host's nodes.py.
"""

import os
import sys
from pathlib import Path
from types import ModuleType

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
