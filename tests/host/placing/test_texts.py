"""What a text gives is made once per sampling, by whichever way it is known; the picture is the same, bit for bit."""

from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.families.nets import cross_attention_layers
from mos_pack.nodes.bridge.placing import blend, texts
from mos_pack.nodes.bridge.placing.payload import KEY
from mos_pack.nodes.bridge.placing.routing import Routes
from mos_tests.host.placing.test_regions import Case, rect

HALVES = rect(width=0.5), rect(x=0.5, width=0.5)
QUARTERS = rect(width=0.25), rect(x=0.25, width=0.75)


@pytest.fixture
def case(tiny_sd15):
    case = Case("sd15", tiny_sd15.model)
    case.rows, case.columns = 16, 32  # halves and quarters are whole tokens at every level
    return case


def both(case, *shapes, **more):
    """(positive, negative) of one drawing, as Place makes them."""
    placed = case.map(*shapes)
    positive = case.cond(case.a, texts=[case.b, case.c][: len(shapes)], placed=placed, **more)
    return positive, case.cond(case.n, texts=[case.n] * len(shapes), placed=placed)


def routed(conditioning):
    """The same with a concept that acts nowhere, as far as weights go."""
    found = conditioning[0][1]["model_conds"][KEY]
    owners = (None,) * len(found.cond.texts)
    found.cond = replace(found.cond, routes=Routes({}, owners, None, 1))
    return conditioning


def scenes(case):
    layers = torch.cat([case.a, case.c]).repeat(8, 1, 1)
    part = {"texts": [case.b], "placed": case.map(rect(width=0.3))}
    return {
        "routed part": (routed(case.cond(case.a, **part)), None),
        "routed layers": (routed(case.cond(case.a, layers=layers)), None),
        "part": (case.cond(case.a, **part), None),
        "everywhere": both(case, rect()),
        "halves": both(case, *HALVES),
        "unequal": both(case, *QUARTERS),
        "positive alone": (case.cond(case.a, texts=[case.b, case.c], placed=case.map(*HALVES)), None),
        "layered halves": both(case, *HALVES, layers=layers),
    }


def asked(case, model, positive, negative, steps=3):
    """Texts that the keys of one layer were asked of: how many in each question that had a token."""
    found = []
    layer = cross_attention_layers(case.model.model.diffusion_model)[3].module
    hook = layer.to_k.register_forward_pre_hook(
        lambda _, inputs: found.append(len(inputs[0])) if inputs[0].shape[1] else None
    )
    try:
        picture = case.sample(model, positive, negative, batch=2, steps=steps)
    finally:
        hook.remove()
    return found, picture


def without(monkeypatch):
    """As it was: every layer asks anew."""
    for module in (blend, texts):
        monkeypatch.setattr(module, "takes_no_text", lambda layer: False)


@pytest.mark.parametrize(
    "name, made",
    [
        ("routed part", [4, 1, 1]),
        ("routed layers", [4]),
        ("part", [4, 1, 4, 4]),
        ("everywhere", [1, 1]),
        ("halves", [2, 2]),
        ("unequal", [2, 2]),
        ("positive alone", [4, 2, 4, 4]),
        ("layered halves", [2, 2]),
    ],
)
def test_a_text_is_asked_once(case, monkeypatch, name, made):
    """Two pictures: four rows. Where regions answer for every token, the base's text is asked nothing; where concepts
    act it is asked once, else at every step, which costs two products of a layer and no memory."""
    positive, negative = scenes(case)[name]
    found, picture = asked(case, case.patched, positive, negative)
    assert found == made
    without(monkeypatch)
    before, wanted = asked(case, case.patched, positive, negative)
    assert (len(before) > len(found)) == (found.count(4) < 3) and torch.equal(picture, wanted)


def test_regions_for_every_token_take_one_attention(case):
    """The host's own, which reads the regions' texts."""
    calls = []

    def attend(function, *args, **kwargs):
        calls.append(args[1].shape[:2])
        return function(*args, **kwargs)

    model = case.patched.clone()
    model.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = attend
    case.sample(model, *both(case, *HALVES), steps=1)
    assert len(calls) == 2 * 16 and calls.count((4, 77)) == 16  # two rows, two regions


def test_a_text_that_changes_while_sampling_is_asked_again(case, monkeypatch):
    model, seen = case.patched.clone(), []

    def fade(apply, given):
        seen.append(len(seen))
        changed = {**given["c"], "c_crossattn": given["c"]["c_crossattn"] * 0.5 ** (len(seen) % 3)}
        return apply(given["input"], given["timestep"], **changed)

    model.set_model_unet_function_wrapper(fade)
    positive, negative = scenes(case)["routed part"]
    found, picture = asked(case, model, positive, negative)
    seen.clear()
    without(monkeypatch)
    _, wanted = asked(case, model, positive, negative)
    assert found == [4, 1, 1, 4, 4] and torch.equal(picture, wanted)


def test_another_patch_reads_what_it_always_read(case):
    tokens = []

    def look(n, context, value, options):
        tokens.append(context.shape[1])
        return n, context, value

    model = case.patched.clone()
    model.set_model_attn2_patch(look)
    case.sample(model, *both(case, *HALVES), steps=2)
    assert set(tokens) == {77}


def test_layers_that_are_no_plain_linears_are_asked_their_text(case):
    layer = cross_attention_layers(case.model.model.diffusion_model)[0]
    assert texts.takes_no_text(layer)
    plain, forward = layer.keys.weight, layer.module.forward
    try:
        layer.keys.weight = torch.nn.Parameter(plain.detach().to(torch.float8_e4m3fn), requires_grad=False)
        assert not texts.takes_no_text(layer)
        layer.keys.weight = plain
        layer.module.forward = forward  # what a node does that has its own
        assert not texts.takes_no_text(layer)
    finally:
        layer.keys.weight = plain
        vars(layer.module).pop("forward", None)
    assert texts.takes_no_text(layer)
