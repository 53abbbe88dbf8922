"""The commands do what the nodes do, to the byte: a project is a graph that is written down."""

from dataclasses import replace

import pytest
from mos_tests.host.headless.sessions import open_session

STEPS = {"steps": 2, "seed": 3}
SETTINGS = {"preview_every": 0, "batch": 1}


@pytest.fixture(scope="module")
def session(tiny_sd15, quick_sheets, tmp_path_factory):
    def part(name):
        return {"dataset": {"class_word": "person", "folder": f"demo:{name}"}}

    regions = [{"id": "a", "concept": "mara", "shape": {"type": "rect", "x": 0, "y": 0, "width": 0.5, "height": 1}}]
    facts = {
        "train": STEPS,
        "train_settings": SETTINGS,
        "concepts": {"mara": part("mara"), "finn": part("finn")},
        "fuse": {"calibration": "quick", "method": "sum", "save_as": "both"},
        "regions": {"width": 128, "height": 64, "editor": {"version": 1, "regions": regions}},
        "place": {"prompt": "mara and finn", "negative": ""},
        "sample": {"seed": 1, "steps": 2, "cfg": 3.0},
    }
    return open_session(tiny_sd15, facts, tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def trained(session):
    return {part.name: session.train(part) for part in session.parts()}


def test_train_is_the_node(session, trained, tiny_sd15):
    import torch
    from mos_pack.nodes.dataset import MixOfShowDataset
    from mos_pack.nodes.train import MixOfShowTrain

    kept = trained["mara"].rename(trained["mara"].with_suffix(".kept"))  # else the node finds it and trains nothing
    try:
        with torch.inference_mode():
            data = MixOfShowDataset.execute("mara", "person", "character", "demo:mara", "auto").args[0]
            made = MixOfShowTrain.execute(
                tiny_sd15.model,
                tiny_sd15.clip,
                tiny_sd15.vae,
                data,
                "ED-LoRA",
                "standard",
                2,
                3,
                "mara",
                settings=SETTINGS,
            )
        assert made.args[3] == str(trained["mara"]) and trained["mara"].read_bytes() == kept.read_bytes()
    finally:
        kept.replace(trained["mara"])


def test_fuse_and_sample_are_the_nodes(session, trained, tiny_sd15):
    import torch
    from mos_pack.nodes.bridge.host.files import concept_folder
    from mos_pack.nodes.concepts import MixOfShowLoadConcept
    from mos_pack.nodes.fuse import MixOfShowFuse

    pictures = session.sample(session.parts())
    assert pictures.shape == (1, 64, 128, 3)
    assert torch.equal(pictures, session.sample(session.parts(["finn", "mara"])))
    ours = (concept_folder() / "both.safetensors").read_bytes()
    (concept_folder() / "both.safetensors").unlink()
    with torch.inference_mode():
        chain = ()
        for name in ("mara", "finn"):
            chain = MixOfShowLoadConcept.execute(f"mixofshow/{trained[name].name}", concepts=chain).args[0]
        MixOfShowFuse.execute(tiny_sd15.model, tiny_sd15.clip, chain, "sum", "quick", "both")
    assert (concept_folder() / "both.safetensors").read_bytes() == ours
    saved = session.save(pictures)
    assert saved[0].is_file() and "mixofshow" in saved[0].parts


def with_inputs(session, **sections):
    """The session with some inputs of its project changed."""
    return replace(session, project=replace(session.project, sections={**session.project.sections, **sections}))


def test_a_dry_run_says_what_it_costs_and_does_nothing(session, trained, capsys):
    from mos_pack.nodes.bridge.host.files import concept_folder, work_folder

    def left():
        return sorted(path for folder in (concept_folder(), work_folder("cache")) for path in folder.rglob("*"))

    before = left()
    other = with_inputs(session, train={"steps": 100, "seed": 4})
    other.foresee_training(other.parts(["mara"])[0])
    session.foresee_training(session.parts(["mara"])[0])
    session.foresee_fusion(session.parts())
    said = capsys.readouterr().out
    assert "mara: 100 steps, about" in said and "memory about" in said
    assert "mara: an identical run is finished" in said
    assert "looking at 2 concepts and the base: at most" in said and left() == before


def test_what_was_not_trained_is_not_fused(session, trained):
    from mos_pack.mixofshow_core.errors import MixOfShowError

    other = with_inputs(session, train={"steps": 2, "seed": 4})
    with pytest.raises(MixOfShowError, match=r"mara has not been trained .* run `cli.py train mara`"):
        other.concepts(other.parts(["mara"]))
    with pytest.raises(MixOfShowError, match="has no concepts, and none was accepted"):
        session.concepts([])
    with pytest.raises(MixOfShowError, match="no concept nobody here, only mara, finn"):
        session.parts(["nobody"])


def test_inputs_are_the_nodes_own():
    from mos_pack.headless.calls import fill, widgets_of
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.fuse import MixOfShowFuse
    from mos_pack.nodes.train import MixOfShowTrain

    assert list(widgets_of(MixOfShowTrain)) == ["preset", "quality", "steps", "seed", "save_as"]
    assert fill(MixOfShowFuse, {}, "fuse")["calibration"] == "standard"
    for given, words in (
        ({"step": 3}, "train has no input step; it takes preset, quality"),
        ({"steps": "3"}, "steps is '3'; it takes one integer"),
        ({"steps": True}, "steps is True"),
        ({"steps": -1}, "steps is -1; it must be 0 to"),
        ({"preset": "ED"}, "use one of ED-LoRA, "),
    ):
        with pytest.raises(MixOfShowError, match=words):
            fill(MixOfShowTrain, given, "train")


def test_the_host_s_nodes_are_read_the_same_way():
    from mos_pack.headless.calls import fill
    from mos_pack.headless.host import host_module
    from mos_pack.mixofshow_core.errors import MixOfShowError

    sampler = host_module("nodes").KSampler
    assert fill(sampler, {"steps": 5}, "sample")["sampler_name"] == "euler"
    with pytest.raises(MixOfShowError, match="sample: sampler_name is 'eular'"):
        fill(sampler, {"sampler_name": "eular"}, "sample")
