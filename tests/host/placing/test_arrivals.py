"""Conditionings of Place that other nodes changed, mixed, zeroed, cut or wired elsewhere, with the host's own nodes."""

import asyncio
import struct

import aiohttp
import comfy.sample
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.host.model import apply_deltas
from mos_pack.nodes.bridge.placing.arrivals import change_of
from mos_pack.nodes.bridge.placing.payload import KEY
from mos_pack.nodes.bridge.placing.wrappers import PayloadCond
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.placing.test_place import place_graph
from mos_tests.host.placing.test_regions import NEAR, Case, gap, rect
from mos_tests.host.placing.test_routing import alone, make_use, regions, sample

import nodes


@pytest.fixture
def sd15(tiny_sd15):
    return Case("sd15", tiny_sd15.model)


@pytest.fixture
def warned(caplog):
    caplog.set_level("WARNING", logger="mixofshow")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "mixofshow"]


def halves(case, **more):
    """Base prompt A; B on the left."""
    return case.cond(case.a, texts=[case.b], placed=case.map(rect(width=0.5)), **more)


def zeroed(conditioning):
    return nodes.ConditioningZeroOut().zero_out(conditioning)[0]


def without_payload(conditioning):
    return [[text, {key: x for key, x in extras.items() if key != "model_conds"}] for text, extras in conditioning]


def stock(clip, prompt):
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def test_a_zeroed_positive_is_a_negative_without_any_text(sd15, warned):
    positive = halves(sd15)
    wanted = sd15.sample(sd15.patched, positive, without_payload(zeroed(positive)))
    found = sd15.sample(sd15.patched, positive, zeroed(positive))
    assert torch.equal(found, wanted)
    assert gap(sd15.sample(sd15.patched, positive, cfg=1.0), wanted) > 20 * NEAR, "guidance acts"
    assert not warned(), "it is what was meant"


def test_a_small_share_of_another_text_is_a_change(sd15, warned):
    """Also beside the single values of CLIP's texts that are thirty times as large as all others."""
    sd15.a[0, 0, 0] = 30.0
    layered = sd15.cond(sd15.a, layers=sd15.b.repeat(16, 1, 1))
    mixed = nodes.ConditioningAverage().addWeighted(layered, [[sd15.c, {}]], 0.97)[0]
    sd15.sample(sd15.patched, mixed)
    assert any("was changed by another node" in line for line in warned())
    assert change_of(sd15.a, sd15.a.half()) == change_of(sd15.a, sd15.a.bfloat16().float()) == "same"


def test_a_zeroed_text_of_another_place_is_no_text_either(sd15, warned):
    zero = zeroed(sd15.cond(sd15.c, layers=sd15.b.repeat(16, 1, 1), texts=[sd15.b], placed=sd15.map(rect(width=0.5))))
    found = sd15.sample(sd15.patched, halves(sd15), zero)
    assert torch.equal(found, sd15.sample(sd15.patched, halves(sd15), without_payload(zero))) and not warned()


def test_routed_concepts_act_on_a_zeroed_and_on_a_stock_negative(tiny_sd15, warned):
    """As the same concept patched into MODEL does: else guidance would multiply the concept itself."""
    base, use = tiny_sd15, make_use(tiny_sd15, "mara", 1, text=False)
    placed = MixOfShowPlace.one(
        base.model, base.clip, "a street", "bad", regions({"prompt": "mara in a hat"}), [use]
    ).result
    model, wanted, _ = alone(base, use, "mara in a hat", "bad")
    said = []
    for negative in (zeroed(placed[1]), stock(base.clip, "something else")):
        found = sample((placed[0], placed[1], negative))
        assert gap(found, sample((model, wanted, without_payload(negative)))) < 5e-5
        said.append(len(warned()))
    assert said == [0, 1] and "does not come from Place" in warned()[0]


