"""What is observed in a forward pass and what the files of families list agree."""

import pytest
import torch
from mos_pack.mixofshow_core.families.nets import has_places, layer_groups
from mos_pack.nodes.bridge.fusing.observe import observe
from mos_pack.nodes.bridge.host.model import named_linears, net_of


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd2", "cosmos", "anima"])
def test_listed_groups_are_the_observed_ones(family, request):
    base = request.getfixturevalue(f"tiny_{family}")
    with torch.inference_mode():
        seen = observe(base.model, base.clip)
    observed = {member: group for group in seen.groups() for member in group.members}
    listed = layer_groups(net_of(base.model))
    for group in listed:
        found = {id(observed[member]) for member in group.members}
        assert len(found) == 1, f"{group.name} is no group"
        if group.role != "cross_kv":  # every layer reads the one text, unless words are layered
            assert observed[group.members[0]].members == group.members
    for name, module in named_linears(base.model, None).items():
        if name in seen.entered and isinstance(module, torch.nn.Linear):  # convolutions always have places
            assert has_places(name) == (name in seen.places), name
