"""Where a fusion calculates: float32 factors refined to float64's answer, a device of its own, and its memory."""

from types import SimpleNamespace

import pytest
import torch
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.families.layers import LayerGroup
from mos_pack.mixofshow_core.fusion.arithmetic import (
    ON_CPU,
    SHARE,
    Arithmetic,
    arithmetic_on,
    bytes_of,
    has_fast_float64,
)
from mos_pack.mixofshow_core.fusion.capture import Capture
from mos_pack.mixofshow_core.fusion.fuse import Source, foresee_conflicts, fuse
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.mixofshow_core.fusion.statistics import GramAccumulator, Statistics
from mos_pack.mixofshow_core.fusion.store import StatisticsStore
from mos_pack.mixofshow_core.linalg import MAX_COARSE, REFINED, factor_ridge
from mos_tests.unit.fusion.elsewhere import DEVICE, Elsewhere

D, OUT = 64, 96
AGAIN = "taken again in float64"
NAME = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
GROUPS = (
    LayerGroup(f"{NAME}.attn2.kv", "cross_kv", (f"{NAME}.attn2.to_k", f"{NAME}.attn2.to_v")),
    LayerGroup(f"{NAME}.attn1.to_out.0", "spatial", (f"{NAME}.attn1.to_out.0",)),
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spd(condition, d=96):
    """Symmetric [d, d] with eigenvalues from 1 / condition to 1."""
    basis = torch.linalg.qr(draw(d, d).double())[0]
    return (basis * torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), d, dtype=torch.float64)) @ basis.mT


@pytest.fixture(autouse=True)
def told(caplog):
    caplog.set_level("INFO", logger="mixofshow")


@pytest.mark.parametrize("condition", [10.0, 1e3, 5e4])
def test_a_float32_factor_is_refined_to_its_bound(condition, caplog):
    """|X - X*| <= REFINED |X*|, whatever the condition; float32 alone misses that by orders of magnitude."""
    matrix, rows = spd(condition), draw(20, 96, seed=1).double()
    before = matrix.clone()
    coarse, exact = (factor_ridge(matrix, 1e-12, coarse=one) for one in (True, False))
    assert coarse.cholesky.dtype == torch.float32 and coarse.condition == pytest.approx(exact.condition, rel=0.1)
    wanted = exact.apply_right(rows)
    assert float((coarse.apply_right(rows) - wanted).norm() / wanted.norm()) <= REFINED
    assert torch.equal(matrix, before) and AGAIN not in caplog.text
    alone = torch.cholesky_solve(rows.mT.float(), coarse.cholesky).mT.double()
    assert float((alone - wanted).norm() / wanted.norm()) > 5 * REFINED
    assert float(coarse.apply_right(torch.zeros_like(rows)).norm()) == 0


def test_what_float32_cannot_carry_is_taken_in_float64(caplog):
    rows = draw(5, 96, seed=2).double()
    worse = factor_ridge(spd(100 * MAX_COARSE), 1e-12, coarse=True)
    assert worse.cholesky.dtype == torch.float64 and worse.refined is None
    assert factor_ridge(spd(100.0), 0.0, coarse=True).cholesky.dtype == torch.float64  # a pseudo-inverse needs digits
    poor = factor_ridge(spd(1e3), 1e-12, coarse=True)  # a factor of another matrix: refining does not end
    poor.cholesky.mul_(2)
    wanted = factor_ridge(spd(1e3), 1e-12).apply_right(rows)
    assert float((poor.apply_right(rows) - wanted).norm() / wanted.norm()) < 1e-12 and AGAIN in caplog.text


def sources(path, dense=False, d=D, out=OUT):
    """Three concepts whose statistics lie in a store: K, V by few rows, the other group by matrices."""
    made, store = [], StatisticsStore(path)
    for k in range(3):
        grams, deltas = {}, {}
        for group, count in zip(GROUPS, (8, 300), strict=True):
            accumulator = GramAccumulator()
            accumulator.add(draw(count, d, seed=10 * k + count))
            grams[group.name] = accumulator.finish()
            for n, member in enumerate(group.members):
                seed = 100 * k + n + count
                delta = LowRank(draw(out, 3, seed=seed), draw(3, d, seed=seed + 1), 2.0)
                deltas[member] = Dense(delta.dense()) if dense and k == 1 else delta
        names = frozenset(group.name for group in GROUPS)
        made.append(Source(f"c{k}", f"id{k}", deltas, store.save(f"{k}" * 40, Statistics(grams), names)))
    return made[:2], made[2].statistics


def changes(fusion):
    return {name: delta.dense() for name, delta in fusion.deltas.items()}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("size", ["auto", "exact"])
def test_a_fusion_with_refined_factors_is_the_float64_one(tmp_path, dense, size):
    given, prior = sources(tmp_path, dense)
    settings = FusionSettings(size=size)
    exact = fuse(given, GROUPS, (), settings, prior)
    coarse = fuse(given, GROUPS, (), settings, prior, arithmetic=Arithmetic(coarse=True))
    found, wanted = changes(coarse), changes(exact)
    assert all(float((found[n] - w).norm() / w.norm()) < 3e-7 for n, w in wanted.items())  # stored as float32
    assert coarse.report.groups[1].residual == pytest.approx(exact.report.groups[1].residual, rel=1e-5)