def test_a_conditioning_of_another_kind_of_model_is_refused_by_name(tiny_sd15, tiny_sdxl):
    """Else the host stops at two shapes that do not fit, or, where they do, samples what nobody meant."""
    spec = regions({"prompt": "mara in a hat"})
    uses = [make_use(tiny_sd15, "mara", 1)]
    one = MixOfShowPlace.one(tiny_sd15.model, tiny_sd15.clip, "a street", "bad", spec, uses).result
    two = MixOfShowPlace.one(tiny_sdxl.model, tiny_sdxl.clip, "a street", "bad", spec).result
    for model, placed, says in ((two, one, "the MODEL here is SDXL"), (one, two, "a Place whose MODEL is SDXL")):
        with pytest.raises(MixOfShowError, match=rf"{says}.*Wire that Place's own model"):
            sample((model[0], *placed[1:]))


def test_one_side_alone_is_gated_as_both_are(tiny_sd15):
    """Some guidance asks for the negative alone in between; its concepts must not come and go."""
    from comfy_extras import nodes_sag

    base, use = tiny_sd15, make_use(tiny_sd15, "mara", 1, text=False)
    full = regions({"prompt": "mara in a hat"})
    placed = MixOfShowPlace.one(base.model, base.clip, "a street", "bad", full, [use]).result
    negative = stock(base.clip, "something else")

    def guided(model):
        return nodes_sag.SelfAttentionGuidance.execute(model, 0.5, 2.0).result[0]

    model, wanted, _ = alone(base, use, "mara in a hat", "bad")
    found = sample((guided(placed[0]), placed[1], negative))
    assert gap(found, sample((guided(model), wanted, negative))) < 2e-4


@pytest.mark.parametrize("how", ["average", "scaled", "cut", "in place"])
def test_a_changed_text_loses_its_layers_and_says_so(sd15, warned, how):
    positive = sd15.cond(sd15.a.clone(), layers=sd15.b.repeat(16, 1, 1))
    if how == "average":
        changed = nodes.ConditioningAverage().addWeighted(positive, sd15.cond(sd15.c), 0.5)[0]
    elif how == "scaled":
        changed = [[positive[0][0] * 0.5, positive[0][1]]]
    elif how == "cut":
        changed = [[positive[0][0][:, :40], positive[0][1]]]
    else:
        positive[0][0].mul_(0.5)
        changed = positive
    found = sd15.sample(sd15.patched, changed, steps=1)
    assert torch.equal(found, sd15.sample(sd15.model, without_payload(changed), steps=1))
    (said,) = warned()
    assert "changed by another node" in said and "Place's prompt" in said


@pytest.mark.parametrize("how", ["copy", "half", "full average", "batch"])
def test_the_same_text_in_another_coat_is_no_change(sd15, warned, how):
    positive = halves(sd15)
    wanted = sd15.sample(sd15.patched, positive)
    text = positive[0][0]
    coats = {"copy": text.clone(), "half": text.half().float(), "batch": text.repeat(2, 1, 1)}
    if how == "full average":
        other = nodes.ConditioningAverage().addWeighted(positive, sd15.cond(sd15.c), 1.0)[0]
    else:
        other = [[coats[how], positive[0][1]]]
    assert gap(sd15.sample(sd15.patched, other), wanted) < 0.01 and not warned()


def test_regions_keep_their_text_when_the_whole_pictures_is_mixed(sd15, warned):
    positive = halves(sd15)
    mixed = nodes.ConditioningAverage().addWeighted(positive, sd15.cond(sd15.c), 0.5)[0]
    wanted = sd15.cond(mixed[0][0], texts=[sd15.b], placed=sd15.map(rect(width=0.5)))
    assert torch.equal(sd15.sample(sd15.patched, mixed), sd15.sample(sd15.patched, wanted))
    assert "its regions keep theirs" in warned()[0]


def test_a_negative_made_from_the_positive_has_no_regions_of_its_own(sd15):
    positive = halves(sd15)
    negative = [[positive[0][0] * -1, positive[0][1]]]
    found = sd15.sample(sd15.patched, positive, negative)
    assert torch.equal(found, sd15.sample(sd15.patched, positive, without_payload(negative)))


def test_one_conditioning_for_both_sides_is_told(sd15, warned):
    positive = halves(sd15)
    sd15.sample(sd15.patched, positive, positive)
    assert ["guidance has nothing" in text for text in warned()] == [True]


