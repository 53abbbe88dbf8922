"""The fitted reading of places, on planted attention: no model is needed."""

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.regional.finding import (
    MOST_PLACES,
    Fit,
    attention_features,
    grid_of,
    in_what_is_left,
    mentions,
    open_gates,
    picker,
    plain_reading,
    resized,
    scaled_keys,
    winner,
)

HEADS = {2: 3, 5: 2}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(seed, people=2, places=40):
    """Features that say who is where in one head of five, the wrong way round in another, and nothing elsewhere."""
    draw = generator(seed)
    who = torch.randint(0, people, (places,), generator=draw)
    truth = torch.nn.functional.one_hot(who, people).float()
    features = 0.5 * torch.randn(places, people, 10, generator=draw)
    features[:, :, 2] += truth
    features[:, :, 7] -= truth
    return features, truth


def read(reading, features):
    """d of all layers for features [P, K, 10]."""
    maps, start = 0, 0
    for layer, heads in HEADS.items():
        part = features[..., start : start + 2 * heads].unflatten(2, (heads, 2)).permute(2, 0, 1, 3)  # [H, P, K, words]
        kernel = reading.kernel(layer, features.shape[1])
        maps = maps + reading.maps(kernel, part.flatten(2)[None], (len(features), 1))
        start += 2 * heads
    return maps[0, :, :, 0].T  # [P, K + 1]


@pytest.mark.parametrize("people", [2, 3, 5])
def test_a_fit_finds_the_heads_that_tell_and_reads_any_number_of_people(people):
    fit = Fit(HEADS)
    for seed in range(20):
        fit.add(*planted(seed))
    features, truth = planted(99, people, 400)
    found = read(fit.solve(), features)
    assert (found[:, :-1].argmax(1) == truth.argmax(1)).float().mean() > 0.9
    plain = read(plain_reading(HEADS), features)
    assert (plain[:, :-1].argmax(1) == truth.argmax(1)).float().mean() < 0.75


def test_a_fit_keeps_the_layers_that_tell_most():
    """Layer 5 alone tells: of one layer it is the one."""
    fit = Fit(HEADS)
    for seed in range(10):
        features, truth = planted(seed)
        features[:, :, 2] -= truth
        fit.add(features, truth)
    assert sorted(fit.solve().weights) == [2, 5]
    assert list(fit.solve(most=1).weights) == [5]


def test_the_order_of_concepts_does_not_matter():
    fit = Fit(HEADS)
    fit.add(*planted(1))
    features, _ = planted(2, 3)
    straight, turned = read(fit.solve(), features), read(fit.solve(), features[:, [2, 0, 1]])
    assert torch.allclose(straight[:, [2, 0, 1, 3]], turned, atol=1e-5)


def test_without_pictures_there_is_no_reading():
    with pytest.raises(MixOfShowError, match="no calibration picture"):
        Fit(HEADS).solve()


def test_features_are_shares_over_their_mean():
    draw = generator(4)
    query, keys = torch.randn(2, 12, 8, generator=draw), torch.randn(2, 6, 8, generator=draw)
    chosen = picker([-1, 0, 0, 1, -1, -1], (0, 1))
    found = attention_features(query, scaled_keys(keys, 2), (3, 4), chosen).unflatten(3, (2, 2))
    assert found.shape == (2, 2, 12, 2, 2)
    shares = torch.softmax(query[1, :, 4:] @ keys[1, :, 4:].T / 2, 1)  # the second picture's second head
    wanted = torch.log1p(shares / shares.mean(0))
    assert torch.allclose(found[1, 1, :, 0], wanted[:, [1, 2]], atol=1e-5)
    assert torch.allclose(found[1, 1, :, 1], wanted[:, [3, 3]], atol=1e-5)
    twice = attention_features(query, scaled_keys(keys.repeat(1, 2, 1), 2), (3, 4), chosen)
    assert torch.allclose(found.flatten(3), twice, atol=1e-5), "the host repeats texts"


def test_words_are_the_first_and_last_of_every_mention():
    owners = [-1, 0, 0, 0, -1, 1, 0, -1]
    assert mentions(owners, 0) == [(1, 3), (6, 6)] and mentions(owners, 1) == [(5, 5)]
    chosen = picker(owners, (1, 0)).T.unflatten(0, (2, 2))
    assert chosen[0, :, 5].tolist() == [1, 1]
    assert chosen[1, 0, [1, 6]].tolist() == chosen[1, 1, [3, 6]].tolist() == [0.5, 0.5]
    assert not picker(owners, (4,)).any()


def test_one_at_most_is_open_and_nobody_keeps_it_shut():
    scores = torch.randn(2, 4, 6, 7, generator=generator(5))
    scores[0, -1], scores[1, -1] = 5.0, -5.0
    gates = open_gates(scores, 0.1)
    assert gates.shape == (2, 3, 6, 7) and ((gates > 0).sum(1) <= 1).all()
    assert torch.equal(gates[0].sum(0), torch.ones(6, 7)), "surely somebody: his alone"
    assert not gates[1].any(), "surely nobody: the base's to the bit"
    scores[:, -1] = 0.5
    assert torch.allclose(open_gates(scores, 0.1).sum(1), torch.full((2, 6, 7), 0.5))


def test_whom_the_reading_favours_less_is_given_ground():
    """One is a little likelier everywhere; both have a half of their own."""
    scores = torch.zeros(1, 3, 8, 16)
    scores[:, 0, :, :8], scores[:, 1, :, 8:], scores[:, 2] = 0.1, 0.1, 5.0
    scores[:, 0] += 0.09
    gates = open_gates(scores, 0.1)
    assert (gates[0, 0, :, :7] == 1).all() and (gates[0, 1, :, 9:] == 1).all()
    scores[:, 0], scores[:, 1] = 0, 0
    scores[:, 0, :, :4], scores[:, 1, :, 4:] = 0.3, 0.3
    assert (open_gates(scores, 0.1)[0, 1, :, 5:] == 1).all(), "whoever is small stays small"


def test_the_winner_keeps_what_all_have():
    gates = torch.rand(2, 3, 4, 5, generator=generator(1))
    found = winner(gates)
    assert ((found > 0).sum(1) == 1).all() and torch.allclose(found.sum(1), gates.sum(1))
    assert torch.equal(found.argmax(1), gates.argmax(1))


def test_whom_regions_hide_is_not_found_there():
    found, drawn = torch.rand(2, 3, 5, generator=generator(6)), torch.zeros(2, 2, 5)
    assert torch.equal(in_what_is_left(found, drawn[:, :0]), found)
    drawn[:, 0, :2], drawn[:, :, 2], drawn[:, 1, 3] = 1, 0.75, 0.25
    left = in_what_is_left(found, drawn)
    assert not left[..., :3].any() and torch.allclose(left[..., 3], 0.75 * found[..., 3])
    assert torch.equal(left[..., 4], found[..., 4])


def test_sizes():
    assert grid_of((9, 12)) == (9, 12)
    rows, columns = grid_of((128, 96))
    assert (rows, columns) == (32, 24) and rows * columns <= MOST_PLACES
    maps = torch.rand(1, 2, 8, 8, generator=generator(2))
    assert resized(maps, (8, 8)) is maps
    assert torch.allclose(resized(maps, (4, 4)).mean((2, 3)), maps.mean((2, 3)))
    assert resized(maps, (16, 12)).shape == (1, 2, 16, 12)
