"""cli.py from a client's pictures to a centre's and back, command by command."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml
from mos_pack.headless import host

TRAIN = {"train": {"steps": 1}, "train_settings": {"batch": 1, "preview_every": 0}}
SMALL = {"fuse": {"method": "sum", "save_as": "by-command"}, "sample": {"steps": 1, "cfg": 1.0}}


@pytest.fixture
def run(tmp_path, monkeypatch, command_line, quick_sheets):
    """run(folder, command, words...) -> (exit code, its JSON lines)."""
    from mos_pack.nodes.bridge.host.files import concept_folder

    def run(folder, *words):
        monkeypatch.chdir(tmp_path / folder)
        code, out, _ = command_line(*words, "--json")
        return code, [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    shutil.rmtree(concept_folder() / "accepted", ignore_errors=True)
    yield run
    shutil.rmtree(concept_folder() / "accepted", ignore_errors=True)


def write_project(folder, **facts):
    folder.mkdir()
    project = {"version": 1, "model": {"base": "SD1.5 kind"}, **facts}
    (folder / "mixofshow.yaml").write_text(yaml.safe_dump(project))


def test_a_client_gives_and_a_centre_adds_paints_scores_and_removes(run, tmp_path):
    def pictures(name):
        return {"dataset": {"folder": f"demo:{name}", "class_word": "person"}, "train": {"save_as": f"cli-{name}"}}

    write_project(tmp_path / "ada", **TRAIN, concepts={"mara": pictures("mara")})
    write_project(tmp_path / "centre", **TRAIN, **SMALL, concepts={"finn": pictures("finn")})

    def done(folder, *words):
        code, lines = run(folder, *words)
        assert code == 0, lines[-1]
        return lines

    done("ada", "train")
    done("ada", "stats", "--to", "../exchange", "--client", "ada", "--kind", "concept")
    done("centre", "train")
    lines = done("centre", "add", "--from", "../exchange")
    assert any("client ada, mara: accepted" in line["text"] for line in lines)
    assert "of 2 concepts, method sum" in lines[-1]["report"]
    done("centre", "sample", "--out", "all.png", "--set", "place.prompt=finn and mara")
    scores = done("centre", "score", "finn", "--pictures", "all.png", "--set", "place.prompt=finn")[-1]["scores"]
    assert scores["pictures"] and "finn" in json.dumps(scores)
    code, lines = run("centre", "score", "mara", "--pictures", "all.png")
    assert code == 2 and "nothing to compare" in lines[-1]["text"]
    lines = done("centre", "remove", "mara")
    assert any("mara of client ada: removed" in line["text"] for line in lines)
    assert "One concept (finn)" in lines[-1]["text"]
    code, lines = run("centre", "remove", "mara")
    assert code == 2 and "was not accepted from anybody" in lines[-1]["text"]


def test_a_killed_command_leaves_nothing_in_the_systems_temporary_folder(tmp_path, monkeypatch):
    """Nothing runs in it at its end, so its previews lie in the project's own folders, and a later run removes them."""
    place, home = tmp_path / "system", tmp_path / "comfyui" / "temp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    left = Path(host.temporary_folder(home.parent))
    assert left.parent == home and not list(place.iterdir())
    used = Path(host.temporary_folder(home.parent))
    os.utime(left, (0, 0))
    host.temporary_folder(home.parent)
    assert not left.exists() and used.exists()
