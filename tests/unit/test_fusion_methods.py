"""Every method in the list has something behind it, and nothing else is taken for one."""

import pytest
import torch
from mos_pack.mixofshow_core.concept import LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.fusion.fuse import Source, merge
from mos_pack.mixofshow_core.fusion.settings import MERGED, METHODS, SOLVED, FusionSettings, recipe_of
from mos_pack.mixofshow_core.fusion.statistics import Statistics
from mos_pack.mixofshow_core.topology import ROLE_TEXT

DELTA = {"a": LowRank(torch.ones(3, 1), torch.ones(1, 3), None)}
SOURCES = (Source("x", "1" * 12, DELTA, Statistics({})), Source("y", "2" * 12, DELTA, Statistics({})))


def test_every_method_is_wired():
    assert set(METHODS) == {*SOLVED, *MERGED}
    recipes = [recipe_of(method, FusionSettings(), ROLE_TEXT) for method in SOLVED]
    assert len(set(recipes)) == len(recipes)
    for method in MERGED:
        assert merge(method, SOURCES, ["a"], FusionSettings()).keys() == {"a"}


def test_an_unknown_method_is_an_error_and_no_other_method():
    with pytest.raises(MixOfShowError, match="magic"):
        recipe_of("magic", FusionSettings(), ROLE_TEXT)
    with pytest.raises(MixOfShowError, match="magic"):
        merge("magic", SOURCES, ["a"], FusionSettings())
