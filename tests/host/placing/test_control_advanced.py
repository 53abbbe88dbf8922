"""Region Control in one chain with Advanced-ControlNet, where ADVANCED_CONTROLNET_PATH names a clone of that pack."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from mos_pack.nodes.control import MixOfShowRegionControl
from mos_tests.host.placing.test_control import make_control, residuals, sample, stock
from mos_tests.host.placing.test_regions import Case, rect

PATH = os.environ.get("ADVANCED_CONTROLNET_PATH", "")
pytestmark = pytest.mark.skipif(
    not PATH, reason="no package index carries Advanced-ControlNet: set ADVANCED_CONTROLNET_PATH to a clone of it"
)


@pytest.fixture(scope="module")
def theirs():
    """Their pack as the host loads it: by path."""
    spec = importlib.util.spec_from_file_location(
        "advanced_controlnet", Path(PATH) / "__init__.py", submodule_search_locations=[PATH]
    )
    sys.modules["advanced_controlnet"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return importlib.import_module("advanced_controlnet.adv_control.nodes_main").AdvancedControlNetApply


@pytest.fixture
def case(tiny_sd15):
    return Case("sd15", tiny_sd15.model)


@pytest.fixture
def picture():
    return torch.rand(1, 72, 104, 3, generator=torch.Generator().manual_seed(4))


def ours(case, control, picture, *regions, before):
    placed = case.map(*regions)
    return MixOfShowRegionControl.execute(*before, control, picture, placed, 0.7, 1.0, 0.0, 1.0).result


@pytest.mark.parametrize("kind", ["controlnet", "t2i-adapter"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_one_chain_of_both(theirs, case, picture, kind, ours_first):
    """All weights 1: the chain is the host's own, whichever comes first."""
    first, second = make_control(kind), make_control("t2i-adapter", 12)

    def advanced(control, before):
        return theirs.execute(*before, control, picture, 0.7, 0.0, 1.0).args

    plain = case.cond(case.a), case.cond(case.n)
    wanted = stock(case, second, picture, before=stock(case, first, picture))
    if ours_first:
        mixed = advanced(second, ours(case, first, picture, rect(), before=plain))
    else:
        mixed = ours(case, second, picture, rect(), before=advanced(first, plain))
    one, other = sample(case, mixed), sample(case, wanted)
    assert (one - other).abs().max() < 1e-5 * other.abs().max()


def test_ours_weighs_a_control_that_their_loader_made(theirs, case, picture):
    """A control of theirs inside ours: half of the picture keeps it, the other half is free of it."""
    convert = importlib.import_module("advanced_controlnet.adv_control.control").convert_to_advanced
    control = convert(make_control("t2i-adapter"))
    plain = case.cond(case.a), case.cond(case.n)
    half = ours(case, control, picture, rect(width=8 / 13), rect(x=8 / 13, width=5 / 13, control=0), before=plain)
    free = residuals(case, ours(case, control, picture, rect(control=0), before=plain))
    whole = residuals(case, ours(case, control, picture, rect(control=0.5), before=plain))
    found = residuals(case, half)
    finest = [number for number, part in enumerate(found["input"]) if part is not None and part.shape[-1] == 13]
    assert finest
    for number in finest:
        assert torch.allclose(found["input"][number][..., :8], 2 * whole["input"][number][..., :8])
        assert not found["input"][number][..., 8:].any() and not free["input"][number].any()
