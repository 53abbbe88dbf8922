"""The closed form against direct least squares, and its invariants, on small random layers (float64)."""

import gc
import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from mos_benchmarks.cost.lbfgs import fit_lbfgs
from mos_pack.mixofshow_core import linalg
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.layers import LayerGroup
from mos_pack.mixofshow_core.fusion.fuse import Source, choose_groups, foresee_conflicts, fuse
from mos_pack.mixofshow_core.fusion.measure import measure_group
from mos_pack.mixofshow_core.fusion.merges import (
    merge_average,
    merge_dare,
    merge_sum,
    merge_svd,
    merge_ties,
    shorten,
)
from mos_pack.mixofshow_core.fusion.methods import METHODS
from mos_pack.mixofshow_core.fusion.report import format_report
from mos_pack.mixofshow_core.fusion.settings import FusionSettings, parse_weights
from mos_pack.mixofshow_core.fusion.solve import GroupProblem, solve_group
from mos_pack.mixofshow_core.fusion.statistics import Gram, GramAccumulator, Statistics
from torch.utils._python_dispatch import TorchDispatchMode

D, OUT = 24, 16
NAME = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2"
MEMBERS = (f"{NAME}.to_k", f"{NAME}.to_v")
GROUP = LayerGroup(f"{NAME}.kv", "cross_kv", MEMBERS)


def rows(seed, n=200, shared=0.5):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, D, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return (1 - shared) * torch.randn(n, D, generator=generator, dtype=torch.float64) + shared * common


def low_rank(seed, rank=3, alpha=None):
    generator = torch.Generator().manual_seed(1000 + seed)
    return LowRank(torch.randn(OUT, rank, generator=generator), torch.randn(rank, D, generator=generator), alpha)


def gram_of(x):
    accumulator = GramAccumulator()
    accumulator.add(x)
    return accumulator.finish()


def problem(inputs, deltas, weights=None, prior=None):
    weights = weights or (1.0,) * len(inputs)
    grams = dict(enumerate(map(gram_of, inputs)))
    return GroupProblem(GROUP.name, "cross_kv", MEMBERS, grams, tuple(deltas), weights, prior)


def least_squares(inputs, deltas, member):
    """The direct answer on stored rows: every concept's rows weighted by 1 / their number."""
    x = torch.cat([part / len(part) ** 0.5 for part in inputs])
    wanted = torch.cat(
        [
            (part @ delta[member].matrix().mT if member in delta else torch.zeros(len(part), OUT)) / len(part) ** 0.5
            for part, delta in zip(inputs, deltas, strict=True)
        ]
    )
    return torch.linalg.lstsq(x, wanted, driver="gelsd").solution.mT


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("n", "matrices"), [(200, False), (5, True), (5, False)])
def test_exact_against_direct_least_squares(n, matrices):
    """More rows than inputs; fewer (least norm), by pseudo-inverse of the Grams and by the dual form of the rows."""
    inputs = [rows(i, n) for i in range(3)]
    deltas = [{m: low_rank(10 * i + j, alpha=2.0) for j, m in enumerate(MEMBERS)} for i in range(3)]
    posed = problem(inputs, deltas)
    assert all(gram.factored == (n == 5) for gram in posed.grams.values())
    if matrices:
        posed = replace(posed, grams={i: Gram(gram.matrix, gram.weight) for i, gram in posed.grams.items()})
    solution = solve_group(posed, 0.0, 0.0)
    for member in MEMBERS:
        answer = solution.deltas[member]
        assert isinstance(answer, LowRank) and answer.rank == 9
        assert relative(answer.dense().double(), least_squares(inputs, deltas, member)) < 1e-6
    assert ("pseudo-inverse" in solution.reason) == matrices


def as_matrices(posed):
    """The same problem with every Gram multiplied out, so that the primal form is taken."""
    whole = {i: Gram(gram.matrix, gram.weight, gram.rows) for i, gram in posed.grams.items()}
    prior = None if posed.prior is None else Gram(posed.prior.matrix, posed.prior.weight)
    return replace(posed, grams=whole, prior=prior)


