"""Unfused concepts without regions: each word read by its own concept, and places found while sampling."""

from dataclasses import replace

import comfy.sample
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.families.nets import cross_attention_layers
from mos_pack.mixofshow_core.regional.finding import Reading
from mos_pack.nodes.bridge.demo import small_base
from mos_pack.nodes.bridge.host.model import apply_deltas, describe_base
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_pack.nodes.bridge.placing import attention, finding, learning, readings
from mos_pack.nodes.bridge.placing.payload import KEY
from mos_pack.nodes.bridge.placing.words import NOBODY, owners_of_tokens
from mos_pack.nodes.place import MixOfShowPlace
from mos_pack.nodes.region_tools import MixOfShowFound, MixOfShowLearnPlaces
from mos_pack.nodes.regions import MixOfShowRegions
from mos_tests.host.placing.test_routing import alone, box, gap, make_use, payload, regions, sample

BOTH = "mara and tom at a lake"


@pytest.fixture
def base(tiny_sd15):
    return tiny_sd15


@pytest.fixture
def uses(base):
    return make_use(base, "mara", 1, strength=0.8), make_use(base, "tom", 2)


def placed(base, uses, prompt, negative="bad", spec=None):
    return MixOfShowPlace.one(base.model, base.clip, prompt, negative, spec, list(uses)).result


@pytest.fixture
def opened(monkeypatch):
    """(size, gates [rows, N, K]) of every set that layers were given, in their order."""
    seen = []
    gates = attention.Batch.gates

    def spy(batch, routes, size):
        found = gates(batch, routes, size)
        seen.append((size, found.values))
        return found

    monkeypatch.setattr(attention.Batch, "gates", spy)
    return seen


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_the_only_one_named_is_that_concepts_model(base, uses, cfg):
    wanted = sample(alone(base, uses[1], "tom at a lake", "bad"), cfg=cfg)
    assert gap(sample(placed(base, uses, "tom at a lake"), cfg=cfg), wanted) < 5e-5


def test_nobody_named_is_the_base_to_the_bit(base, uses):
    model, *conditionings = placed(base, uses, "a lake")
    stock = MixOfShowPlace.one(base.model, base.clip, "a lake", "bad").result
    assert model is base.model
    assert all(payload_of(found) is None for found in conditionings)
    assert torch.equal(sample((model, *conditionings)), sample(stock))


def payload_of(conditioning):
    return conditioning[0][1].get("model_conds", {}).get(KEY)


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


