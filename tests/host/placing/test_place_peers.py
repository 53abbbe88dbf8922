"""The peers in the benchmark do what they stand for, so that a comparison with them says something."""

import importlib.util

import pytest
import torch
from mos_tests.host.placing.test_regions import NEAR, Case, gap, rect
from mos_tests.host.runtime import ROOT


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("mos_peers", ROOT / "benchmarks" / "cost" / "peers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_attention_couple(tiny_sd15, peers):
    """A mask over everything is that prompt; two halves are ours but for the tokens on the seam.

    There the masks differ a little: ours are shrunk by way of the latent, theirs straight from the pixels.
    """
    case = Case("sd15", tiny_sd15.model)
    everything = torch.stack([torch.zeros(72, 104), torch.ones(72, 104)])
    found = case.sample(peers.attention_couple(case.model, everything, [case.b]), case.cond(case.a), batch=2)
    assert gap(found, case.sample(case.model, case.cond(case.b), batch=2)) < NEAR
    placed = case.map(rect(width=8 / 13), rect(x=8 / 13, width=5 / 13))
    couple = peers.attention_couple(case.model, placed.masks.float() / 255, [case.c])
    ours = case.cond(case.a, texts=[case.a, case.c], placed=placed)
    halves = case.sample(case.patched, ours)
    assert gap(case.sample(couple, case.cond(case.a)), halves) < 5e-3
    assert gap(case.sample(case.model, case.cond(case.a)), halves) > 0.02