@pytest.mark.parametrize(
    "facts",
    [
        {"ridge": 0.0, "prior": 0.0},
        {"ridge": 0.1, "prior": 0.3},
        {"ridge": 1e-6, "prior": 0.0},
        {"ridge": 0.0, "prior": 0.0, "constrained": True},
    ],
)
def test_dual_form_is_the_primal_one(facts):
    inputs = [rows(i, 4) for i in range(3)]
    deltas = [
        {MEMBERS[0]: low_rank(0), MEMBERS[1]: low_rank(3)},
        {MEMBERS[1]: Dense(low_rank(1).dense())},
        {MEMBERS[0]: low_rank(2, alpha=2.0)},
    ]
    prior = gram_of(rows(8, 5 if not facts.get("constrained") else 200))
    posed = problem(inputs, deltas, (1.0, 2.0, 0.5), prior)
    dual, primal = solve_group(posed, **facts), solve_group(as_matrices(posed), **facts)
    assert dual.moment.factored and not primal.moment.factored
    for member in MEMBERS:
        assert relative(dual.deltas[member].dense(), primal.deltas[member].dense()) < 1e-5


def test_rounded_statistics_do_not_invent_directions():
    """Without ridge, what float32 leaves of directions that were never seen must not be inverted."""
    inputs = [rows(i, 5) for i in range(3)]
    deltas = [{MEMBERS[0]: low_rank(i)} for i in range(3)]
    exact = solve_group(problem(inputs, deltas), 0.0, 0.0).deltas[MEMBERS[0]].dense()
    posed = problem(inputs, deltas)
    grams = {i: Gram(g.matrix.float().double(), 1.0, rounded=True) for i, g in posed.grams.items()}
    solution = solve_group(replace(posed, grams=grams), 0.0, 0.0)
    assert relative(solution.deltas[MEMBERS[0]].dense(), exact) < 1e-3 and "never seen" in solution.reason


def test_concept_without_delta_keeps_its_gram():
    inputs = [rows(0), rows(1), rows(2)]
    deltas = [{MEMBERS[0]: low_rank(0)}, {MEMBERS[1]: low_rank(1)}, {}]
    solution = solve_group(problem(inputs, deltas), 0.0, 0.0)
    for member in MEMBERS:
        assert relative(solution.deltas[member].dense().double(), least_squares(inputs, deltas, member)) < 1e-6


def test_one_concept_is_reproduced():
    delta = {m: low_rank(j) for j, m in enumerate(MEMBERS)}
    solution = solve_group(problem([rows(0)], [delta]), 0.0, 0.0)
    for member in MEMBERS:
        assert relative(solution.deltas[member].dense(), delta[member].dense()) < 1e-5


def test_dense_deltas_give_the_same_answer():
    inputs = [rows(i) for i in range(2)]
    low = [{MEMBERS[0]: low_rank(i)} for i in range(2)]
    mixed = [low[0], {MEMBERS[0]: Dense(low[1][MEMBERS[0]].dense())}]
    answer = solve_group(problem(inputs, mixed), 1e-2, 0.0).deltas[MEMBERS[0]]
    assert isinstance(answer, Dense)
    assert relative(answer.dense(), solve_group(problem(inputs, low), 1e-2, 0.0).deltas[MEMBERS[0]].dense()) < 1e-5


def test_ridge_and_prior_pull_towards_the_base():
    inputs = [rows(i) for i in range(3)]
    deltas = [{MEMBERS[0]: low_rank(i)} for i in range(3)]
    prior = gram_of(rows(7))
    norms = [solve_group(problem(inputs, deltas), r, 0.0).deltas[MEMBERS[0]].dense().norm() for r in (0, 1e-2, 1, 1e3)]
    assert all(a > b for a, b in itertools.pairwise(norms)) and norms[-1] < 0.01 * norms[0]
    drifts = [
        linalg.energy(
            solve_group(problem(inputs, deltas, None, prior), 0.0, mu).deltas[MEMBERS[0]].matrix(), prior.matrix
        )
        for mu in (0.0, 1.0, 100.0)
    ]
    assert drifts[0] > drifts[1] > drifts[2]


