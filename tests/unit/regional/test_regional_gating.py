"""Gated low-rank changes against the dense sum they stand for."""

import pytest
import torch
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.regional.gating import (
    Gates,
    Kernel,
    add_gated,
    add_gated_kernel,
    add_gated_norm,
    concept_gates,
    gate_ranks,
    join,
    stack_factors,
    stack_norms,
)


@pytest.fixture
def deltas():
    torch.manual_seed(0)
    return [{"a": LowRank(torch.randn(6, r), torch.randn(r, 5), 3.0)} for r in (2, 4)] + [{}]


def test_gated_change_is_the_dense_sum_at_every_token(deltas):
    factors = stack_factors(deltas)["a"]
    x, out, gates = torch.randn(2, 7, 5), torch.randn(2, 7, 6), torch.rand(2, 7, 3)
    wanted = out + sum(gates[..., c, None] * (x @ deltas[c]["a"].dense().T) for c in (0, 1))
    assert torch.allclose(add_gated(out, x, factors, Gates(gates)), wanted, atol=1e-5)


def test_a_1x1_convolution_is_a_linear_layer_on_pixels(deltas):
    factors = stack_factors(deltas)["a"]
    x, out, gates = torch.randn(2, 5, 3, 4), torch.randn(2, 6, 3, 4), torch.rand(2, 12, 3)
    flat = add_gated(out.flatten(2).transpose(1, 2).clone(), x.flatten(2).transpose(1, 2), factors, Gates(gates))
    assert torch.allclose(add_gated(out, x, factors, Gates(gates)), flat.transpose(1, 2).view_as(out), atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_output_map_is_gated(stride):
    """Place by place: the whole change of each concept, times its gate there."""
    deltas = [{"a": LowRank(torch.randn(6, r), torch.randn(r, 5 * 9), 3.0)} for r in (2, 4)]
    factors = stack_factors(deltas)["a"]
    x = torch.randn(2, 5, 7, 4)
    kernel = Kernel((3, 3), (stride, stride), (1, 1), (1, 1))
    dense = [d["a"].dense().view(6, 5, 3, 3) for d in deltas]
    changes = [torch.nn.functional.conv2d(x, weight, None, stride, 1) for weight in dense]
    out, cells = torch.randn_like(changes[0]), changes[0][0, 0].numel()
    gates = torch.rand(2, cells, 2)
    maps = gates.transpose(1, 2).view(2, 2, 1, *out.shape[-2:])
    wanted = out + maps[:, 0] * changes[0] + maps[:, 1] * changes[1]
    assert torch.allclose(add_gated_kernel(out, x, factors, Gates(gates), kernel), wanted, atol=1e-4)


def test_one_gate_for_all_tokens(deltas):
    factors = stack_factors(deltas)["a"]
    x, out = torch.randn(2, 7, 5), torch.randn(2, 7, 6)
    gates = torch.tensor([[[1.0, 0, 0]], [[0, 0, 0]]])
    found = add_gated(out.clone(), x, factors, Gates(gates))
    assert torch.allclose(found[0], out[0] + x[0] @ deltas[0]["a"].dense().T, atol=1e-5)
    assert torch.equal(found[1], out[1])


def test_layers_that_read_one_tensor_share_a_product(deltas):
    """Their ranks side by side are each layer's own, also where the layers have other concepts and ranks."""
    stacked = [stack_factors(one)["a"] for one in (deltas, deltas[::-1], deltas[:1])]
    joined, spans = join(stacked)
    x, gates = torch.randn(2, 7, 5), Gates(torch.rand(2, 7, 3))
    ranks = gate_ranks(x, joined, gates)
    for own, span in zip(stacked, spans, strict=True):
        out = torch.randn(2, 7, 6)
        wanted = add_gated(out.clone(), x, own, gates)
        assert torch.allclose(add_gated(out, x, own, gates, ranks[..., span]), wanted, atol=1e-5)


def test_gates_follow_the_regions_and_the_background_takes_the_rest():
    weights = torch.tensor([[[1.0, 0.25, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]])
    gates = concept_gates(weights, (0, 0, None), 1, 2)
    assert torch.allclose(gates[0], torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.0, 0.5]]))


@pytest.mark.parametrize("thin", [True, False])
def test_full_matrices_are_gated_beside_products(deltas, thin):
    whole = Dense(torch.randn(6, 5))
    factors = stack_factors([*(deltas[:2] if thin else [{}, {}]), {"a": whole}])["a"]
    x, out, gates = torch.randn(2, 7, 5), torch.randn(2, 7, 6), torch.rand(2, 7, 3)
    wanted = out + gates[..., 2, None] * (x @ whole.diff.T)
    if thin:
        wanted = wanted + sum(gates[..., c, None] * (x @ deltas[c]["a"].dense().T) for c in (0, 1))
    assert torch.allclose(add_gated(out, x, factors, Gates(gates)), wanted, atol=1e-5)


def test_a_full_kernels_output_map_is_gated():
    whole = Dense(torch.randn(6, 5, 3, 3))
    factors = stack_factors([{}, {"a": whole}])["a"]
    x, out, gates = torch.randn(2, 5, 7, 4), torch.randn(2, 6, 7, 4), torch.rand(2, 28, 2)
    change = torch.nn.functional.conv2d(x, whole.diff, None, 1, 1)
    found = add_gated_kernel(out, x, factors, Gates(gates), Kernel((3, 3), (1, 1), (1, 1), (1, 1)))
    assert torch.allclose(found, out + gates[..., 1].view(2, 1, 7, 4) * change, atol=1e-4)


@pytest.mark.parametrize("alone", [True, False])
def test_biases_are_gated_with_and_without_a_change_of_the_weight(deltas, alone):
    bias = Dense(torch.randn(6))
    factors = stack_factors([{} if alone else deltas[0], {"a.bias": bias}])["a"]
    x, out, gates = torch.randn(2, 7, 5), torch.randn(2, 7, 6), torch.rand(2, 7, 2)
    wanted = out + gates[..., 1, None] * bias.diff
    wanted = wanted if alone else wanted + gates[..., 0, None] * (x @ deltas[0]["a"].dense().T)
    assert torch.allclose(add_gated(out, x, factors, Gates(gates)), wanted, atol=1e-5)
    pixels, kernel = torch.randn(2, 5, 3, 4), Kernel((3, 3), (1, 1), (1, 1), (1, 1))
    shift = stack_factors([{}, {"a.bias": bias}])["a"]
    found = add_gated_kernel(torch.zeros(2, 6, 3, 4), pixels, shift, Gates(torch.ones(2, 12, 2)), kernel)
    assert torch.allclose(found, bias.diff.view(1, 6, 1, 1).expand_as(found))


def test_norms_are_gated_in_weight_and_bias():
    weight, bias = torch.randn(6), torch.randn(6)
    change = stack_norms([{"n": Dense(weight)}, {"n.bias": Dense(bias)}])["n"]
    normed, out, gates = torch.randn(2, 7, 6), torch.randn(2, 7, 6), torch.rand(2, 7, 2)
    wanted = out + gates[..., 0, None] * normed * weight + gates[..., 1, None] * bias
    assert torch.allclose(add_gated_norm(out, normed, change, Gates(gates)), wanted, atol=1e-5)
