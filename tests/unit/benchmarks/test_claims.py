"""What the tables of claims rest on: intervals over concepts, an order that is fair to all tables, tables and plots."""

import importlib
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("benchmarks", "world", "tests")


@pytest.fixture(scope="module")
def load():
    """Modules of benchmarks/, which are run from the repository's root and call their neighbours by full name."""
    before = dict(sys.modules)
    for room in ROOMS:
        sys.modules[room] = ModuleType(room)
        sys.modules[room].__path__ = [str(ROOT / room)]
    yield lambda name: importlib.import_module(f"benchmarks.claims.{name}")
    for name in set(sys.modules) - set(before):
        if name.split(".")[0] in ROOMS:
            del sys.modules[name]
    sys.modules.update({room: before[room] for room in ROOMS if room in before})


def test_intervals_draw_concepts_not_pictures(load):
    judge = load("judge")
    alike = {"a": [0.0, 1.0] * 50, "b": [0.0, 1.0] * 50, "c": [0.0, 1.0] * 50}
    apart = {"a": [0.0] * 100, "b": [1.0] * 100, "c": [0.5] * 100}
    assert judge.interval(alike) == (0.5, 0.5, 0.5)
    mean, low, high = judge.interval(apart)
    assert mean == 0.5 and low < 0.1 and high > 0.9
    assert judge.interval({"a": [1.0], "b": [0.0] * 99})[0] == 0.5, "every concept counts the same"
    assert math.isnan(judge.interval({})[0])


def test_a_ratio_is_of_means_and_drawn_together(load):
    ratio = load("judge").ratio
    same = {"a": [1.0], "b": [0.0, 0.5], "c": [0.25]}
    assert ratio(same, same) == (1.0, 1.0, 1.0)
    mean, low, high = ratio({"a": [1.0], "b": [0.0]}, {"a": [0.5], "b": [0.5], "c": [0.0]})
    assert (mean, low, high) == (1.0, 0.0, 2.0)
    assert math.isnan(ratio({"a": [1.0]}, {"a": [0.0]})[0])


def test_kernel_distance_tells_sets_apart(load):
    """The pack's own, imported as the judge does: without the host."""
    distance = load("judge").kernel_distance()
    rows = torch.randn(60, 32, generator=torch.Generator().manual_seed(0))
    assert abs(distance(rows[:30], rows[30:])) < 0.2
    assert distance(rows[:30], rows[30:] + 1.0) > 1.0


def test_steps_to_ninety_percent(load):
    steps = load("methods").steps_to_share
    assert steps([(0, 0.2), (60, 0.2 + 0.45), (120, 0.7), (240, 0.7)]) == [pytest.approx(60)]
    assert steps([(0, 0.0), (100, 0.5), (200, 1.0)]) == [pytest.approx(180)]
    assert steps([(0, 0.5), (100, 0.51)]) == [], "what was never learned has no speed"


def test_parts_of_a_row_are_measured_apart(load):
    lab = load("lab")
    row = np.zeros((2, 64, 128, 3), np.uint8)
    row[:, :, 64:] = (120, 190, 110)
    row[1, 20:, 20:40] = 255
    painted = lab.measure(lambda pixels: pixels.mean((2, 3)), row)
    assert painted.features.shape == (2, 2, 3)
    assert painted.features[0, 1, 1] > painted.features[0, 0, 1] == 0
    assert painted.sharpness[1, 0] > painted.sharpness[0, 0] == 0
    only = lab.Painted(painted.features[:, 1:], painted.corners[:, 1:], painted.sharpness[:, 1:])
    assert load("judge").background_hits(only, "green") == [1.0, 1.0]
    assert load("judge").background_hits(only, "blue") == [0.0, 0.0]


def test_groups_hold_every_k_and_start_from_the_same_noise(load):
    plan = load("plan").Plan(characters=tuple("abcdefghij"), objects=tuple("klmnopqrst"))
    fusing, placing = load("fusing"), load("placing")
    sizes = [[len(group) for group in fusing.groups_of(plan, k)] for k in plan.ks]
    assert sizes == [[2] * 4, [5] * 2, [10], [20]]
    assert set(fusing.groups_of(plan, 20)[0]) == set("abcdefghijklmnopqrst")
    assert {len(group) for group in placing.groups_of(plan)} == {2, 3}
    flat = [name for group in placing.groups_of(plan) if len(group) == 2 for name in group]
    assert sorted(flat) == list("abcdefghij")


def test_no_table_waits_for_another(load):
    claims, lab = load("__main__"), load("lab")

    class Free:
        def estimate(self, cells):
            return float(len(cells))

    jobs = {
        table: [lab.Job(table, f"{table} {n}", (lab.Cell((table, n), (), None, 1),)) for n in range(4)]
        for table in ("methods", "ours")
    }
    before = claims.JOBS
    try:
        claims.JOBS = {table: lambda plan, table=table: list(jobs[table]) for table in jobs}
        order = [job.table for job in claims.arrange(Free(), None, list(jobs))]
    finally:
        claims.JOBS = before
    assert sorted(order) == sorted(["methods"] * 4 + ["ours"] * 4)
    assert set(order[:3]) == {"methods", "ours"} and order[-1] == "ours", "shares 2 : 0.6"


