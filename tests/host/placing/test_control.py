"""Controls per region: random tiny ControlNet and T2I-Adapter of the host's own classes, through its sampler."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.t2i_adapter.adapter
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.placing.control import RegionControl
from mos_pack.nodes.control import MixOfShowRegionControl
from mos_tests.host.placing.test_place import picture as placed_picture
from mos_tests.host.placing.test_place import place_graph
from mos_tests.host.placing.test_regions import Case, rect
from mos_tests.host.tiny import randomise, unet_config
from safetensors.torch import save_file

import nodes as host_nodes

CPU = torch.device("cpu")


@pytest.fixture
def sd15(tiny_sd15):
    return Case("sd15", tiny_sd15.model)


@pytest.fixture
def picture():
    return torch.rand(1, 72, 104, 3, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module", params=["controlnet", "t2i-adapter"])
def control(request):
    return make_control(request.param)


def make_control(kind, seed=11):
    if kind == "t2i-adapter":
        net = comfy.t2i_adapter.adapter.Adapter(
            cin=192, channels=[32, 64, 128, 128], nums_rb=2, ksize=1, sk=True, use_conv=False, xl=False
        )
        randomise(net, seed, 0.2)
        return comfy.controlnet.T2IAdapter(net.eval(), 3, 8, "nearest-exact", device=CPU)
    config = {key: value for key, value in unet_config("sd15").items() if key not in ("out_channels",)}
    for name in ("use_temporal_attention", "use_temporal_resblock", "transformer_depth_output"):
        config.pop(name)
    net = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, device=CPU, operations=comfy.ops.disable_weight_init)
    randomise(net, seed, 0.1)
    net.eval().requires_grad_(False)
    return comfy.controlnet.ControlNet(net, load_device=CPU)


def stock(case, control, picture, strength=0.7, start=0.0, end=1.0, before=None):
    conds = before or (case.cond(case.a), case.cond(case.n))
    return host_nodes.ControlNetApplyAdvanced().apply_controlnet(*conds, control, picture, strength, start, end)


def ours(case, control, picture, *regions, outside=1.0, strength=0.7, start=0.0, end=1.0, before=None, **top):
    conds = before or (case.cond(case.a), case.cond(case.n))
    placed = case.map(*regions, **top)
    return MixOfShowRegionControl.execute(*conds, control, picture, placed, strength, outside, start, end).result


def sample(case, conds, **more):
    return case.sample(case.model, *conds, batch=2, **more)


def residuals(case, conds, rows=2):
    """What the host would add to the UNet for one noise."""
    made = conds[0][0][1]["control"]
    made.pre_run(case.model.model, lambda percent: case.model.model.model_sampling.percent_to_sigma(percent))
    noise = torch.randn(rows, 4, case.rows, case.columns, generator=torch.Generator().manual_seed(8))
    try:
        cond = {"c_crossattn": torch.cat([case.a, case.n])}
        found = made.get_control(noise, torch.full((rows,), 5.0), cond, 2, {})
    finally:
        made.cleanup()
    return {stage: [None if part is None else part.clone() for part in parts] for stage, parts in found.items()}


def test_all_ones_is_stock_bit_for_bit(sd15, control, picture):
    wanted = sample(sd15, stock(sd15, control, picture))
    assert torch.equal(sample(sd15, ours(sd15, control, picture, rect(width=0.5))), wanted)
    plain = sample(sd15, (sd15.cond(sd15.a), sd15.cond(sd15.n)))
    assert (wanted - plain).abs().max() > 1e-3 * plain.abs().max()


def test_all_zeros_is_no_control_at_all(sd15, control, picture):
    plain = sample(sd15, (sd15.cond(sd15.a), sd15.cond(sd15.n)))
    off = ours(sd15, control, picture, rect(width=0.5, control=0), outside=0)
    assert torch.equal(sample(sd15, off), plain)
    painted = ours(sd15, control, picture, rect(control=0), outside=1.0)  # zeros cell by cell
    assert torch.equal(sample(sd15, painted), plain)


def test_half_and_half_is_each_half_cell_by_cell(sd15, control, picture):
    full = residuals(sd15, stock(sd15, control, picture))
    left, right = rect(width=8 / 13, control=0.25), rect(x=8 / 13, width=5 / 13, control=2)
    found = residuals(sd15, ours(sd15, control, picture, left, right, outside=0, edges="paper"))
    for stage, parts in found.items():
        assert len(parts) == len(full[stage])
        for mine, whole in zip(parts, full[stage], strict=True):
            assert (mine is None) == (whole is None)
            if mine is not None and mine.shape[-1] == 13:
                assert torch.equal(mine[..., :8], whole[..., :8] * 0.25)
                assert torch.equal(mine[..., 8:], whole[..., 8:] * 2)
            elif mine is not None:
                cells = mine.shape[-1]
                edge = int(8 / 13 * cells)
                assert torch.equal(mine[..., :edge], whole[..., :edge] * 0.25)
                assert torch.equal(mine[..., edge + 1 :], whole[..., edge + 1 :] * 2)


def test_a_feathered_region_blends_with_the_outside(sd15, control, picture):
    full = residuals(sd15, stock(sd15, control, picture))
    found = residuals(sd15, ours(sd15, control, picture, rect(width=0.5, feather=0.4, control=0), outside=1.0))
    one, other = (
        next(part for parts in made.values() for part in parts if part is not None and part.shape[-1] == 13)
        for made in (found, full)
    )
    ratio = one.abs().sum((0, 1))[4] / other.abs().sum((0, 1))[4]
    assert ratio[0] == 0 and abs(float(ratio[-1]) - 1) < 1e-5
    assert (ratio[4:9].diff() > 0.05).all() and 0.2 < ratio[6] < 0.8


def test_controls_are_chained_in_both_orders(sd15, picture):
    first, second = make_control("controlnet"), make_control("t2i-adapter")
    wanted = residuals(sd15, stock(sd15, second, picture, before=stock(sd15, first, picture)))
    for mine in (
        ours(sd15, second, picture, rect(), before=stock(sd15, first, picture)),
        stock(sd15, second, picture, before=ours(sd15, first, picture, rect())),
        ours(sd15, second, picture, rect(), before=ours(sd15, first, picture, rect())),
    ):
        found = residuals(sd15, mine)
        for stage, parts in wanted.items():
            for one, other in zip(found[stage], parts, strict=True):
                assert (one is None and other is None) or torch.equal(one, other)
    without = residuals(sd15, ours(sd15, second, picture, rect(control=0), before=stock(sd15, first, picture)))
    alone = residuals(sd15, stock(sd15, first, picture))
    assert not any(part.any() for part in without.pop("input") if part is not None)  # only the adapter feeds these
    for stage, parts in without.items():
        assert all(torch.equal(a, b) for a, b in zip(parts, alone[stage], strict=True) if b is not None)


def test_positive_and_negative_still_run_together(sd15, control, picture):
    sizes = []
    hook = sd15.model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        sample(sd15, ours(sd15, control, picture, rect(width=0.5, control=0.2)), steps=1)
    finally:
        hook.remove()
    assert sizes == [4]


def test_schedule_is_the_hosts(sd15, control, picture):
    wanted = sample(sd15, stock(sd15, control, picture, start=0.3, end=0.8), steps=4)
    found = sample(sd15, ours(sd15, control, picture, rect(), start=0.3, end=0.8), steps=4)
    assert torch.equal(found, wanted)
    assert not torch.equal(sample(sd15, ours(sd15, control, picture, rect()), steps=4), wanted)


def test_second_queue_is_the_first_and_nothing_stays(sd15, control, picture):
    conds = ours(sd15, control, picture, rect(width=0.5, control=0.2), outside=0.5)
    first = sample(sd15, conds)
    assert torch.equal(sample(sd15, conds), first)
    made = conds[0][0][1]["control"]
    assert isinstance(made, RegionControl) and not made.maps and made.inner.cond_hint is None
    copied = made.copy()
    assert copied is not made and copied.inner is not made.inner and copied.placed is made.placed


def test_works_with_regions_of_text(sd15, control, picture):
    """Text and control of one region set: a region that covers all is that prompt under that control."""
    placed = sd15.map(rect(control=0.5))
    regional = sd15.cond(sd15.b, texts=[sd15.a], placed=placed), sd15.cond(sd15.n)
    made = MixOfShowRegionControl.execute(*regional, control, picture, placed, 1.0, 1.0, 0.0, 1.0).result
    found = sd15.sample(sd15.patched, *made)
    read = sd15.cond(sd15.a, cross_attn_controlnet=sd15.b), sd15.cond(sd15.n)  # a ControlNet reads the whole prompt
    wanted = sd15.sample(sd15.model, *stock(sd15, control, picture, strength=0.5, before=read))
    assert (found - wanted).abs().max() < 5e-5 * wanted.abs().max()


def test_strength_zero_changes_nothing(sd15, control, picture):
    conds = sd15.cond(sd15.a), sd15.cond(sd15.n)
    assert ours(sd15, control, picture, rect(), strength=0, before=conds)[0] is conds[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control_net": None}, "CONTROL_NET is empty"),
        ({"image": None}, "image is nothing; connect a picture"),
        ({"image": torch.zeros(0, 8, 8, 3)}, "connect a picture"),
        ({"image": torch.full((1, 8, 8, 3), float("nan"))}, "NaN"),
        ({"start": 0.8, "end": 0.2}, "start must come first"),
    ],
)
def test_bad_input(sd15, picture, change, message):
    given = {"control_net": make_control("t2i-adapter"), "image": picture, "start": 0.0, "end": 1.0} | change
    with pytest.raises(MixOfShowError, match=message):
        MixOfShowRegionControl.execute(sd15.cond(sd15.a), sd15.cond(sd15.n), regions=sd15.map(rect()), **given)


def test_the_real_server_weighs_a_loaded_adapter(server):
    """Loader, Region Control and sampler as nodes: all ones is the host's own Apply ControlNet, all zeros is none."""
    folder = server.base / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(make_control("t2i-adapter").t2i_model.state_dict(), folder / "tiny_adapter.safetensors")
    graph = place_graph()
    graph["20"] = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "tiny_adapter.safetensors"}}
    flat = {"width": 128, "height": 64, "batch_size": 1, "color": 0x80FF20}
    graph["21"] = {"class_type": "EmptyImage", "inputs": flat}
    shared = {"positive": ["2", 1], "negative": ["2", 2], "control_net": ["20", 0], "image": ["21", 0], "strength": 1.0}
    always = {"start_percent": 0.0, "end_percent": 1.0}
    stock_node = {"class_type": "ControlNetApplyAdvanced", "inputs": shared | always}

    def ours_node(**weights):
        inputs = shared | {"regions": ["8", 0], "start": 0.0, "end": 1.0} | weights
        return {"class_type": "MixOfShowRegionControl", "inputs": inputs}

    def run(node, **changes):
        changed = {key: {**value, "inputs": dict(value["inputs"])} for key, value in graph.items()}
        if node is not None:
            changed["22"] = node
            changed["5"]["inputs"] |= {"positive": ["22", 0], "negative": ["22", 1]}
        if changes:
            editor = changed["8"]["inputs"]["editor"].replace('"prompt":', '"control": 0, "prompt":')
            changed["8"]["inputs"]["editor"] = editor
        return placed_picture(server, server.run(changed)).tobytes()

    without, stock_bytes = run(None), run(stock_node)
    assert without != stock_bytes
    assert run(ours_node(outside=1.0)) == stock_bytes
    assert run(ours_node(outside=0.0), control=0) == without
