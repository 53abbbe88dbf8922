"""Every merge is one row: found by all who offer it, wired, explained, and written down with its source."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.fusion.fuse import Source, merge
from mos_pack.mixofshow_core.fusion.merges import merge_iso, merge_sum
from mos_pack.mixofshow_core.fusion.methods import METHODS, Method, describe_methods, method_of
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.mixofshow_core.fusion.statistics import Statistics

ROOT = Path(__file__).resolve().parents[3]
LAYER = "diffusion_model.a.to_k"


def low(seed, rank=2, out=6, width=5):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(out, rank, generator=generator), torch.randn(rank, width, generator=generator))


def sources(*deltas):
    return [Source(f"c{n}", f"id{n}", {LAYER: d}, Statistics({}), 1.0 + n) for n, d in enumerate(deltas)]


def test_every_row_is_explained_where_people_look():
    told = describe_methods()
    maths = (ROOT / "docs" / "maths.md").read_text(encoding="utf-8")
    page = (ROOT / "web" / "docs" / "MixOfShowFuse.md").read_text(encoding="utf-8")
    for name, row in METHODS.items():
        assert f"{name}: {row.about}" in told
        assert f"`{name}`" in maths, f"docs/maths.md has no line for {name}"
        assert f"`{name}`" in page, f"the help page of Fuse does not name {name}"


@pytest.mark.parametrize("name", [row.name for row in METHODS.values() if not row.needs_statistics])
def test_every_merge_gives_every_layer_and_differs_from_the_others(name):
    found = {
        row: merge(row, sources(low(0), low(1)), [LAYER], FusionSettings())[LAYER].dense()
        for row, method in METHODS.items()
        if not method.needs_statistics
    }
    assert found[name].shape == (6, 5) and bool(torch.isfinite(found[name]).all())
    for other, matrix in found.items():
        assert other == name or not torch.allclose(found[name], matrix), f"{name} gives what {other} gives"


def test_every_solved_method_has_numbers_of_its_own():
    recipes = [row.recipe(FusionSettings(), "text") for row in METHODS.values() if row.needs_statistics]
    assert len({str(recipe) for recipe in recipes}) == len(recipes)


def test_a_row_without_its_part_is_refused():
    for missing in ("merge", "about"):
        row = METHODS["iso"]
        with pytest.raises(MixOfShowError, match="iso"):
            replace(row, **{missing: None if missing == "merge" else ""})
    with pytest.raises(MixOfShowError, match="either"):
        Method("both", "two things", recipe=METHODS["exact"].recipe, merge=METHODS["sum"].merge)


def test_an_unknown_name_is_an_error_that_lists_all():
    with pytest.raises(MixOfShowError, match="magic.*exact.*iso"):
        method_of("magic")


@pytest.mark.parametrize("whole", [False, True])
def test_iso_keeps_the_directions_of_the_sum_and_evens_their_strength(whole):
    parts = [{LAYER: Dense(low(n).dense()) if whole else low(n)} for n in range(2)]
    total = merge_sum(parts, [1.0, 1.0])[LAYER].matrix()
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    rank = int((s > 1e-5).sum())
    even = merge_iso(parts, [1.0, 1.0])[LAYER]
    wanted = u[:, :rank] @ v[:rank] * s[:rank].mean()
    assert torch.allclose(even.matrix(), wanted, atol=1e-5)
    assert whole or even.rank == rank == 4
    values = torch.linalg.svdvals(even.matrix())
    assert torch.allclose(values[:rank], values[:rank].mean().expand(rank), atol=1e-5)
    assert float(values[rank:].sum()) < 1e-4


def test_iso_of_nothing_is_nothing():
    parts = [{LAYER: LowRank(torch.zeros(6, 2), torch.zeros(2, 5))}]
    assert float(merge_iso(parts, [1.0])[LAYER].dense().abs().sum()) == 0
