"""By words: what is nobody's is read with whom was found there; and what holds whatever is sampled, and how."""

from dataclasses import replace

import comfy.sample
import pytest
import torch
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_pack.nodes.bridge.placing import finding
from mos_pack.nodes.bridge.placing.words import NOBODY
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.placing.test_routing import COLUMNS, ROWS, box, gap, make_use, payload, regions, sample

BOTH = "mara beside tom at a lake"  # one clause: it speaks of both
NEAR = 5e-5


@pytest.fixture
def base(tiny_sd15):
    return tiny_sd15


@pytest.fixture
def twins(base):
    """Two concepts with words of their own and one and the same change of UNet and text encoder."""
    made = [make_use(base, name, seed) for seed, name in enumerate(("mara", "tom"), 1)]
    return [replace(use, concept=replace(use.concept, deltas=made[0].concept.deltas)) for use in made]


@pytest.fixture
def everywhere(monkeypatch):
    """From the first call on somebody is everywhere, in a pattern that differs from picture to picture."""

    def fields(scores, _):
        (pictures, people), (rows, columns) = (len(scores), scores.shape[1] - 1), scores.shape[2:]
        number = torch.arange(rows).view(-1, 1) // 3 + torch.arange(columns) // 4
        number = number + torch.arange(pictures).view(-1, 1, 1)
        return torch.nn.functional.one_hot(number % people, people).float().permute(0, 3, 1, 2)

    monkeypatch.setattr(finding, "open_gates", fields)
    monkeypatch.setattr(finding, "FIRST", 0.5)  # of two, one of whom takes all


@pytest.fixture
def left_half(monkeypatch):
    """The first concept is found in the left half, the second nowhere."""

    def half(scores, _):
        gates = torch.zeros_like(scores[:, :-1])
        gates[:, 0, :, : scores.shape[3] // 2] = 1
        return gates

    monkeypatch.setattr(finding, "open_gates", half)


@pytest.fixture
def asked():
    """(query, keys) of every attention to a text, in their order, and a model that notes them."""
    seen = []

    def noting(model):
        def spy(attention_of, q, k, v, *args, **kwargs):
            if k.shape[1] == 77:
                seen.append((q, k))
            return attention_of(q, k, v, *args, **kwargs)

        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = spy
        return model

    return seen, noting


def placed(base, uses, prompt, negative="bad", spec=None):
    return MixOfShowPlace.one(base.model, base.clip, prompt, negative, spec, list(uses)).result


def changed_everywhere(base, twins, prompt, negative="bad"):
    """The twins' change in MODEL and CLIP, nothing routed."""
    model, clip = apply_deltas(base.model, register_concepts(base.clip, twins), twins[0].concept.deltas)
    return MixOfShowPlace.one(model, clip, prompt, negative).result


def second_pass(placed, first):
    """What hires does: the latent 1.5 times as large, sampled on from the middle."""
    model, positive, negative = placed
    large = torch.nn.functional.interpolate(first, scale_factor=1.5, mode="bilinear")
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, 2, 4.0, "euler", "normal", positive, negative, large, denoise=0.5, disable_pbar=True
        )


def zeroed(conditioning):
    return [[torch.zeros_like(text), extras] for text, extras in conditioning]


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_where_all_make_one_change_and_somebody_is_everywhere_it_is_that_change(base, twins, everywhere, cfg):
    """Words, what is nobody's, and places are then all read with it, whoever was found; of two pictures at once, with
    and without a negative pass."""
    wanted = sample(changed_everywhere(base, twins, BOTH), cfg=cfg)
    assert gap(sample(placed(base, twins, BOTH), cfg=cfg), wanted) < NEAR
    assert gap(sample(placed(base, twins, BOTH, "another"), cfg=4.0), wanted) > 0.01