def test_every_word_has_its_own_keys_in_every_layer(base, uses):
    """W for everybody's tokens, W + D of a concept for its own: in the order in which attention is computed."""
    model, positive, negative = placed(base, uses, BOTH)
    model, keys = model.clone(), []

    def spy(attention_of, q, k, v, *args, **kwargs):
        if k.shape[1] == 77:
            keys.append(k[0])
        return attention_of(q, k, v, *args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = spy
    sample((model, positive, negative), steps=1, cfg=1.0)
    layers = cross_attention_layers(base.model.model.diffusion_model)
    words, texts = payload(positive).words, payload(positive).layers
    assert len(keys) == len(layers)
    for layer in layers:
        for number, use in ((NOBODY, None), (0, uses[0]), (1, uses[1])):
            mine, weight = words == number, layer.module.to_k.weight
            if use is not None:
                weight = weight + use.strength * use.concept.deltas[f"diffusion_model.{layer.path}.to_k"].dense()
            assert gap(keys[layer.index][mine], texts[layer.index][mine] @ weight.T) < 1e-4


def test_another_size_in_between_changes_nothing(base, uses):
    """The rival's masks turn to noise from the second run on until the size is changed."""
    two = placed(base, uses, BOTH)
    first = sample(two)
    large = torch.randn(1, 4, 14, 18, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        other = comfy.sample.sample(
            two[0], large, 2, 4.0, "euler", "normal", *two[1:], torch.zeros_like(large), disable_pbar=True
        )
    assert torch.isfinite(other).all() and torch.equal(sample(two), first)


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


def test_what_was_found_is_the_mean_of_all_calls():
    """Of one batch: another number of pictures begins anew."""
    places = finding.Places(finding.Search((0, 1), ("mara", "tom"), Reading({3: torch.zeros(1, 2, 2)}, 0.25)))
    calls = [torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    for maps in calls:
        places.add(3, maps)
        places.advance((4, 5))
    wanted = torch.stack(calls).mean(0)
    wanted[:, -1] += 0.25
    assert torch.allclose(places.scores, wanted, atol=1e-6)
    places.add(3, calls[0][:1])
    places.advance((4, 5))
    assert torch.equal(places.scores[:, :-1], calls[0][:1, :-1])


def test_pictures_of_a_batch_are_looked_at_apart(base, uses, opened):
    sample(placed(base, uses, BOTH), steps=3)
    gates = next(gates for size, gates in reversed(opened) if gates.any())
    half = len(gates) // 2
    assert not torch.equal(gates[0], gates[1]), "two pictures"
    assert torch.equal(gates[:half], gates[half:]), "positive and negative alike"


def test_each_picture_of_a_batch_is_what_it_is_alone(base, uses, opened):
    """Who wins a token may hang on a rounding, hence shares."""
    model, positive, negative = placed(base, uses, BOTH)
    noise = torch.randn(2, 4, 9, 12, generator=torch.Generator().manual_seed(3))

    def last_gates(part):
        with torch.inference_mode():
            comfy.sample.sample(
                model, part, 2, 1.0, "euler", "normal", positive, negative, torch.zeros_like(part), disable_pbar=True
            )
        return next(gates for size, gates in reversed(opened) if size == (9, 12))

    apart = torch.cat([last_gates(noise[:1]), last_gates(noise[1:])])
    together = last_gates(noise)
    assert ((apart > 0) == (together > 0)).float().mean() > 0.95
    assert ((apart[0] > 0) == (together[1] > 0)).float().mean() < 0.95, "two pictures"


def test_the_order_of_concepts_does_not_matter(base, uses):
    straight, turned = (sample(placed(base, order, BOTH), steps=3) for order in (uses, uses[::-1]))
    assert torch.equal(straight, turned)


def test_a_region_for_some_and_the_rest_left_open(base, uses, opened):
    """zoe is drawn, mara and tom are not: they share what she leaves."""
    three = (*uses, make_use(base, "zoe", 3))
    drawn = regions({"concept": "zoe", "shape": box(0.5, 1)})
    found = placed(base, three, f"{BOTH} with zoe", spec=drawn)
    assert payload(found[1]).routes.search.concepts == (0, 1)
    sample(found, steps=3)
    size, gates = next((size, gates) for size, gates in reversed(opened) if gates.any() and size == (9, 12))
    maps = gates.unflatten(1, size)
    assert (maps[:, :, 6:, 2] == 1).all() and not maps[:, :, 6:, :2].any()
    assert not maps[:, :, :6, 2].any() and maps[:, :, :6, :2].any()


def test_the_node_says_what_is_read_where_each_is_found(base, uses):
    """Of what names others with a place, drawn ones too, nothing."""
    three = [*uses, make_use(base, "zoe", 3)]
    drawn = regions({"concept": "zoe", "shape": box(0.5, 1)})
    prompt = "mara and tom in a hat, zoe far away, at night"
    said = MixOfShowPlace.one(base.model, base.clip, prompt, "bad", drawn, three).ui.as_dict()["text"][0]
    assert "mara reads where it is found: 'mara, at night'" in said
    assert "tom reads where it is found: 'tom in a hat, at night'" in said and "zoe reads" not in said


def test_a_community_lora_is_known_by_its_trigger(base, uses):
    """No learned words: the tokens of its trigger are its own, wherever they stand; the longest phrase wins."""
    entry = replace(uses[0].concept.entries[0], name="zorbo", words=(), embeddings=(), trigger="red dragon")
    known = register_concepts(
        base.clip, [(lora := replace(uses[0], concept=replace(uses[0].concept, entries=(entry,))))]
    )
    known = register_concepts(known, uses[1:])
    owners = owners_of_tokens(known, "zorbo and (tom:1.2), a red hat, red dragon", (lora, uses[1])).tolist()
    assert [owner for owner in owners if owner != NOBODY] == [0, 0, 1, 1, 0, 0]


def test_a_class_word_behind_the_words_is_theirs(base, uses):
    entry = replace(uses[0].concept.entries[0], with_class=True, class_word="person")
    use = replace(uses[0], concept=replace(uses[0].concept, entries=(entry,)))
    owners = owners_of_tokens(register_concepts(base.clip, [use]), "mara beside a person", [use]).tolist()
    assert owners.count(0) == 3, "two words and the class word, not the other person"


class TestBadInput:
    def test_two_of_one_class_one_of_them_twice(self, base, uses, opened):
        same = [with_class(use, "person") for use in uses]
        sample(placed(base, same, "mara person and tom person, a photo of mara"), steps=3)
        assert any(gates[..., 0].any() for _, gates in opened) and any(gates[..., 1].any() for _, gates in opened)

    def test_who_is_found_nowhere_is_said(self, base, uses, monkeypatch, caplog):
        monkeypatch.setattr(finding, "open_gates", lambda scores, _: torch.zeros_like(scores[:, :-1]))
        with caplog.at_level("WARNING", logger="mixofshow"):
            sample(placed(base, uses, BOTH))
        assert "mara was found in 0.0% of the picture, so only the words act. Draw a region" in caplog.text

    def test_names_in_the_negative_only(self, base, uses):
        """They are read as their own where others are looked for; alone they call nobody."""
        _, positive, negative = placed(base, uses, BOTH, "mara in a hat")
        assert payload(negative).words.tolist().count(0) == 2 and payload(negative).chosen is None
        said = MixOfShowPlace.one(base.model, base.clip, "a lake", "mara", None, list(uses)).ui.as_dict()["text"][0]
        assert "the prompt does not name concept 'mara'; it is not used" in said

    def test_a_long_prompt_beside_a_short_negative(self, base, uses, opened):
        """Three sections of 77 tokens: the words lie in the last one, and the negative is repeated to its length."""
        found = placed(base, uses, "a very long walk, " * 30 + BOTH)
        assert payload(found[1]).words.nonzero().numel() and len(payload(found[1]).words) > 77
        assert payload(found[1]).words.tolist().index(0) > 77
        sample(found, steps=3)
        assert any(gates.any() for _, gates in opened)

    def test_a_text_that_another_node_changed_is_told(self, base, uses, caplog):
        model, positive, negative = placed(base, uses, BOTH)
        longer = [[torch.cat([positive[0][0]] * 2, 1), positive[0][1]]]
        with caplog.at_level("WARNING", logger="mixofshow"):
            sample((model, longer, negative))
        assert "joined with another text" in caplog.text and "could not be found" in caplog.text

    def test_without_a_negative_pass(self, base, uses, opened):
        sample(placed(base, uses, BOTH), steps=3, cfg=1.0)
        assert {len(gates) for _, gates in opened} == {2} and any(gates.any() for _, gates in opened)


def with_class(use, word):
    entries = tuple(replace(entry, class_word=word) for entry in use.concept.entries)
    return replace(use, concept=replace(use.concept, entries=entries))


class TestFound:
    def test_masks_and_regions_of_what_was_sampled(self, base, uses):
        placed_once = placed(base, uses, BOTH)
        latent = {"samples": sample(placed_once, steps=3)}
        out = MixOfShowFound.execute(placed_once[1], latent, 1)
        masks, preview, regions_text, names = out.result
        assert names == "mara\ntom" and masks.shape == (2, 72, 96) and preview.shape == (1, 72, 96, 3)
        assert ((masks > 0.5).sum(0) <= 1).all() and (masks > 0.5).any()
        again = MixOfShowRegions.execute(regions_text, 96, 72)[0]
        assert {region.concept for region in again.regions.regions} <= {"mara", "tom"}
        assert out.ui["mixofshow_found"] == [regions_text]

    def test_other_samples_and_other_conditionings_are_errors(self, base, uses):
        placed_once = placed(base, uses, BOTH)
        latent = {"samples": sample(placed_once)}
        with pytest.raises(MixOfShowError, match="were not made with this conditioning"):
            MixOfShowFound.execute(placed_once[1], {"samples": latent["samples"] + 1})
        with pytest.raises(MixOfShowError, match="picture 2 of a batch of 2"):
            MixOfShowFound.execute(placed_once[1], latent, 2)
        with pytest.raises(MixOfShowError, match="looks for nobody"):
            MixOfShowFound.execute(placed(base, uses, "tom")[1], latent)


class TestLearning:
    def test_what_is_learned_on_a_base_is_used_for_it_and_no_other(self, base, tiny_sdxl, caplog):
        base.model.model.native_size = 64
        with caplog.at_level("WARNING", logger="mixofshow"):
            MixOfShowLearnPlaces.execute(base.model, base.clip, 4)
        assert "was found in" not in caplog.text
        path = readings.kept_path(describe_base(base.model))
        try:
            reading, source = readings.reading_of(base.model)
            assert len(reading.weights) == 8 and set(reading.weights) < set(range(16)), "of 16, those that tell most"
            assert "Learn Places learned" in source
            assert "plain mean" in readings.reading_of(tiny_sdxl.model)[1]
            text = path.read_text()
            for broken in ("{", text.replace('"format":1', '"format":2'), text.replace('"layers":{"', '"layers":{"9')):
                path.write_text(broken)
                with pytest.raises(MixOfShowError, match="reading of places .* Run Learn Places for this base again"):
                    readings.reading_of(base.model)
        finally:
            path.unlink()
        assert "plain mean" in readings.reading_of(base.model)[1]

    def test_scenes_name_things_in_another_order_than_they_stand(self):
        made = list(learning.scenes(40, 1))
        assert made == list(learning.scenes(40, 1))
        turned = [scene.columns != tuple(sorted(scene.columns)) for scene in made]
        assert 0.4 < sum(turned) / 40 < 0.9 and {len(scene.things) for scene in made} == {2, 3}
        assert not any(scene.columns != tuple(sorted(scene.columns)) for scene in learning.scenes(40, 1, ordered=True))

    def test_the_small_base_comes_with_a_reading(self):
        model = small_base.load_small_base()[0]
        reading, source = readings.reading_of(model)
        assert "comes with this base" in source and sorted(reading.weights) == list(range(7))
