"""What nodes say of themselves, as a front end hears it: results, a line of progress with the time left, warnings."""

import re
import time

import pytest
import torch
from mos_pack.mixofshow_core.formats.native import write_concept
from mos_pack.nodes.bridge.host import progress, show
from mos_tests.host.builders import make_concept
from mos_tests.host.nodes.listening import Heard, listening
from mos_tests.host.placing.test_place import place_graph
from mos_tests.host.training.test_train_nodes import folder, graph  # noqa: F401  (folder is a fixture)

LEFT = r"\d+:\d\d left"


def assert_every_node_speaks(graph: dict, outputs: dict, heard: Heard) -> None:
    """Every node of ours that was run shows words or a picture on itself."""
    run = {data["node"] for kind, data in heard.events if kind == "executing"}  # the others stand in the host's cache
    ours = {key: graph[key]["class_type"] for key in run & set(graph)}
    ours = {key: name for key, name in ours.items() if name.startswith("MixOfShow")}
    assert ours
    for key, name in ours.items():
        shown = outputs.get(key, {})
        assert "".join(map(str, shown.get("text", ()))).strip() or shown.get("images"), f"{name} ({key}) says nothing"


def test_the_time_left_is_that_of_the_work_that_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = progress.Pace({"texts": 4, "pictures": 10, "solving": 100})

    def work(sort, units, seconds, **more):
        now[0] += seconds
        pace.count(sort, units, **more)

    assert pace.told() == ""  # nothing was timed yet
    work("texts", 2, 1.0)
    assert pace.told() == "0:01 left, then pictures, then solving"
    work("pictures", 2, 20.0)
    assert pace.told() == "1:21 left, then solving"  # two texts of half a second, eight pictures of ten
    work("pictures", 8, 500.0, timed=False)  # found on the disk: not how long a picture takes
    work("texts", 2, 1.0)
    work("solving", 1, 75.0)
    assert pace.told() == "2:03:45 left"
    work("solving", 99, 1.0)
    assert pace.told() == ""
    assert progress.clock(59.6) == "1:00" and progress.clock(0) == "0:00"


def test_outside_the_hosts_server_words_go_nowhere_and_nothing_breaks():
    assert show.running_node() is None and show.node_here() is None
    show.show_on_node(["a warning"])
    show.show_progress("step 1 of 2")
    show.leave_words("stopped", "5")
    assert show.warnings_first(["mara: left", "WARNING: x", "finn: right"]).splitlines()[0] == "WARNING: x"


def test_train_says_steps_loss_and_time_left(server, folder):  # noqa: F811
    with listening(server) as heard:
        outputs = server.run(graph(steps=8, save_as="telling"))
    lines = heard.words("train")
    assert lines[0].startswith("preparing 8 steps with ED-LoRA, memory about ")
    assert any(line.startswith("encoding pictures: ") for line in lines)
    steps = [line for line in lines if line.startswith("step ")]
    assert re.fullmatch(rf"step \d+ of 8, loss \d\.\d{{4}}, [\d.]+ (s/step|steps/s), {LEFT}", steps[1]), steps
    assert re.fullmatch(r"step 8 of 8, loss \d\.\d{4}, [\d.]+ (s/step|steps/s)", steps[-1])
    assert lines[-1] == "saved; drawing the samples"
    text = outputs["train"]["text"][0]
    assert "telling.safetensors" in text and "8 steps" in text and "loss 0" in text or "loss 1" in text
    assert_every_node_speaks(graph(), outputs, heard)
    assert "3 pictures" in outputs["data"]["text"][0] and "0.png: zorbo, smiling" in outputs["data"]["text"][0]
    assert "rank: 2" in outputs["settings"]["text"][0] and "batch: 2" in outputs["settings"]["text"][0]