def test_ridge_solves_the_regularised_problem():
    inputs, ridge, mu = [rows(0), rows(1)], 0.3, 0.7
    deltas = [{MEMBERS[0]: low_rank(i)} for i in range(2)]
    prior = rows(5)
    p = problem(inputs, deltas, (2.0, 0.5), gram_of(prior))
    scale = sum(w * float(g.matrix.trace()) for w, g in zip(p.weights, p.grams.values(), strict=True)) / D
    x = torch.cat(
        [
            inputs[0] * (2 / 200) ** 0.5,
            inputs[1] * (0.5 / 200) ** 0.5,
            prior * (mu / 200) ** 0.5,
            torch.eye(D, dtype=torch.float64) * (ridge * scale) ** 0.5,
        ]
    )
    wanted = torch.cat(
        [
            inputs[0] @ deltas[0][MEMBERS[0]].matrix().mT * (2 / 200) ** 0.5,
            inputs[1] @ deltas[1][MEMBERS[0]].matrix().mT * (0.5 / 200) ** 0.5,
            torch.zeros(200 + D, OUT, dtype=torch.float64),
        ]
    )
    direct = torch.linalg.lstsq(x, wanted).solution.mT
    assert relative(solve_group(p, ridge, mu).deltas[MEMBERS[0]].dense().double(), direct) < 1e-6


def test_agrees_with_converged_lbfgs():
    inputs = [rows(i, 100) for i in range(2)]
    deltas = [{MEMBERS[0]: low_rank(i)} for i in range(2)]
    targets = [x @ d[MEMBERS[0]].matrix().mT for x, d in zip(inputs, deltas, strict=True)]
    fitted, _ = fit_lbfgs(inputs, targets, 300)
    exact = solve_group(problem(inputs, deltas), 0.0, 0.0).deltas[MEMBERS[0]].dense().double()
    assert relative(fitted, exact) < 1e-5


def test_constrained_merge_is_the_limit_of_a_small_prior():
    """Custom Diffusion's merge (arXiv 2212.04488, eq. 6): meet the targets, change the prior outputs least."""
    inputs = [rows(i, 3) for i in range(2)]
    deltas = [{MEMBERS[0]: low_rank(i)} for i in range(2)]
    prior = gram_of(rows(8))
    x = torch.cat(inputs)
    wanted = torch.cat([p @ d[MEMBERS[0]].matrix().mT for p, d in zip(inputs, deltas, strict=True)])
    d = torch.linalg.solve(prior.matrix, x.mT).mT
    direct = (torch.linalg.solve(d @ x.mT, d).mT @ wanted).mT
    gaps = [
        relative(solve_group(problem(inputs, deltas, None, prior), 0.0, mu).deltas[MEMBERS[0]].dense().double(), direct)
        for mu in (1e-2, 1e-4)
    ]
    assert gaps[1] < 1e-2 * gaps[0] * 2 and gaps[1] < 1e-2
    posed = problem(inputs, deltas, None, prior)
    for p in (posed, as_matrices(posed)):  # the limit itself, but for the ridge of its metric
        hard = solve_group(p, 0.0, 0.0, constrained=True).deltas[MEMBERS[0]].dense().double()
        assert relative(hard, direct) < 1e-4
        for x, own in zip(inputs, deltas, strict=True):
            assert relative(x @ hard.mT, x @ own[MEMBERS[0]].matrix().mT) < 1e-5


