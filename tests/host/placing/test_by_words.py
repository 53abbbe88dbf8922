"""Unfused concepts without regions: each word read by its own concept, and places found while sampling."""

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.regional.finding import winner
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_pack.nodes.bridge.placing import attention
from mos_pack.nodes.bridge.placing.words import NOBODY, owners_of_tokens
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.placing.test_routing import alone, box, gap, make_use, payload, regions, sample

BOTH = "mara and tom at a lake"


@pytest.fixture
def base(tiny_sd15):
    return tiny_sd15


@pytest.fixture
def uses(base):
    return make_use(base, "mara", 1, strength=0.8), make_use(base, "tom", 2)


def placed(base, uses, prompt, negative="bad", spec=None):
    return MixOfShowPlace.execute(base.model, base.clip, prompt, negative, spec, list(uses)).result


@pytest.fixture
def opened(monkeypatch):
    """Every set of gates of a whole picture that layers were given: {(payload's routes, size): [rows, N, K]}, by call."""
    seen = []
    gates = attention.Batch.gates

    def spy(batch, routes, size):
        found = gates(batch, routes, size)
        seen.append((size, found))
        return found

    monkeypatch.setattr(attention.Batch, "gates", spy)
    return seen


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_the_only_one_named_is_that_concepts_model(base, uses, cfg):
    wanted = sample(alone(base, uses[1], "tom at a lake", "bad"), cfg=cfg)
    assert gap(sample(placed(base, uses, "tom at a lake"), cfg=cfg), wanted) < 5e-5


def test_nobody_named_is_the_base_to_the_bit(base, uses):
    model, *conditionings = placed(base, uses, "a lake")
    stock = MixOfShowPlace.execute(base.model, base.clip, "a lake", "bad").result
    assert model is base.model
    assert all(payload_of(found) is None for found in conditionings)
    assert torch.equal(sample((model, *conditionings)), sample(stock))


def payload_of(conditioning):
    return conditioning[0][1].get("model_conds", {}).get(attention.KEY)


def test_every_word_is_read_by_its_own_text_encoder(base, uses):
    _, positive, negative = placed(base, uses, BOTH, "tom in a hat")
    known = register_concepts(base.clip, uses)
    for found, prompt in ((payload(positive), BOTH), (payload(negative), "tom in a hat")):
        owners = owners_of_tokens(known, prompt, uses)
        for number, use in ((NOBODY, None), (0, uses[0]), (1, uses[1])):
            clip = known if use is None else apply_deltas(None, known, use.concept.deltas, use.strength)[1]
            if use is not None:
                clip = apply_deltas(
                    None, known, {k: d for k, d in use.concept.deltas.items() if "text" in k}, use.strength
                )[1]
            wanted = encode_layered(clip, prompt, 16).layers
            mine = owners == number
            assert torch.equal(found.layers[:, mine], wanted[:, mine])
    assert payload(positive).words.tolist().count(0) == payload(positive).words.tolist().count(1) == 2


def test_the_same_again_and_nothing_is_left(base, uses, opened):
    two = placed(base, uses, BOTH)
    first = sample(two, steps=3)
    count = len(opened)
    assert torch.equal(sample(two, steps=3), first)
    assert len(opened) == 2 * count
    assert all(torch.equal(one[1], other[1]) for one, other in zip(opened[:count], opened[count:], strict=True))


def test_places_open_after_the_first_call_and_nobody_shares_a_token(base, uses, opened):
    sample(placed(base, uses, BOTH), steps=3)
    closed = [gates for _, gates in opened if not gates.any()]
    assert 0 < len(closed) < len(opened)
    both = torch.cat([gates.flatten(0, 1) for _, gates in opened if gates.any()])
    assert ((both > 0).sum(1) <= 1).all()
    assert (both > 0).any(0).all(), "each has a place"


def test_pictures_of_a_batch_are_looked_at_apart(base, uses, opened):
    sample(placed(base, uses, BOTH), steps=3)
    gates = next(gates for size, gates in reversed(opened) if gates.any())
    half = len(gates) // 2
    assert not torch.equal(gates[0], gates[1]), "two pictures"
    assert torch.equal(gates[:half], gates[half:]), "positive and negative alike"


def test_winner_keeps_what_all_have():
    gates = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    found = winner(gates)
    assert ((found > 0).sum(1) == 1).all() and torch.allclose(found.sum(1), gates.sum(1))
    assert torch.equal(found.argmax(1), gates.argmax(1))
