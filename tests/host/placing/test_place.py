"""MixOfShowRegions and MixOfShowPlace as nodes: from JSON and prompts to MODEL and CONDITIONING."""

import io
import json

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.host import text
from mos_pack.nodes.bridge.placing.payload import KEY
from mos_pack.nodes.place import MixOfShowPlace
from mos_pack.nodes.regions import NO_REGIONS, MixOfShowRegions
from mos_tests.host.model.test_text import widths_of
from mos_tests.host.pack.test_server import sampling_graph
from mos_tests.host.placing.test_regions import Case
from mos_tests.host.server import ServerError
from mos_tests.unit.builders import make_concept
from PIL import Image

HALVES = json.dumps(
    {
        "version": 1,
        "regions": [
            {"id": name, "shape": {"type": "rect", "x": x, "y": 0, "width": 0.5, "height": 1}, "prompt": ""}
            for name, x in (("left", 0), ("right", 0.5))
        ],
    }
)


@pytest.fixture
def base(tiny_sd15):
    return tiny_sd15


@pytest.fixture
def knowing(base):
    widths = widths_of(base.clip)
    uses = [ConceptUse(make_concept(name, seed=n, layers=16, widths=widths)) for n, name in enumerate(("mara", "tom"))]
    return text.register_concepts(base.clip, uses)


def regions(*entries, **top):
    filled = [
        {"id": f"r{n}", "shape": {"type": "rect", "x": n / 2, "y": 0, "width": 0.5, "height": 1}, **entry}
        for n, entry in enumerate(entries)
    ]
    return MixOfShowRegions.execute(json.dumps({"version": 1, "regions": filled, **top}), 104, 72)[0]


def payload(conditioning):
    found = conditioning[0][1].get("model_conds", {}).get(KEY)
    return found and found.cond


def stock(clip, prompt):
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def test_regions_node_outputs():
    placed, masks, preview, width, height = MixOfShowRegions.execute(HALVES, 104, 72).result
    assert (width, height) == (104, 72) and masks.shape == (2, 72, 104) and preview.shape == (1, 72, 104, 3)
    assert masks[0, :, :52].min() == 1 and masks[0, :, 52:].max() == 0
    assert [region.id for region in placed.regions.regions] == ["left", "right"]


def test_a_new_regions_node_is_empty_and_claims_nothing(base):
    """Two promptless halves took half of whatever was drawn over them."""
    assert MixOfShowRegions.define_schema().inputs[0].default == NO_REGIONS
    placed = MixOfShowRegions.execute(NO_REGIONS, 104, 72)[0]
    model, *_ = MixOfShowPlace.one(base.model, base.clip, "a", "b", placed).result
    assert placed.regions.regions == () and model is base.model, "stock without a drawing"


def test_regions_node_without_regions_gives_an_empty_mask():
    _, masks, *_ = MixOfShowRegions.execute('{"version": 1}', 104, 72).result
    assert masks.shape == (1, 72, 104) and masks.max() == 0


def test_regions_node_checks_concepts():
    document = json.dumps(
        {
            "version": 1,
            "regions": [
                {"id": "a", "concept": "zoe", "shape": {"type": "rect", "x": 0, "y": 0, "width": 1, "height": 1}}
            ],
        }
    )
    with pytest.raises(MixOfShowError, match="region 'a' names concept 'zoe'.*mara"):
        MixOfShowRegions.execute(document, 104, 72, concepts=(ConceptUse(make_concept("mara")),))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_without_regions_everything_is_stock(family, request):
    base = request.getfixturevalue(f"tiny_{family}")
    model, positive, negative = MixOfShowPlace.one(base.model, base.clip, "a red cat", "bad").result
    assert model is base.model
    for found, prompt in ((positive, "a red cat"), (negative, "bad")):
        wanted = stock(base.clip, prompt)
        assert torch.equal(found[0][0], wanted[0][0])
        assert found[0][1].keys() == wanted[0][1].keys()
        assert torch.equal(found[0][1]["pooled_output"], wanted[0][1]["pooled_output"])


def test_texts_of_regions(base, knowing):
    entries = {"prompt": "in a hat", "concept": "mara"}, {"prompt": "TOM running", "concept": "tom"}
    placed = regions(*entries, suffix="4k")
    model, positive, negative = MixOfShowPlace.one(base.model, knowing, "two people", "bad", placed).result
    assert KEY in model.attachments and KEY not in base.model.attachments
    found = payload(positive)
    assert found.layers is None and payload(negative) is None
    wanted = ("mara, in a hat, 4k", "TOM running, 4k")
    for region_text, prompt in zip(found.texts, wanted, strict=True):
        assert torch.equal(region_text, text.encode_layered(knowing, prompt, 16).layers)
    assert torch.equal(positive[0][0], stock(knowing, "two people")[0][0])


def test_negatives_and_empty_regions_fall_back_to_place(base, knowing):
    placed = regions({"negative": "hat"}, {"prompt": "a dog"})
    _, positive, negative = MixOfShowPlace.one(base.model, knowing, "mara and a dog", "bad", placed).result
    positive, negative = payload(positive), payload(negative)
    assert torch.equal(positive.texts[0], positive.layers)
    assert torch.equal(positive.texts[1], stock(knowing, "a dog")[0][0])
    assert torch.equal(negative.texts[0], stock(knowing, "hat")[0][0])
    assert torch.equal(negative.texts[1], stock(knowing, "bad")[0][0])