def test_a_cancelled_training_says_on_the_node_what_was_saved_and_how_to_go_on(server, folder):  # noqa: F811
    with listening(server) as heard:
        prompt = server.queue_prompt(graph(steps=6000, save_as="halted"))
        start = time.monotonic()
        while not any(line.startswith("step 3") for line in heard.words("train")):
            assert time.monotonic() - start < 120, server.tail()
            time.sleep(0.1)
        server.interrupt()
        with pytest.raises(Exception, match="interrupted"):
            server.wait(prompt, timeout=60)
    (said,) = heard.said("train")
    (saved,) = (server.base / "output" / "mixofshow" / "steps").glob("halted-step*.safetensors")
    step = saved.stem.removeprefix("halted-step")
    assert not said["add"]
    assert said["text"].splitlines() == [
        f"Stopped at step {step} of 6000.",
        f"Saved as it is now, for use: {saved}",
        "To go on from this step, queue the same settings again.",
    ]
    kinds = [kind for kind, _ in heard.events]
    assert kinds.index("mixofshow_said") < kinds.index("execution_interrupted")  # nothing comes from a node after that
    with listening(server) as heard:
        prompt = server.queue_prompt(graph(steps=6000, save_as="halted"))
        start = time.monotonic()
        while not (steps := [line for line in heard.words("train") if line.startswith("step ")]):
            assert time.monotonic() - start < 120, server.tail()
            time.sleep(0.1)
        server.interrupt()
        with pytest.raises(Exception, match="interrupted"):
            server.wait(prompt, timeout=60)
    assert int(steps[0].split()[1]) == int(step) + 1  # it did go on from there


@pytest.fixture(scope="module")
def two(server, tiny_sd15):
    """Two concept files in the server's folder."""
    for number, name in enumerate(("mara", "finn")):
        path = server.base / "models" / "loras" / "mixofshow" / f"words_{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_concept(path, make_concept(tiny_sd15, name, 40 + number))


def with_two(graph: dict) -> dict:
    for name, before in (("mara", None), ("finn", "mara")):
        inputs = {
            "file": f"mixofshow/words_{name}.safetensors",
            "trigger": "",
            "name": "",
            "strength": 1.0,
            "role": "auto",
        } | ({"concepts": [before, 0]} if before else {})
        graph[name] = {"class_type": "MixOfShowLoadConcept", "inputs": inputs}
    return graph


def test_fuse_says_whose_turn_it_is_and_how_long_it_takes(server, two):
    graph = with_two(
        {
            "base": {"class_type": "MosTestTinyBase", "inputs": {"family": "sd15", "seed": 0, "native_size": 64}},
            "fuse": {
                "class_type": "MixOfShowFuse",
                "inputs": {
                    "model": ["base", 0],
                    "clip": ["base", 1],
                    "concepts": ["finn", 0],
                    "method": "exact",
                    "calibration": "quick",
                    "save_as": "",
                },
            },
        }
    )
    with listening(server) as heard:
        outputs = server.run(graph)
    lines = heard.words("fuse")
    assert lines[0].startswith("generic: texts")
    for number in (1, 2):
        assert any(line.startswith(f"concept {number} of 2, ") for line in lines)
    assert {"mara", "finn"} == {line.split(", ")[1].split(":")[0] for line in lines if line.startswith("concept ")}
    timed = [line for line in lines if re.search(rf"pictures, {LEFT}, then solving$", line)]
    assert timed, lines
    assert re.fullmatch(r"\d+ groups of layers: solving", lines[-1]), lines[-1]
    assert_every_node_speaks(graph, outputs, heard)


def test_what_goes_wrong_while_sampling_stands_on_place(server):
    graph = place_graph()
    graph["4"]["inputs"] |= {"width": 64, "height": 192}  # the regions were drawn for 128 x 64
    with listening(server) as heard:
        outputs = server.run(graph)
    (said,) = heard.said("2")  # once, however many steps
    assert said["add"] and said["text"].startswith("WARNING: The latent is 8 x 24, the regions were drawn for 128 x 64")
    assert heard.words("5")[-1].startswith("Mix-of-Show: The latent is")  # there as long as the host shows it
    assert_every_node_speaks(graph, outputs, heard)


def test_place_says_who_is_where_and_which_word_is_nearly_a_name(server, two):
    def run(prompt, region, **inputs):
        graph = with_two(place_graph())
        graph["8"]["inputs"]["editor"] = graph["8"]["inputs"]["editor"].replace("a dog", region)
        graph["2"]["inputs"] |= {"prompt": prompt, "concepts": ["finn", 0]} | inputs
        return server.run(graph)

    outputs = run("a fine street", "marra at sea")
    lines = outputs["2"]["text"][0].splitlines()
    assert (
        "WARNING: 'marra' in the prompt of region 'left' is no concept and is read as a plain word; "
        "did you mean mara?" in lines
    )
    assert "WARNING: no region names concept 'mara'; it is not used." in lines
    assert not any("fine" in line for line in lines)  # one letter from finn, and a common word
    assert all(line.startswith("WARNING") for line in lines)
    assert "right' has no prompt and no concept" in outputs["8"]["text"][0]
    outputs = run("a street", "mara at sea", negative="finn")
    lines = outputs["2"]["text"][0].splitlines()
    assert "mara (<mara-1> <mara-2>) at 1: region 'left'" in lines and lines[0].startswith("WARNING")
    outputs = run("a street", "a dog", concepts=["mara", 0])
    assert "WARNING: no region names concept 'mara'; it is not used." in outputs["2"]["text"][0]


