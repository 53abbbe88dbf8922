"""Files appear whole or not at all, and what a killed process left is swept by the next one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mos_pack.mixofshow_core import atomic

ROOT = Path(__file__).resolve().parents[3]
WORKER = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("mos_conftest", Path(sys.argv[1]) / "tests" / "conftest.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from mos_pack.mixofshow_core.atomic import replacing
with replacing(Path(sys.argv[2])) as part:
    part.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def begin(target: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, str(ROOT), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.part"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_what_a_kill_left_is_swept_by_the_next_write_and_nothing_else_is(tmp_path):
    process = begin(tmp_path / "a.bin")
    strange = tmp_path / ".download.part"
    strange.write_text("somebody else's")
    try:
        with atomic.replacing(tmp_path / "b.bin") as part:
            part.write_text("b")
        assert len(parts(tmp_path)) == 2, "the other process is alive and writes"
    finally:
        process.kill()
        process.wait(30)
    assert not (tmp_path / "a.bin").exists() and len(parts(tmp_path)) == 2
    with atomic.replacing(tmp_path / "c.bin") as part:
        part.write_text("c")
    assert parts(tmp_path) == [strange] and (tmp_path / "c.bin").read_text() == "c"


def test_an_earlier_process_of_the_same_number_and_another_machine(tmp_path):
    mine = f"{atomic._machine()}-{os.getpid()}"
    earlier = tmp_path / f".x.safetensors.{mine}-00000000.11111111.part"  # a container that was started again
    foreign = tmp_path / ".x.safetensors.00000000-1-00000000.11111111.part"
    old = tmp_path / ".y.safetensors.00000000-1-00000000.11111111.part"
    for path in (earlier, foreign, old):
        path.write_text("half")
    os.utime(old, (time.time() - 2 * atomic.FOREIGN_AGE,) * 2)
    with atomic.replacing(tmp_path / "x.safetensors") as own, atomic.replacing(tmp_path / "x.safetensors"):
        assert parts(tmp_path)[0] and own in parts(tmp_path) and foreign in parts(tmp_path)
        assert earlier not in parts(tmp_path) and old not in parts(tmp_path)
    assert parts(tmp_path) == [foreign]


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ValueError), atomic.replacing(tmp_path / "a") as part:  # noqa: PT011
        part.write_text("new")
        raise ValueError
    assert (tmp_path / "a").read_text() == "old" and not parts(tmp_path)