def test_a_region_that_says_nothing_takes_no_token_of_what_it_lies_over(base):
    """It shared every token of the dog by half with Place's prompt. A negative of its own still has its place."""
    case, prompts = Case("sd15", base.model), (base.model, base.clip, "two animals", "bad")
    whole = {"type": "rect", "x": 0, "y": 0, "width": 1, "height": 1}
    dog, silent, denying = {"prompt": "a dog"}, {"shape": whole}, {"shape": whole, "negative": "hat"}

    def sampled(*entries):
        return case.sample(*MixOfShowPlace.one(*prompts, regions(*entries)).result)

    assert torch.equal(sampled(dog, silent), sampled(dog))
    assert torch.equal(sampled(silent), case.sample(*MixOfShowPlace.one(*prompts).result)), "stock again"
    shown = MixOfShowPlace.one(*prompts, regions(dog, silent, denying))
    positive, negative = (payload(shown.result[n]).placed.masks for n in (1, 2))
    assert [int(mask.max()) for mask in positive] == [255, 0, 0]
    assert [int(mask.max()) for mask in negative] == [255, 0, 255]
    (said,) = shown.ui.as_dict()["text"]
    assert "'r1' has no prompt and no concept: it claims nothing" in said and "'r2' has" in said and "'r0'" not in said


def test_a_region_that_is_off_is_as_if_it_were_not_drawn(base):
    """Nothing of it counts: neither words, nor negative, nor concept, known or not; the node says that it is off."""
    case, prompts = Case("sd15", base.model), (base.model, base.clip, "two animals", "bad")
    dog = {"prompt": "a dog"}
    off = {"prompt": "zoe <lora:x:9>", "negative": "hat", "concept": "nobody", "enabled": False, "name": "gone"}
    shown = MixOfShowPlace.one(*prompts, regions(dog, off))
    assert torch.equal(case.sample(*shown.result), case.sample(*MixOfShowPlace.one(*prompts, regions(dog)).result))
    (said,) = shown.ui.as_dict()["text"]
    assert "region 'gone' is switched off" in said and "WARNING" not in said
    alone = MixOfShowPlace.one(*prompts, regions(off)).result
    assert torch.equal(case.sample(*alone), case.sample(*MixOfShowPlace.one(*prompts).result)), "stock again"


def test_background_concept(base, knowing):
    placed = regions({"prompt": "a dog"}, background={"concept": "tom"})
    _, positive, _ = MixOfShowPlace.one(base.model, knowing, "a lake", "", placed).result
    assert torch.equal(payload(positive).layers, text.encode_layered(knowing, "tom, a lake", 16).layers)


@pytest.mark.parametrize("field", ["concept", "prompt", "negative"])
def test_unknown_concept_names_are_errors_that_list_the_known(base, knowing, field):
    value = "zoe" if field == "concept" else "a photo of <zoe>"
    with pytest.raises(MixOfShowError, match="region 'r0'.*zoe.*Known: mara, tom"):
        MixOfShowPlace.one(base.model, knowing, "people", "", regions({field: value}))
    with pytest.raises(MixOfShowError, match="Known: mara, tom"):
        MixOfShowPlace.one(base.model, knowing, "people and <zoe>", "")


def test_every_input_and_output_explains_itself():
    for node in (MixOfShowRegions, MixOfShowPlace):
        schema = node.define_schema()
        for socket in (*schema.inputs, *schema.outputs):
            assert len(socket.tooltip or "") > 10, socket
    names = [socket.id for socket in MixOfShowRegions.define_schema().inputs]
    assert names == ["editor", "width", "height", "concepts", "backdrop", "masks"]
    names = [socket.id for socket in MixOfShowPlace.define_schema().inputs]
    assert names == ["model", "clip", "prompt", "negative", "regions", "concepts"]


def test_thin_regions_are_named_with_whole_token_edges(base, caplog):
    thin = {"id": "thin", "shape": {"type": "rect", "x": 0, "y": 0, "width": 0.05, "height": 1}, "prompt": "x"}
    with caplog.at_level("WARNING", logger="mixofshow"):
        MixOfShowPlace.one(base.model, base.clip, "a", "", regions(thin))
        assert not [record for record in caplog.records if record.name == "mixofshow"]
        MixOfShowPlace.one(base.model, base.clip, "a", "", regions(thin, edges="paper"))
    assert "'thin' covers no whole" in caplog.text


def place_graph(regions=True):
    """The stock sampling graph with Place instead of text nodes, and with the canvas size from Regions."""
    graph = sampling_graph()
    place = {"model": ["1", 0], "clip": ["1", 1], "prompt": "a cat", "negative": ""}
    graph["2"] = {"class_type": "MixOfShowPlace", "inputs": place}
    del graph["3"]
    graph["5"]["inputs"] |= {"model": ["2", 0], "positive": ["2", 1], "negative": ["2", 2]}
    if regions:
        editor = HALVES.replace('"prompt": ""', '"prompt": "a dog"', 1)
        graph["8"] = {"class_type": "MixOfShowRegions", "inputs": {"editor": editor, "width": 128, "height": 64}}
        graph["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 2]}}
        place["regions"] = ["8", 0]
        graph["4"]["inputs"] |= {"width": ["8", 3], "height": ["8", 4]}
    return graph


def picture(server, outputs, node="7"):
    return Image.open(io.BytesIO(server.image(outputs[node]["images"][0])))


def test_the_real_server_places_regions_and_is_stock_without_them(server):
    stock_bytes = picture(server, server.run(sampling_graph())).tobytes()
    assert picture(server, server.run(place_graph(regions=False))).tobytes() == stock_bytes
    outputs = server.run(place_graph())
    assert picture(server, outputs).size == picture(server, outputs, "9").size == (128, 64)


def test_the_real_server_reports_bad_regions(server):
    graph = place_graph()
    graph["8"]["inputs"]["editor"] = '{"version": 1, "regions": [{"id": "a"}]}'
    with pytest.raises(ServerError, match="Regions: region 1.*lacks the field 'shape'"):
        server.run(graph)