def test_regmean_is_its_formula():
    """W = (sum W_i G_i')(sum G_i')^-1 with off-diagonals times a (arXiv 2212.09849), on whole weights."""
    inputs, deltas = [rows(i) for i in range(3)], [{MEMBERS[0]: low_rank(i)} for i in range(3)]
    base = torch.randn(OUT, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    top, bottom = torch.zeros(OUT, D, dtype=torch.float64), torch.zeros(D, D, dtype=torch.float64)
    for x, delta in zip(inputs, deltas, strict=True):
        gram = x.mT @ x / len(x)
        gram = 0.8 * gram + 0.2 * torch.diag(gram.diagonal())
        top += (base + delta[MEMBERS[0]].matrix()) @ gram
        bottom += gram
    wanted = top @ bottom.inverse() - base
    answer = solve_group(problem(inputs, deltas), 0.0, 0.0, off_diagonal=0.8).deltas[MEMBERS[0]].dense().double()
    assert relative(answer, wanted) < 1e-5


def exact_size(**facts):
    return FusionSettings(size="exact", **facts)


def source(i, members=MEMBERS, weight=1.0):
    deltas = {m: low_rank(10 * i + j) for j, m in enumerate(members)}
    return Source(f"c{i}", f"{i:04d}", deltas, Statistics({GROUP.name: gram_of(rows(i))}), weight)


def fused_bytes(sources):
    result = fuse(sources, [GROUP], (), exact_size(), Statistics({GROUP.name: gram_of(rows(50))}))
    return {k: (v.up.numpy().tobytes(), v.down.numpy().tobytes()) for k, v in result.deltas.items()}


def test_order_changes_no_byte_and_removal_is_a_refit():
    sources = [source(i) for i in range(4)]
    wanted = fused_bytes(sources)
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        assert fused_bytes([sources[i] for i in order]) == wanted
    assert fused_bytes([s for s in sources if s.label != "c2"]) == fused_bytes([source(i) for i in (0, 1, 3)]) != wanted


def test_memory_does_not_grow_with_the_number_of_concepts():
    """Matrices of a Gram's size that are alive whenever another one is read: in the solve, the report, the preview."""

    class Reading(Mapping):
        most = 0

        def __init__(self, seed):
            self.seed = seed

        def __getitem__(self, name):
            alive = sum(type(item) is torch.Tensor and item.shape == (D, D) for item in gc.get_objects())
            Reading.most = max(Reading.most, alive)
            return gram_of(rows(self.seed))

        def __iter__(self):
            return iter([GROUP.name])

        def __len__(self):
            return 1

    def most(count):
        sources = [replace(source(i), statistics=Statistics(Reading(i))) for i in range(count)]
        sources[0] = replace(sources[0], deltas={m: Dense(d.dense()) for m, d in sources[0].deltas.items()})
        Reading.most = 0
        fuse(sources, [GROUP], (), exact_size(), Statistics({GROUP.name: gram_of(rows(50))}))
        foresee_conflicts(sources, [GROUP])
        return Reading.most

    assert most(3) == most(8) <= 6


class Products(TorchDispatchMode):
    """Counts the multiplications in products of matrices."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.count += args[0].numel() * args[1].shape[-1]
        return func(*args, **(kwargs or {}))


def test_work_does_not_grow_with_the_square_of_the_number_of_concepts():
    """A fusion with its report and its preview."""
    groups = [LayerGroup(f"{GROUP.name}{n}", GROUP.role, (f"{MEMBERS[0]}{n}",)) for n in range(2)]
    gram = gram_of(torch.randn(200, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    delta = LowRank(torch.ones(64, 1), torch.ones(1, 64))

    def work(count):
        found = Statistics({group.name: gram for group in groups})
        deltas = {group.members[0]: delta for group in groups}
        sources = [replace(source(i), deltas=deltas, statistics=found) for i in range(count)]
        with Products() as counted:
            foresee_conflicts(sources, groups)
            fuse(sources, groups, (), exact_size(), found)
        return counted.count

    small, large = work(16), work(32)
    assert 1.5 * small < large < 2.1 * small


@pytest.mark.parametrize("dense", [False, True])
def test_report_figures_match_their_definition(dense):
    sources = [source(0), source(1, MEMBERS[:1])]
    if dense:  # measured by matrices instead of factors
        whole = {name: Dense(delta.dense()) for name, delta in sources[1].deltas.items()}
        sources[1] = replace(sources[1], deltas=whole)
    prior = Statistics({GROUP.name: gram_of(rows(50))})
    settings = exact_size()
    result = fuse(sources, [GROUP], (), settings, prior)
    row = result.report.groups[0]
    zero = torch.zeros(OUT, D, dtype=torch.float64)
    for i, s in enumerate(sources):
        gram = s.statistics.grams[GROUP.name].matrix
        own = [s.deltas[m].matrix() if m in s.deltas else zero for m in MEMBERS]
        fused = [result.deltas[m].matrix() for m in MEMBERS]
        plain = [v.matrix() for _, v in sorted(merge_sum([x.deltas for x in sources], [1, 1]).items())]
        wanted = [
            sum(linalg.energy(d, gram) for d in own),
            sum(linalg.energy(f - d, gram) for f, d in zip(fused, own, strict=True)),
            sum(linalg.inner(f, d, gram) for f, d in zip(fused, own, strict=True)),
            sum(linalg.energy(f - d, gram) for f, d in zip(plain, own, strict=True)),
            sum(linalg.energy(f / 2 - d, gram) for f, d in zip(plain, own, strict=True)),
        ]
        energies = row.energies[i]
        got = [energies.own, energies.residual, energies.overlap, energies.sum_residual, energies.average_residual]
        assert got == pytest.approx(wanted, rel=1e-3)
    drift = sum(linalg.energy(d.matrix(), prior.grams[GROUP.name].matrix) for d in result.deltas.values())
    assert row.drift[0] == pytest.approx(drift, rel=1e-3)
    free = FusionSettings({r: 0.0 for r in settings.ridge}, {r: 0.0 for r in settings.ridge})
    energies = fuse(sources, [GROUP], (), free, prior).report.groups[0].energies
    total = {key: sum(getattr(e, key) for e in energies) for key in ("residual", "sum_residual", "average_residual")}
    assert total["residual"] < total["average_residual"] and total["residual"] < total["sum_residual"]


def test_baselines_are_what_they_say():
    parts = [{MEMBERS[0]: low_rank(0, alpha=1.5)}, {MEMBERS[0]: low_rank(1), MEMBERS[1]: low_rank(2)}]
    summed = merge_sum(parts, [1.0, 2.0])
    assert relative(summed[MEMBERS[0]].dense(), parts[0][MEMBERS[0]].dense() + 2 * parts[1][MEMBERS[0]].dense()) < 1e-6
    mean = merge_average(parts, [1.0, 1.0])
    assert relative(mean[MEMBERS[1]].dense(), parts[1][MEMBERS[1]].dense() / 2) < 1e-6


def test_svd_ties_and_dare_are_their_formulas():
    parts = [{MEMBERS[0]: low_rank(i)} for i in range(3)]
    dense = [part[MEMBERS[0]].matrix() for part in parts]
    u, s, v = torch.linalg.svd(sum(dense))
    cut = merge_svd(parts, [1.0] * 3)[MEMBERS[0]]
    assert cut.rank == 3 and relative(cut.dense().double(), (u[:, :3] * s[:3]) @ v[:3]) < 1e-5
    tiny = [torch.tensor([[3.0, -1.0, 2.0, 0.1]]), torch.tensor([[-2.0, -4.0, 1.0, 0.2]])]
    ties = merge_ties([{"diffusion_model.a": Dense(x)} for x in tiny], [1.0, 1.0], 0.5)["diffusion_model.a"].diff
    assert torch.allclose(ties, torch.tensor([[3.0, -4.0, 2.0, 0.0]]))  # by hand: trim to 2, elect +, -, +
    dare = merge_dare(parts, [1.0, 1.0, 2.0], 0.5, [1, 2, 3])[MEMBERS[0]].dense().double()
    ratio = dare / (dense[0] + dense[1] + 2 * dense[2])
    assert float(dare.mean() - (dense[0] + dense[1] + 2 * dense[2]).mean() / 4) < 0.5 and ratio.unique().numel() > 4
    one = merge_dare(parts[:1], [1.0], 0.5, [1])[MEMBERS[0]].dense().double()
    kept = one != 0
    assert 0.4 < kept.double().mean() < 0.6 and torch.allclose(one[kept], 2 * dense[0][kept], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_depends_on_the_order(method):
    sources = [source(i) for i in range(3)]
    prior = Statistics({GROUP.name: gram_of(rows(50))})

    def run(order, **facts):
        found = fuse([sources[i] for i in order], [GROUP], (), FusionSettings(**facts), prior, method).deltas
        return {name: [t.numpy().tobytes() for t in delta.tensors().values()] for name, delta in found.items()}

    assert run([0, 1, 2]) == run([2, 0, 1]) == run([1, 2, 0])
    assert (run([0, 1, 2], seed=1) != run([0, 1, 2])) == (method == "dare")


def test_auto_size_adds_at_most_its_error_and_says_what_it_adds():
    sources = [source(i) for i in range(4)]
    prior = Statistics({GROUP.name: gram_of(rows(50))})
    whole = fuse(sources, [GROUP], (), exact_size(), prior)
    for settings in (FusionSettings(added_error=0.05), FusionSettings(max_rank=3)):
        short = fuse(sources, [GROUP], (), settings, prior)
        moment = sum(s.statistics.grams[GROUP.name].matrix for s in sources) + 0.1 * prior.grams[GROUP.name].matrix
        lost = [linalg.energy(whole.deltas[m].matrix() - short.deltas[m].matrix(), moment) for m in MEMBERS]
        own = [linalg.energy(whole.deltas[m].matrix(), moment) for m in MEMBERS]
        assert all(d.rank < 12 for d in short.deltas.values())
        assert short.report.summary()["added_error"] == pytest.approx(sum(lost) / sum(own), rel=1e-2)
        if settings.max_rank > 3:
            assert all(a <= 0.05 * b for a, b in zip(lost, own, strict=True))
        else:
            assert short.report.summary()["ranks"] == [3, 3]


def test_conflicts_are_foreseen_from_statistics():
    clash = [source(0), source(1)]
    apart = Statistics({GROUP.name: gram_of(torch.cat([rows(1)[:, : D // 2] * 0, rows(1)[:, D // 2 :]], 1))})
    first = Statistics({GROUP.name: gram_of(torch.cat([rows(0)[:, : D // 2], rows(0)[:, D // 2 :] * 0], 1))})
    same, other = clash[0].statistics, (first, apart)
    told = foresee_conflicts([clash[0], replace(clash[1], statistics=same)], [GROUP])["cross_kv"]
    separate = foresee_conflicts([replace(s, statistics=o) for s, o in zip(clash, other, strict=True)], [GROUP])[
        "cross_kv"
    ]
    gram = same.grams[GROUP.name].matrix
    energy = [sum(linalg.energy(s.deltas[m].matrix(), gram) for m in MEMBERS) for s in clash]
    assert told["total"] == pytest.approx([energy[1] / energy[0], energy[0] / energy[1]], rel=1e-4)
    assert max(separate["total"]) < 0.2 * min(told["total"])


def test_layers_are_counted_with_their_share_and_a_stage_that_is_off_is_merged():
    kernel = "diffusion_model.input_blocks.1.0.in_layers.2"
    sources = [source(0), source(1)]
    sources[0] = replace(sources[0], deltas={**sources[0].deltas, kernel: low_rank(7)})
    figures = fuse(sources, [GROUP], (kernel,), FusionSettings()).report.summary()["layers"]
    norms = [sum(float(d.matrix().square().sum()) for n, d in s.deltas.items() if n != kernel) for s in sources]
    extra = float(low_rank(7).matrix().square().sum())
    assert figures["merged"] == {"layers": 1, "norm_share": pytest.approx(extra / (sum(norms) + extra), rel=1e-4)}
    assert figures["solved"]["layers"] == 2
    dropped = fuse(sources, [GROUP], (kernel,), FusionSettings(unsolved="drop"))
    assert kernel not in dropped.deltas and dropped.report.summary()["layers"]["left out"]["layers"] == 1


@pytest.mark.parametrize(
    "facts",
    [
        {"mode": "x"},
        {"refine": 9},
        {"density": 0.0},
        {"stages": ()},
        {"size": "small"},
        {"max_rank": 0},
        {"ridge": {"text": 1.0}},
    ],
)
def test_settings_outside_their_range_are_named(facts):
    with pytest.raises(MixOfShowError, match=r"mode|refine|density|stage|size|max_rank|ridge"):
        FusionSettings(**facts)


def test_weights_are_read_by_name_and_mistakes_are_told():
    settings = FusionSettings(weights=parse_weights("Mara: 2, finn: 0.5\n"))
    assert settings.weights_of([("mara",), ("ink", "ink.safetensors"), ("finn",)]) == (2.0, 1.0, 0.5)
    assert settings.describe() != FusionSettings().describe() and parse_weights("") == {}
    with pytest.raises(MixOfShowError, match=r"weight to finn.*are mara"):
        settings.weights_of([("mara",)])
    for wrong in ("mara", "mara: two", ": 2", "mara: 0", "mara: nan", "mara: 1, mara: 2", "mara: 1e9"):
        with pytest.raises(MixOfShowError, match="`weights` of Fusion Settings"):
            parse_weights(wrong)


def test_a_heavier_concept_loses_less():
    light, heavy = (
        fuse([source(0), source(1, weight=w)], [GROUP], (), exact_size()).report.summary() for w in (1.0, 10.0)
    )
    residual = [figures["roles"]["cross_kv"]["residual"] for figures in (light, heavy)]
    assert residual[1][1] < 0.5 * residual[0][1] and residual[1][0] > residual[0][0]
    words = f"c1 keeps: keys and values {1 - residual[1][1]:.0%}\n"
    assert words in format_report(heavy)
    assert "objective weights: c0 1, c1 10" in format_report(heavy) and "objective weights" not in format_report(light)


def test_shortening_is_the_best_cut_and_the_report_counts_ranks():
    delta = low_rank(0, 4, alpha=2.0)
    u, s, v = torch.linalg.svd(delta.matrix())
    assert relative(shorten(delta, 1).matrix(), s[0] * u[:, :1] @ v[:1]) < 1e-5
    assert shorten(delta, 4) is delta
    cut = [replace(s, deltas={m: shorten(d, 1) for m, d in s.deltas.items()}) for s in (source(0), source(1))]
    for sources, total in (([source(0), source(1)], 6), (cut, 2)):
        report = fuse(sources, [GROUP], (), FusionSettings(max_rank=1)).report
        assert report.summary()["roles"]["cross_kv"]["rank_share"] == total / D


def test_layers_that_cannot_be_solved_are_listed_and_averaged():
    kernel = "diffusion_model.input_blocks.1.0.in_layers.2"
    feed = f"{NAME.removesuffix('.attn2')}.ff.net.2"
    deltas = [{MEMBERS[0]: low_rank(0), kernel: low_rank(5), feed: low_rank(6)}, {MEMBERS[0]: low_rank(1)}]
    groups, unsolved = choose_groups([GROUP], {*MEMBERS, feed}, deltas)
    assert [g.name for g in groups] == [GROUP.name, feed] and unsolved == (kernel,)
    sources = [Source(f"c{i}", str(i), d, Statistics({GROUP.name: gram_of(rows(i))})) for i, d in enumerate(deltas)]
    result = fuse(sources, groups, unsolved, FusionSettings())
    assert relative(result.deltas[kernel].dense(), deltas[0][kernel].dense() / 2) < 1e-6


def test_near_singular_input_raises_the_ridge_and_says_so():
    gram = torch.ones(D, D, dtype=torch.float64)
    factor = linalg.factor_ridge(gram, 1e-15, where="layer x")
    assert factor.ridge > 1e-15 and "ridge raised" in factor.reason
    assert bool(torch.isfinite(factor.apply_right(torch.ones(2, D, dtype=torch.float64))).all())


def test_condition_estimate_is_close():
    values = torch.logspace(0, -5, D, dtype=torch.float64)
    q = torch.linalg.qr(rows(3, D)).Q
    estimate = linalg.factor_ridge(q @ torch.diag(values) @ q.mT, 0.0).condition
    assert 3e4 < estimate < 1.1e5


def test_bad_numbers_are_errors():
    with pytest.raises(MixOfShowError, match="not finite"):
        Gram(torch.full((3, 3), float("nan"), dtype=torch.float64), 1.0)
    with pytest.raises(MixOfShowError, match="positive"):
        problem([rows(0)], [{MEMBERS[0]: low_rank(0)}], (0.0,))
    with pytest.raises(MixOfShowError, match="of 5 inputs"):
        solve_group(problem([rows(0)], [{MEMBERS[0]: LowRank(torch.ones(OUT, 1), torch.ones(1, 5))}]), 0.0, 0.0)
    with pytest.raises(MixOfShowError, match="listed twice"):
        fuse([source(0), source(0)], [GROUP], (), FusionSettings())


def test_weighted_truncation_is_optimal_and_states_its_error():
    gram = gram_of(rows(0)).matrix
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(OUT, 10, generator=generator, dtype=torch.float64)
    down = torch.randn(10, D, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(gram)
    singular = torch.linalg.svdvals(up @ down @ vectors * values.sqrt())
    short_up, short_down, error = linalg.truncate_weighted(up, down, gram, rank=4)
    left = linalg.energy(short_up @ short_down - up @ down, gram) / linalg.energy(up @ down, gram)
    wanted = float((singular[4:] ** 2).sum() / (singular**2).sum())
    assert error == pytest.approx(wanted, rel=1e-6) and left == pytest.approx(wanted, rel=1e-6)
    assert linalg.truncate_weighted(up, down, gram, error=1.1 * wanted)[0].shape[1] == 4


def test_packing_round_trip():
    matrix = gram_of(rows(0)).matrix
    packed = linalg.pack_symmetric(matrix)
    assert packed.numel() == D * (D + 1) // 2
    assert torch.equal(linalg.unpack_symmetric(packed), matrix.tril() + matrix.tril(-1).mT)
    with pytest.raises(MixOfShowError, match="cannot have shape"):
        linalg.unpack_symmetric(torch.zeros(4, 2))


@pytest.mark.parametrize("count", range(1, 10))
def test_ordered_sum_is_right_and_leaves_its_terms_alone(count):
    terms, weights = [rows(i, 3) for i in range(count)], [1.0 + (i % 3) for i in range(count)]
    copies = [term.clone() for term in terms]
    total = linalg.ordered_sum(terms, weights)
    assert torch.allclose(total, sum(w * t for w, t in zip(weights, terms, strict=True)))
    assert all(torch.equal(a, b) for a, b in zip(terms, copies, strict=True))
    assert all(total.data_ptr() != term.data_ptr() for term in terms)


def test_a_dense_merge_that_was_measured_on_nobody_has_no_energy():
    """TIES and DARE answer with whole matrices and collect no inputs."""
    delta = {MEMBERS[0]: LowRank(torch.ones(OUT, 1), torch.ones(1, D))}
    row = measure_group(
        GroupProblem(GROUP.name, GROUP.role, MEMBERS, {}, (delta,), (1.0,)),
        {MEMBERS[0]: Dense(torch.ones(OUT, D))},
        0.0,
        1.0,
        "",
    )
    assert row.residual == 0 and row.energies[0].own == 0