def test_a_second_pass_at_another_size(base, twins, everywhere):
    """Hires: a latent 1.5 times as large, from the middle of the schedule; and the first pass again is as it was."""
    wanted, found = changed_everywhere(base, twins, BOTH), placed(base, twins, BOTH)
    first = sample(found)
    second = second_pass(found, first)
    assert second.shape[-2:] == (ROWS * 3 // 2, COLUMNS * 3 // 2)
    assert gap(second, second_pass(wanted, first)) < NEAR
    assert torch.equal(sample(found), first) and torch.equal(second_pass(found, first), second)


def test_a_second_pass_finds_anew(base, twins):
    """With the reading that ships: nothing is kept from the first pass, and one picture is enough."""
    found = placed(base, twins, BOTH)
    first = sample(found)
    second = second_pass(found, first)
    assert torch.isfinite(second).all()
    assert torch.equal(second_pass(placed(base, twins, BOTH), first), second), "from a first pass or without one"


def test_a_zeroed_negative_is_read_with_them_too(base, twins, everywhere):
    """What arrives counts, with the keys and values of whom was found; else guidance would multiply the concepts."""
    model, positive, negative = placed(base, twins, BOTH)
    wanted = changed_everywhere(base, twins, BOTH)
    found = sample((model, positive, zeroed(negative)))
    assert gap(found, sample((wanted[0], wanted[1], zeroed(wanted[2])))) < NEAR


def test_a_drawn_region_beside_two_that_are_looked_for(base, twins, everywhere):
    """The region keeps its own text; the rest is whom was found, and all of it is the one change."""
    third = make_use(base, "zoe", 3)
    third = replace(third, concept=replace(third.concept, deltas=twins[0].concept.deltas))
    drawn = regions({"concept": "zoe", "prompt": "zoe in a hat", "shape": box(0.5, 1)})
    found = sample(placed(base, [*twins, third], f"{BOTH} with zoe", spec=drawn))
    model, clip = apply_deltas(base.model, register_concepts(base.clip, [*twins, third]), third.concept.deltas)
    wanted = MixOfShowPlace.one(model, clip, f"{BOTH} with zoe", "bad", drawn).result
    assert gap(found, sample(wanted)) < NEAR


def with_a_scene_behind(base, twins):
    """(found, wanted): two that are looked for before a scene of the same change; that change on the whole picture."""
    scene = make_use(base, "lagun", 3)
    scene = replace(scene, concept=replace(scene.concept, deltas=twins[0].concept.deltas))
    behind = regions({"prompt": "x", "strength": 0}, background={"concept": "lagun"})
    found = sample(placed(base, [*twins, scene], BOTH, spec=behind))
    model, clip = apply_deltas(base.model, register_concepts(base.clip, [*twins, scene]), scene.concept.deltas)
    return found, sample(MixOfShowPlace.one(model, clip, f"lagun, {BOTH}", "bad").result)


def test_a_scene_behind_two_that_are_looked_for(base, twins, monkeypatch):
    """Found nowhere, they leave everything to the background's concept, which reads what is nobody's."""
    monkeypatch.setattr(finding, "open_gates", lambda scores, _: torch.zeros_like(scores[:, :-1]))
    assert gap(*with_a_scene_behind(base, twins)) < NEAR


def test_the_background_leaves_the_places_that_were_found(base, twins, everywhere):
    """Twice the change would act where the scene's and a person's meet."""
    assert gap(*with_a_scene_behind(base, twins)) < NEAR


def test_whose_text_and_keys_each_token_has(base):
    """In the text of who was found: what the prompt says of him; the other's words in it stay the other's, all else is
    his; in every layer."""
    uses = make_use(base, "mara", 1), make_use(base, "tom", 2)
    known = register_concepts(base.clip, uses)
    texts_of = [{name: delta for name, delta in use.concept.deltas.items() if "text" in name} for use in uses]
    clips = [apply_deltas(None, known, of_text)[1] for of_text in texts_of]
    parted = "mara on the left and tom, at a lake"
    for prompt, negative, said in (
        (BOTH, "", (BOTH, BOTH)),
        (BOTH, "tom in a hat", ("", "tom in a hat")),
        (parted, "", ("mara on the left, at a lake", "tom, at a lake")),
    ):
        sent = payload(placed(base, uses, prompt, negative)[2 if negative else 1])
        gates = sent.read_with(77).values
        assert gates.shape == (2, 77, 2) and (gates.sum(2) == 1).all()
        for number, (found, words) in enumerate(sent.found):
            texts = [encode_layered(clip, said[number], 16) for clip in clips]
            texts = [text.context if text.layers is None else text.layers for text in texts]
            others = words == 1 - number
            assert bool(others.any()) == (prompt == BOTH and not negative)
            assert torch.equal(found[:, ~others], texts[number].expand_as(found)[:, ~others])
            assert torch.equal(found[:, others], texts[1 - number].expand_as(found)[:, others])
            assert torch.equal(gates[number].argmax(1), torch.where(words == NOBODY, number, words))


def test_only_places_where_somebody_is_ask_for_another_text(base, twins, left_half, asked):
    """Each at its own places: of all places of all pictures no more than were found, as drawn regions would."""
    seen, noting = asked
    model, positive, negative = placed(base, twins, BOTH)
    sample((noting(model), positive, negative), steps=1)
    closed = len(seen)
    assert all(q.shape[0] == 4 for q, _ in seen), "before the first look the base's text alone"
    seen.clear()
    sample((noting(model), positive, negative), steps=2)
    both = seen[closed:]
    plain, found = both[::2], both[1::2]
    assert len(plain) == len(found) == closed
    for (query, _), (own, _) in zip(plain, found, strict=True):
        assert own.shape[0] * own.shape[1] <= 0.75 * query.shape[0] * query.shape[1]  # half, but for odd sizes


def test_text_outside_all_places_is_the_bases_to_the_bit(base, twins, left_half):
    """In the first cross-attention of the second step, whose query is then the same: only the left half reads anew."""
    model, positive, negative = placed(base, twins, BOTH)
    attention = base.model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2

    def results(*conditionings):
        seen = []

        def note(module, inputs, out):
            seen.append(out.unflatten(1, (ROWS, COLUMNS)).clone())

        hook = attention.to_out.register_forward_hook(note)
        try:
            sample((model, *conditionings), cfg=1.0)
        finally:
            hook.remove()
        return seen

    found, plain = results(positive, negative), results(without_found(positive), without_found(negative))
    assert torch.equal(found[0], plain[0]), "before the first look"
    half = COLUMNS // 2
    assert torch.equal(found[1][:, :, half:], plain[1][:, :, half:])
    assert gap(found[1][:, :, :half], plain[1][:, :, :half]) > 0.01


def without_found(conditioning):
    (text, extras), *_ = conditioning
    carrier = extras["model_conds"]["mixofshow_regions"]
    made = type(carrier)(replace(carrier.cond, found=()))
    return [[text, {**extras, "model_conds": {**extras["model_conds"], "mixofshow_regions": made}}]]
