"""A run killed with SIGKILL at a random moment, and one whose files may not grow: real processes, real failures."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import importlib.util, os, sys, time
from pathlib import Path
root, folder, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
spec = importlib.util.spec_from_file_location("mos_conftest", root / "tests" / "conftest.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.training import loop, snapshot
from mos_tests.unit.training.test_training_loop import NAME, flat, make_run
torch.set_num_threads(1)
if limit:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = snapshot.Snapshots(folder, "request", 2)
model, samples, trainables, optimizer, settings = make_run(60, dropout=0.2, kv_drop=0.2)
named = list(trainables.named_parameters())
state = store.resume(named, optimizer) or snapshot.RunState()
print("start", state.step, flush=True)

def on_step(report):
    if report.step % 3 == 0:
        try:
            store.write(state, named, optimizer)
        except MixOfShowError as error:
            print("refused", error, flush=True)
            sys.exit(3)
    print("step", report.step, flush=True)
    time.sleep(0.004)

with trainables.attached({NAME: model.to_q}):
    loop.train(model, samples, trainables, optimizer, settings, 5, state, on_step)
(folder / "end.bin").write_bytes(flat(trainables).numpy().tobytes())
"""
WAIT = 600  # seconds: a limit for what hangs; beside other work a start alone can take a minute
ROOT = Path(__file__).resolve().parents[3]


def start(folder: Path, limit: int = 0) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(ROOT), str(folder), str(limit)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_ends_in_the_same_bytes(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reference = start(whole)
    killed = start(cut)
    wanted = random.randrange(4, 50)
    for line in killed.stdout:
        if line == f"step {wanted}\n":
            time.sleep(random.random() * 0.01)  # anywhere inside a step, also while a snapshot is written
            killed.kill()
    assert killed.wait(WAIT) == -signal.SIGKILL
    assert not (cut / "end.bin").exists()
    assert len(list(cut.glob("request-*"))) in (1, 2, 3), "two are kept; a third may just have been written"
    again = start(cut)
    told = again.communicate(timeout=WAIT)[0]
    reference.communicate(timeout=WAIT)
    begun = int(told.split()[1])
    assert wanted - 3 <= begun <= wanted + 6 and begun % 3 == 0, f"killed after step {wanted}: {told[:40]}"
    assert (cut / "end.bin").read_bytes() == (whole / "end.bin").read_bytes(), f"killed after step {wanted}"


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system has no limit on file sizes")
def test_a_snapshot_that_does_not_fit_is_refused_and_leaves_no_trace(tmp_path):
    process = start(tmp_path / "full", limit=300)
    told = process.communicate(timeout=WAIT)[0]
    assert process.returncode == 3 and "Could not write the training snapshot" in told and "Free some space" in told
    assert list((tmp_path / "full").iterdir()) == []