def test_a_table_reads_well_and_its_plot_is_valid(load):
    page = load("page")
    rows = (
        page.Row(("2", "exact <&>"), "K = 2", {"nearest": (0.5, 0.25, 0.75), "drift": (0.1, 0.1, 0.1)}),
        page.Row(("5", "sum"), "K = 5", {"nearest": (float("nan"),) * 3, "drift": (0.2, 0.1, 0.4)}),
    )
    columns = (page.Column("nearest", "right", ".0%", True), page.Column("drift", "drift", ".3f", True))
    table = page.Table("fusing", "K in one", ("K", "method"), columns, rows, 2, 8)
    text = "\n".join(page.write_table(table))
    assert "2 of 8 cells" in text and "| 2 | exact <&> | 50 % [25, 75] | 0.100 |" in text and "| 5 | sum | - |" in text
    root = ElementTree.fromstring(page.draw(table))
    words = "".join(root.itertext())
    assert "exact <&>" in words and "drift" in words and "K = 5" in words
    assert page.to_json(table)["rows"][1]["figures"]["nearest"] == [None] * 3


def test_rank_one_is_the_best_one(load):
    from mos_pack.mixofshow_core.delta import LowRank

    generator = torch.Generator().manual_seed(3)
    delta = LowRank(torch.randn(9, 4, generator=generator), torch.randn(4, 7, generator=generator), alpha=2.0)
    cut = load("peer_nodes").cut_to_rank_one(delta)
    assert cut.rank == 1
    left = torch.linalg.svdvals(delta.dense())
    assert torch.linalg.matrix_norm(delta.dense() - cut.dense()) == pytest.approx(float(left[1:].norm()), rel=1e-4)


def test_what_is_done_is_not_planned_again(load, tmp_path, monkeypatch):
    lab_module, plan_module = load("lab"), load("plan")
    monkeypatch.setattr(lab_module, "CACHE", tmp_path)
    loads, plan = [], plan_module.Plan(characters=("mara",), chosen=("mara",))

    def build(studio, files):
        loads.append(dict(files))
        return {"load": {"inputs": files}}

    lab = lab_module.Lab(None, "base", "commit", print)
    training = plan.concept("mara")
    cell = lab_module.Cell(("one",), (training,), build, 1)
    assert lab.missing([cell]) == ([cell], [training.whole])
    assert loads[0] == {"mara": f"mixofshow/{lab.stem(training)}.safetensors"}
    lab.cell_path(cell).write_bytes(b"")
    assert lab.missing([cell]) == ([], [])
    other = lab_module.Lab(None, "another base", "commit", print)
    assert other.missing([cell])[0] == [cell], "another base is another cell"
    early = lab_module.replace(training, at=training.every)
    assert lab.file(early).endswith(f"-step{training.every}.safetensors") and early.whole == training


def test_a_fused_cell_is_another_one_under_other_defaults(load):
    module = load("lab")

    def path(ridge, node):
        studio = SimpleNamespace(base="A", fusion_defaults=lambda: {"ridge_text": ridge})
        cell = module.Cell(("one",), (), lambda studio, files: {"fuse": {"class_type": node, "inputs": {}}}, 1)
        return module.Lab(studio, "base", "commit", print).cell_path(cell)

    assert path(1e-2, "MixOfShowFuse") != path(1e-3, "MixOfShowFuse")
    assert path(1e-2, "MixOfShowPlace") == path(1e-3, "MixOfShowPlace")


def test_a_label_means_one_cell(load):
    claims, plan = (
        load("__main__"),
        load("plan").Plan(characters=("mara", "finn", "omara"), objects=("olmo",), chosen=("mara", "olmo", "finn")),
    )
    found = {}
    for table, make in claims.JOBS.items():
        for cell in (cell for job in make(plan) for cell in job.cells):
            same = found.setdefault(cell.label, cell)
            assert (cell.trainings, cell.canvases) == (same.trainings, same.canvases), (table, cell.label)
    assert ("crossed", "LoRA", "exact") in found and ("alone", "omara") in found


def test_concepts_learned_together_or_in_turn_are_trainings_of_their_own(load):
    crossed, graphs = load("crossed"), load("graphs")
    plan = load("plan").Plan(characters=("mara", "finn"), chosen=("mara", "finn"))
    ways = crossed.pair_cells(plan, ("mara", "finn"), "ED-LoRA")
    apart, joint, turn = ways["apart, sum"], ways[crossed.TOGETHER], ways[crossed.IN_TURN]
    assert joint.trainings[0].steps == 2 * plan.steps and dict(joint.trainings[0].changes)[graphs.BESIDE].name == "finn"
    assert turn.trainings[0] == apart.trainings[0] and dict(turn.trainings[1].changes)[graphs.AFTER].name == "mara"
    names = {load("lab").digest(vars(t)) for cell in (apart, joint, turn) for t in cell.trainings}
    assert len(names) == 4, "no file stands for two trainings"


def test_seeds_are_spent_on_the_methods_that_need_them(load):
    methods, Plan = load("methods"), load("plan").Plan  # noqa: N806
    plan = Plan(chosen=("mara",), seeds=3, small_sets=(10,))
    trained = {t for job in methods.jobs(plan) for cell in job.cells for t in cell.trainings if not t.at}
    assert sorted(t.seed for t in trained if t.preset == "ED-LoRA") == [0, 1, 2]
    assert [t.seed for t in trained if t.preset == "DreamBooth"] == [0]


def test_every_way_of_a_row_links_to_what_is_there(load, monkeypatch):
    module = load("graphs")

    def add(graph, key, class_type, **inputs):
        graph.nodes[key] = {"inputs": inputs}
        return key

    monkeypatch.setattr(module.Graph, "add", add)
    files = {"mara": "a.safetensors", "finn": "b.safetensors", "lagun": "c.safetensors"}
    for way in module.WAYS:
        for scene in ("", "lagun"):
            nodes = module.row(module.Studio({}), files, way, 2, 1, scene)
            links = [value for node in nodes.values() for value in node["inputs"].values() if isinstance(value, tuple)]
            assert "row" in nodes and {key for key, _ in links} <= set(nodes), (way, scene)
