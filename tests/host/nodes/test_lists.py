"""The host's lists: a node that wants all of something takes the list whole; and the stock habits of text fields."""

import json

import numpy as np
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.dataset import MixOfShowDataset
from mos_pack.nodes.evaluate import MixOfShowCompare, MixOfShowScore
from mos_pack.nodes.fuse import MixOfShowFuse
from mos_pack.nodes.place import MixOfShowPlace
from mos_pack.nodes.regions import MixOfShowRegions
from mos_tests.host.placing.test_routing import make_use, sample
from PIL import Image

WHOLE = (MixOfShowDataset, MixOfShowFuse, MixOfShowRegions, MixOfShowPlace, MixOfShowCompare, MixOfShowScore)
FACTS = {"name": ["mara"], "class_word": ["person"], "kind": ["character"], "folder": [""], "captions": ["auto"]}


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_who_wants_all_of_something_declares_it():
    assert all(node.define_schema().is_input_list for node in WHOLE)


def test_a_list_of_pictures_is_one_data_set(tiny_sd15):
    pictures = [noise(1, 64, 96), noise(2, 80, 64, 3, seed=1), noise(1, 64, 64, 4, seed=2)]
    pictures[0] = noise(1, 64, 96, 3)
    masks = [torch.ones(1, 64, 96), torch.ones(2, 80, 64), torch.ones(64, 64)]
    data, _, report = MixOfShowDataset.execute(**FACTS, images=pictures, masks=masks).result
    (concept,) = data.concepts
    assert [p.pixels.shape[:2] for p in concept.pictures] == [(64, 96), (80, 64), (80, 64), (64, 64)]
    assert all(p.mask is not None for p in concept.pictures) and "a list of 3 images" in report
    plain, *_ = MixOfShowDataset.execute("mara", "person", "character", "", "auto", torch.cat([pictures[0]] * 2)).result
    assert plain.pictures == 2, "and a plain batch is one, too"
    chained, *_ = MixOfShowDataset.execute(**FACTS | {"name": ["tom"]}, images=pictures, dataset=[data]).result
    assert [c.name for c in chained.concepts] == ["mara", "tom"]
    with pytest.raises(MixOfShowError, match="list of 2 arrives at `name`"):
        MixOfShowDataset.execute(**FACTS | {"name": ["mara", "tom"]}, images=pictures)
    assert MixOfShowDataset.fingerprint_inputs(folder=["demo:mara"], images=[None]) == (
        MixOfShowDataset.fingerprint_inputs(folder="demo:mara")
    )


def test_the_alpha_of_a_cut_out_is_told_on_the_node():
    """Load Image gives MASK as one minus alpha: white where nothing is."""
    cut_out = torch.ones(2, 64, 64)
    cut_out[:, 16:48, 16:48] = 0
    for mask, told in ((cut_out, True), (1 - cut_out, False)):
        shown = MixOfShowDataset.execute(**FACTS, images=[noise(2, 64, 64, 3)], masks=[mask])
        assert ("look inverted" in shown[2]) == ("look inverted" in "".join(shown.ui.get("text", ()))) == told


def test_a_list_of_concepts_is_one_fusion(tiny_sd15):
    uses = [(make_use(tiny_sd15, "mara", 1),), (make_use(tiny_sd15, "tom", 2),)]
    shared = {"model": [tiny_sd15.model], "clip": [tiny_sd15.clip], "method": ["sum"], "calibration": ["standard"]}
    fused = MixOfShowFuse.execute(concepts=uses, **shared, save_as=[""])[2]
    assert [entry.name for entry in fused[0].concept.entries] == ["mara", "tom"] or len(fused[0].concept.entries) == 2
    with pytest.raises(MixOfShowError, match="Fuse: a list of 2 arrives at `method`"):
        MixOfShowFuse.execute(concepts=uses, **shared | {"method": ["sum", "exact"]})


def test_a_list_of_masks_and_concepts_belongs_to_one_drawing(tiny_sd15):
    shapes = [
        {"id": f"r{n}", "shape": {"type": "input", "index": n}, "prompt": "x", "concept": name}
        for n, name in enumerate(("mara", "tom"))
    ]
    masks = [torch.zeros(1, 64, 64), torch.zeros(32, 32)]
    masks[0][:, :, :32], masks[1][16:] = 1, 1
    uses = [(make_use(tiny_sd15, "mara", 1),), (make_use(tiny_sd15, "tom", 2),)]
    editor = [json.dumps({"version": 1, "regions": shapes})]
    result = MixOfShowRegions.execute(editor, [64], [64], concepts=uses, masks=masks)
    left, low = result[1]
    assert left[:, :30].min() == 1 and left[:, 34:].max() == 0 and low[36:].min() == 1 and low[:28].max() == 0
    assert len(result.ui["mixofshow_masks"]) == 2