def test_a_fused_clip_is_told_by_its_names(tiny_sd15):
    from mos_pack.mixofshow_core.concept import ConceptUse
    from mos_pack.nodes.bridge.host.text import register_concepts
    from mos_pack.nodes.place import MixOfShowPlace

    uses = [ConceptUse(make_concept(tiny_sd15, name, 60 + n)) for n, name in enumerate(("mara", "finn"))]
    clip = register_concepts(tiny_sd15.clip, uses)
    text = MixOfShowPlace.one(tiny_sd15.model, clip, "mara, marra's friend", "").ui.as_dict()["text"][0]
    assert text.splitlines() == [
        "WARNING: 'marra' in the prompt is no concept and is read as a plain word; did you mean mara?",
        "mara: the whole picture",
        "known here and named nowhere: finn",
    ]
    plain = MixOfShowPlace.one(tiny_sd15.model, tiny_sd15.clip, "a cat", "").ui.as_dict()["text"][0]
    assert plain == "CLIP knows no concept here: the prompts are read as plain text."


def test_dataset_names_a_caption_with_a_slip(server, folder):  # noqa: F811
    (folder / "1.txt").write_text("zorbbo at sea")
    try:
        nodes = {key: node for key, node in graph().items() if key in ("data", "sheet")}
        lines = server.run(nodes)["data"]["text"][0].splitlines()
    finally:
        (folder / "1.txt").unlink()
    assert "WARNING: 1.png: 'zorbbo' in the caption is not the name zorbo, and is learned as a plain word" in lines[1:5]


def test_regions_say_their_shares_overlaps_and_what_claims_nothing():
    from mos_pack.nodes.regions import MixOfShowRegions

    def run(*regions, **more):
        import json

        text = json.dumps({"version": 1, "regions": list(regions), **more})
        return MixOfShowRegions.execute(text, 128, 64).ui["text"][0].splitlines()

    def box(name, x, width, **more):
        return {"id": name, "shape": {"type": "rect", "x": x, "y": 0, "width": width, "height": 1}} | more

    assert run() == ["No regions: Place's prompt is read everywhere."]
    left, right = box("left", 0, 0.5, prompt="a"), box("right", 0.25, 0.5, prompt="b")
    assert run(left, right) == [
        "2 regions on 128 x 64: left 50%, right 50%; the background has 25%",
        "left and right share 25% of the canvas: both texts are mixed there",
    ]
    assert run(left, right, overlap="priority")[1].endswith("share 25% of the canvas: right has it")
    lines = run(left, box("empty", 0.5, 0.5), box("off", 0.5, 0.25, prompt="c", strength=0))
    assert lines[0].startswith("WARNING: 'empty' has no prompt and no concept: it claims nothing")
    assert lines[1].endswith("the background has 50%") and lines[2] == "off has strength 0: its text counts nowhere"


def test_regions_say_which_incoming_masks_nobody_uses():
    """They were an error once, which made a mask that had been adopted in the editor one that had to be unplugged."""
    import json

    from mos_pack.nodes.regions import MixOfShowRegions

    def run(*shapes):
        regions = [{"id": f"r{n}", "prompt": "a", **entry} for n, entry in enumerate(shapes)]
        masks = [torch.ones(2, 64, 128)]
        shown = MixOfShowRegions.execute([json.dumps({"version": 1, "regions": regions})], [128], [64], masks=masks)
        return shown.ui["text"][0].splitlines()[0], len(shown.ui["mixofshow_masks"])

    drawn = {"shape": {"type": "rect", "x": 0, "y": 0, "width": 1, "height": 1}}
    said, sent = run(drawn)
    assert said.startswith("WARNING: of 2 incoming masks 2 belong to no region: the editor's button") and sent == 2
    assert run({"shape": {"type": "input", "index": 1}})[0].startswith("WARNING: of 2 incoming masks 1 ")
    said, _ = run({"shape": {"type": "input", "index": 1}}, drawn | {"ui": {"mask": 0}})
    assert said.startswith("2 regions on"), "what the editor made a shape of is used"
