"""What `python dev.py gpu` makes of its parts' answers: differences, failures, what was not reached."""

import pytest
from mos_benchmarks.cost import gpu
from mos_benchmarks.cost.gpu_page import page_of

ON = {"device": "a GPU", "torch": "2", "host": "0.3.75"}


def test_pictures_are_compared_with_the_cpus_and_failures_are_said_first():
    values = {
        "cpu": {"plain": [1.0, -4.0], "routed 2": [2.0, 1.0]},
        "normal": {"plain": [1.0, -4.0], "routed 2": [2.0, 1.5]},
    }

    def ask(part, family, state, left):
        if state == "novram":
            return {"error": "CUDA error"}
        return {"values": dict(values[state]), "on": ON}

    runs = [("pictures", "sd15", state) for state in ("cpu", "normal", "novram")]
    measured = gpu.collect(runs, ask, 10)
    assert measured["answers"]["pictures sd15 normal"]["differences"] == {"plain": 0.0, "routed 2": pytest.approx(0.25)}
    page = page_of(measured, False, False)
    assert "| sd15 | normal | 2.5e-01 | routed 2 | **FAR** |" in page and "a GPU" in page and "dry run" not in page
    assert page.index("**pictures sd15 novram failed**: CUDA error") < page.index("## Right?")


def test_parts_that_the_time_does_not_reach_are_named():
    measured = gpu.collect([("steps", "sdxl", "normal")], lambda *_: {}, 0)
    assert "not reached in time: steps sdxl normal" in page_of(measured, False, False)


def test_other_ways_to_keep_weights_are_run_where_the_host_has_them():
    states = {state for _, _, state in gpu.plan_runs(False, False, True)}
    assert states == {"cpu", "normal", "lowvram", "novram", "dynamic off"}
    assert {state for _, _, state in gpu.plan_runs(True, True, True)} == {"cpu"}
    assert {part for part, _, _ in gpu.plan_runs(True, True, False)} == set(gpu.PARTS)
