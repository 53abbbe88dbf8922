"""Operations per UNet call against the plain call: what a fast GPU's step is bound by. docs/evidence/regional.md."""

import pytest

# What is reached (SD1.5 1.43 and 1.56 with two and eight regions, SDXL 1.40 and 1.44), with room for another torch.
BOUNDS = {
    "sd15": {"regions 2": 1.5, "regions 8": 1.65, "layered regions 2": 1.55, "routed 2": 1.95, "routed 4": 2.05},
    "sdxl": {"regions 2": 1.48, "regions 8": 1.52, "layered regions 2": 1.53, "routed 2": 1.9, "routed 4": 2.07},
}


@pytest.mark.parametrize("family", list(BOUNDS))
def test_regions_and_routing_send_few_operations(family):
    from mos_benchmarks.cost.launches import measure

    only = ("regions 2", "regions 8", "routed 2")
    found = {name: seen.total() for name, (seen, _) in measure(family, only).items()}
    ratios = {name: total / found["plain"] for name, total in found.items() if name != "plain"}
    assert ratios.keys() == set(only)
    assert all(1 < ratio <= BOUNDS[family][name] for name, ratio in ratios.items()), ratios


def test_more_regions_cost_hardly_more_operations():
    """Regions share one attention call per layer, and what is constant over a size is made once for all its layers."""
    from mos_benchmarks.cost.launches import measure

    found = {name: seen.total() for name, (seen, _) in measure("sdxl", ("regions 2", "regions 8")).items()}
    assert found["regions 8"] - found["regions 2"] < 0.06 * found["plain"]