@pytest.mark.parametrize("method", ["exact", "gradient", "constrained", "sum"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_fusion_on_a_device_stays_there_and_is_the_cpus(tmp_path, method, dense):
    """No product, factor or figure of a group mixes devices; what comes back is the CPU's, in its memory's bound."""
    given, prior = sources(tmp_path, dense)
    settings = FusionSettings()
    with Elsewhere() as watched:
        there = fuse(given, GROUPS, (), settings, prior, method, arithmetic=Arithmetic(DEVICE))
        told = foresee_conflicts(given, GROUPS, arithmetic=Arithmetic(DEVICE))
    here = fuse(given, GROUPS, (), settings, prior, method)
    assert {delta.device.type for d in there.deltas.values() for delta in d.tensors().values()} == {"cpu"}
    for name, wanted in changes(here).items():
        assert torch.equal(there.deltas[name].dense(), wanted)
    assert there.report.summary() == here.report.summary() and told == foresee_conflicts(given, GROUPS)
    assert watched.calls > 50


def sizes_of(given):
    return [bytes_of({m: s.deltas[m] for m in group.members} for s in given) for group in GROUPS]


@pytest.mark.parametrize(("dense", "d", "out"), [(False, 320, 32), (False, 32, 320), (True, 32, 320), (True, 320, 32)])
@pytest.mark.parametrize("method", ["exact", "constrained"])
def test_the_memory_of_a_group_is_known(tmp_path, dense, d, out, method):
    """What is held at once stays below `bytes_of`, and not by far: the limit that rests on it holds, and is of use."""
    given, prior = sources(tmp_path, dense, d, out)
    for group, size in zip(GROUPS, sizes_of(given), strict=True):
        with Elsewhere() as watched:
            fuse(given, (group,), (), FusionSettings(), prior, method, arithmetic=Arithmetic(DEVICE, coarse=True))
        assert size / 6 < watched.peak < size


def test_a_group_too_large_for_the_device_is_solved_on_the_cpu(tmp_path):
    given, prior = sources(tmp_path)
    sizes = sizes_of(given)
    with Elsewhere() as watched:
        found = fuse(given, GROUPS, (), FusionSettings(), prior, arithmetic=Arithmetic(DEVICE, min(sizes)))
    assert 0 < watched.peak <= min(sizes) < max(sizes)
    assert changes(found).keys() == {member for group in GROUPS for member in group.members}
    with Elsewhere() as watched:
        fuse(given, GROUPS, (), FusionSettings(), prior, arithmetic=Arithmetic(DEVICE, 0))
    assert watched.calls == 0


def test_devices_and_their_float64():
    assert arithmetic_on(torch.device("cpu"), 1e9) is ON_CPU and arithmetic_on(torch.device("mps"), 1e9) is ON_CPU
    fast = {(7, 0): True, (8, 0): True, (9, 0): True, (8, 6): False, (8, 9): False, (12, 0): False}
    for (major, minor), wanted in fast.items():
        assert has_fast_float64(SimpleNamespace(major=major, minor=minor), False) == wanted
    for name, wanted in (("gfx90a:sramecc+:xnack-", True), ("gfx1100", False), ("gfx900", False)):
        assert has_fast_float64(SimpleNamespace(major=9, minor=0, gcnArchName=name), True) == wanted
    assert SHARE == 0.5


def test_statistics_are_summed_on_the_device_and_leave_it_once():
    """Rows of a picture, a batch whose unconditional half is left out, few rows and token weights."""
    picture, few, words = draw(4, D, 6, 8), draw(4, 3, D), draw(4, 20, D)
    names, tokens = ("picture", "few", "words"), draw(4, 20).abs() * (draw(4, 20) > 0)

    def run(move, reserved=None):
        capture = Capture(names)
        if reserved is not None:
            capture.reserve({"picture": D}, reserved)
        for weights, values in ((torch.tensor([0.0, 1.0, 1.0, 0.0]), (picture, few)), (tokens, (words,))):
            capture.weights = weights
            for name, value in zip(names if weights.dim() == 1 else names[2:], values, strict=False):
                capture.add(name, move(value))
        return capture.finish()

    with Elsewhere() as watched:
        there = run(lambda value: value.to(DEVICE), DEVICE)
    here = run(lambda value: value)
    for name in names:
        assert torch.equal(there[name].stored, here[name].stored) and there[name].stored.device.type == "cpu"
    rows = picture[1:3].flatten(2).mT.reshape(-1, D).double()
    assert torch.allclose(here["picture"].matrix, rows.mT @ rows / 96, rtol=0, atol=1e-6)
    assert here["few"].factored and watched.peak > 0


def test_sums_take_their_memory_before_the_model_is_loaded():
    """And sum there, so that the highest sum of bytes is what it is without."""
    peaks = []
    for early in (True, False):
        accumulator = GramAccumulator()
        with Elsewhere() as watched:
            rows = draw(2 * D, D).to(DEVICE)
            before = watched.peak
            if early:
                accumulator.reserve(D, DEVICE)
                assert watched.peak == before + 8 * D * D
            accumulator.add(rows)
        peaks.append(watched.peak)
    assert peaks[0] == peaks[1]


def test_digits_are_not_traded_for_time():
    """With TensorFloat32 allowed by somebody, products of statistics are taken in float64."""
    rows, before = draw(2 * D, D), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        accumulator = GramAccumulator()
        accumulator.add(rows)
        found = accumulator.finish()
    finally:
        torch.set_float32_matmul_precision(before)
    wanted = rows.double().mT @ rows.double() / (2 * D)
    assert float((found.matrix - wanted).norm() / wanted.norm()) < 1e-14