def test_a_list_of_prompts_is_a_list_of_pictures_and_each_has_the_whole_cast(tiny_sd15):
    shapes = [
        {"id": name, "prompt": f"{name} in a hat", "shape": {"type": "rect", "x": x, "y": 0, "width": 0.5, "height": 1}}
        for name, x in (("mara", 0), ("tom", 0.5))
    ]
    editor = [json.dumps({"version": 1, "regions": shapes})]
    uses = [(make_use(tiny_sd15, "mara", 1),), (make_use(tiny_sd15, "tom", 2),)]
    placed = MixOfShowRegions.execute(editor, [64], [64], concepts=uses)[0]
    texts = ["a street", "a red lake"]
    shared = [tiny_sd15.model], [tiny_sd15.clip]
    done = MixOfShowPlace.execute(*shared, texts, [""], regions=[placed], concepts=uses)
    assert all(entry.is_output_list for entry in MixOfShowPlace.define_schema().outputs)
    models, positives, negatives = done.result
    assert len(models) == len(positives) == len(negatives) == 2
    for text, *found in zip(texts, *done.result, strict=True):
        wanted = MixOfShowPlace.one(tiny_sd15.model, tiny_sd15.clip, text, "", placed, (*uses[0], *uses[1])).result
        assert torch.equal(sample(found, steps=1), sample(wanted, steps=1))
    assert not torch.equal(positives[0][0][0], positives[1][0][0])
    told = done.ui.as_dict()["text"][0].splitlines()
    assert len(told) == len(set(told)) and any("mara" in line for line in told) and any("tom" in line for line in told)


def test_a_list_of_pictures_is_one_score():
    one, other = noise(1, 32, 48, 3), noise(2, 40, 32, 3, seed=1)
    report = MixOfShowScore.execute([one, other], [""], [""], ["center"], references=[one, other])
    found = json.loads(report[1])
    assert len(found["pictures"]) == 3 and found["references"] == {"references": 3}
    texts = ["a cat\nby a lake", "a dog", "a bird"]
    assert len(json.loads(MixOfShowScore.execute([one, other], texts, references=[one])[1])["pictures"]) == 3
    with pytest.raises(MixOfShowError, match="2 lines for 3"):
        MixOfShowScore.execute([one, other], texts[:2], references=[one])


def test_compare_takes_prompts_and_concepts_whole(tiny_sd15, monkeypatch):
    seen = {}
    monkeypatch.setattr(MixOfShowCompare, "compare", classmethod(lambda cls, **given: seen.update(given)))
    uses = [(make_use(tiny_sd15, "mara", 1),), (make_use(tiny_sd15, "tom", 2),)]
    names = [entry.id for entry in MixOfShowCompare.define_schema().inputs if not entry.optional]
    given = {name: [name] for name in names} | {"concepts": uses, "prompts": ["a {name}", "two"], "seed": [3, 3]}
    MixOfShowCompare.execute(**given)
    assert [use.label for use in seen["concepts"]] == ["mara", "tom"] and seen["prompts"] == "a {name}\ntwo"
    assert seen["seed"] == 3 and seen["regions"] is None


def test_eight_files_of_a_stock_loader_train_one_concept(server):
    """The stock node gives a list; eight pictures were eight trainings of one picture each."""
    folder = server.base / "input" / "eight"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 255, (64, 64 + 8 * (number % 2), 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    facts = {name: values[0] for name, values in FACTS.items()} | {"name": "eightfold"}
    graph = {
        "1": {"class_type": "MosTestTinyBase", "inputs": {"family": "sd15", "seed": 0}},
        "2": {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": "eight"}},
        "3": {"class_type": "MixOfShowDataset", "inputs": {**facts, "images": ["2", 0]}},
        "4": {
            "class_type": "MixOfShowTrain",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "vae": ["1", 2],
                "dataset": ["3", 0],
                "preset": "Textual Inversion",
                "quality": "draft",
                "steps": 1,
                "seed": 0,
                "save_as": "",
            },
        },
        "5": {"class_type": "PreviewAny", "inputs": {"source": ["3", 2]}},
    }
    outputs = server.run(graph)
    (report,) = outputs["5"]["text"]
    assert "8 pictures" in report and "64x64, 72x64" in report
    saved = list((server.base / "models" / "loras" / "mixofshow").glob("eightfold*"))
    assert len(saved) == 1, saved


def test_text_fields_have_the_stock_habits_or_say_no(server):
    listed = {name: info for name, info in server.object_info().items() if name.startswith("MixOfShow")}
    fields = {}
    for name, info in listed.items():
        for key, spec in {**info["input"].get("required", {}), **info["input"].get("optional", {})}.items():
            if spec[0] == "STRING" and spec[1].get("multiline"):
                fields[f"{name}.{key}"] = spec[1]
    assert {"MixOfShowPlace.prompt", "MixOfShowPlace.negative"} <= set(fields)
    for where, options in fields.items():
        told = "Dynamic prompts are not" in options["tooltip"]
        assert bool(options.get("dynamicPrompts")) != told, where