def test_a_model_from_before_place_is_told_and_paints_as_it_would(sd15, warned):
    positive, context = halves(sd15), ("prompt", "7", None)
    for _ in range(2):
        with CurrentNodeContext(*context):
            found = sd15.sample(sd15.model, positive, steps=3)
        assert gap(found, sd15.sample(sd15.model, without_payload(positive), steps=3)) < NEAR
    assert len(warned()) == 1 and "Wire Place's model output" in warned()[0]
    with CurrentNodeContext("another prompt", "7"):
        sd15.sample(sd15.model, positive, steps=1)
    assert len(warned()) == 2, "told again in the next run"
    sd15.sample(sd15.patched, positive, steps=1)
    assert len(warned()) == 2


def test_a_placed_model_without_its_conditioning_is_told(sd15, warned):
    sd15.sample(sd15.patched, sd15.cond(sd15.b))
    assert ["Wire Place's positive" in text for text in warned()] == [True]


def test_tiles_with_the_canvas_own_proportions_are_told(sd15, warned):
    positive = halves(sd15)
    noise = torch.randn(1, 4, sd15.rows, sd15.columns, generator=torch.Generator().manual_seed(1))

    def work(latent, prompt="a", node="3"):
        with CurrentNodeContext(prompt, node, None), torch.inference_mode():
            comfy.sample.sample(
                sd15.patched,
                noise[..., : latent.shape[-2], : latent.shape[-1]],
                1,
                4.0,
                "euler",
                "normal",
                positive,
                sd15.cond(sd15.n),
                latent,
                denoise=0.5,
                seed=1,
                disable_pbar=True,
            )
        return warned()

    one, other = noise * 0.1, noise * 0.2
    assert not work(one) and not work(other, "b") and not work(other, "b", "4"), "whole pictures, one a node"
    assert not work(torch.zeros_like(noise), "c") and not work(torch.zeros_like(noise), "c"), "pictures from nothing"
    assert not work(one, "d") and not work(one, "d"), "the same picture twice"
    assert "several pictures" in work(other, "d")[-1]
    small = one[..., : sd15.rows // 2, : sd15.columns // 2]
    assert len(work(small * 0, "e")) == 1, "a small picture from nothing"
    assert "If it is a tile or crop" in work(small, "e")[-1] and len(warned()) == 2


def test_place_marks_what_it_gives(tiny_sd15):
    model, positive, _ = MixOfShowPlace.one(
        tiny_sd15.model, tiny_sd15.clip, "a street", "", regions({"prompt": "a dog"})
    ).result
    carrier = positive[0][1]["model_conds"][KEY]
    assert isinstance(carrier, PayloadCond) and torch.equal(carrier.cond.text, positive[0][0])
    assert carrier.cond.text is not positive[0][0] and KEY in model.attachments
    assert apply_deltas(model, None, {})[0].attachments.keys() == model.attachments.keys()


async def listen(server, graph):
    """What the server showed on nodes while a graph ran, as (node id, text)."""
    shown = []
    url = server.url.replace("http", "ws") + f"/ws?clientId={server.client_id}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        running = asyncio.get_running_loop().run_in_executor(None, server.run, graph)
        while not running.done():
            try:
                message = await socket.receive(timeout=0.3)
            except asyncio.TimeoutError:
                continue
            if message.type is aiohttp.WSMsgType.BINARY and struct.unpack(">I", message.data[:4])[0] == 3:
                length = struct.unpack(">I", message.data[4:8])[0]
                shown.append((message.data[8 : 8 + length].decode(), message.data[8 + length :].decode()))
        await running
    return shown


def test_the_real_server_says_it_on_the_sampler(server):
    graph = place_graph()
    assert asyncio.run(listen(server, graph)) == []
    graph["5"]["inputs"]["model"] = ["1", 0]
    (node, text), *more = asyncio.run(listen(server, graph))
    assert node == "5" and text.startswith("Mix-of-Show: ") and "Wire Place's model output" in text and not more
