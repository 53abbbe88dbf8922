"""`python dev.py gpu` as a dry run: every part on the CPU with tiny nets. No GPU has run it."""

import pytest


@pytest.fixture
def gpu(monkeypatch):
    from mos_benchmarks.cost import gpu

    monkeypatch.setattr(gpu, "VARIANTS", {"routed 2": gpu.VARIANTS["routed 2"]})
    return gpu


@pytest.mark.slow
def test_every_part_answers_and_stands_on_the_page(gpu):
    from mos_benchmarks.cost.gpu_page import page_of

    runs = [(part, "sd15", "cpu") for part in gpu.PARTS]
    measured = gpu.collect(runs, lambda part, family, state, left: gpu.answer(part, family, gpu.SMALL), 10)
    answers = measured["answers"]
    assert [key for key, answer in answers.items() if "error" in answer] == []
    assert (
        answers["steps sd15 cpu"]["found"]["routed 2"]["launches"]
        > answers["steps sd15 cpu"]["found"]["plain"]["launches"]
    )
    assert answers["fusion sd15 cpu"]["found"]["seconds"] > 0
    solved = answers["solver sd15 cpu"]["found"]["groups"]
    assert len(solved) == 6 and all(row["refined apart"] < 1e-6 for row in solved.values())
    assert set(answers["training sd15 cpu"]["found"]) == {"ours", "host"}
    page = page_of(measured, True, True)
    assert "dry run" in page and "| sd15 | cpu | routed 2 |" in page and "| sd15 | ours |" in page
    assert "| sd15 | attn1 q,k,v 320 -> 3 x 320 | 5 |" in page and "FAR" not in page
