"""A client who wants to break a centre: each try is refused by its name, and nobody else is touched."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from mos_tests.host.builders import make_concept
from mos_tests.host.headless.sessions import open_session


@pytest.fixture
def centre(tiny_sd15, tmp_path):
    """A centre with a concept of its own, mara, and bob's accepted."""
    from mos_pack.headless.centre import take
    from mos_pack.mixofshow_core.formats.native import write_concept
    from mos_pack.nodes.bridge.host.files import concept_folder

    write_concept(concept_folder() / "mara.safetensors", make_concept(tiny_sd15, "mara", 3))
    own = {"mara": {"load": {"file": "mixofshow/mara.safetensors"}}}
    made = open_session(tiny_sd15, {"fuse": {"method": "sum"}, "concepts": own}, tmp_path)
    shutil.rmtree(made.accepted, ignore_errors=True)
    give(tmp_path / "honest", make_concept(tiny_sd15, "bob", 2), "bob")
    assert take(made, tmp_path / "honest") == []
    yield made
    shutil.rmtree(made.accepted, ignore_errors=True)


def give(exchange, concept, client, name=""):
    """The folder of a submission of this concept alone, by `client`, under its own name or another."""
    from mos_pack.headless.exchange import Manifest, publish
    from mos_pack.mixofshow_core.digests import digest_of_file
    from mos_pack.mixofshow_core.formats.native import write_concept

    source, called = exchange / "made.safetensors", concept.entries[0].name
    write_concept(source, concept)
    facts = concept.content_hash, concept.base.family, concept.base.fingerprint or "", "plan"
    files = {f"{called}.safetensors": source}
    digests = {file: digest_of_file(path) for file, path in files.items()}
    return publish(exchange / client / (name or called), Manifest(client, called, "concept", digests, *facts), files)


def rewrite(folder, **facts):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def names(session):
    return [part.name for part in session.parts()]


def endless(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").symlink_to("/dev/zero")


def never_begun(folder):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def with_a_program(folder):
    (folder / "run.py").write_text("1")
    rewrite(folder, files={**json.loads((folder / "manifest.json").read_text())["files"], "run.py": "0"})


FOLDERS = {
    endless: "is no plain file",
    never_begun: "is no plain file",
    with_a_program: "files names 'run.py', which is no plain file name",
    lambda folder: rewrite(folder, files={"a" * 300 + ".safetensors": "0"}): "which is no plain file name",
    lambda folder: rewrite(folder, files={"": "0"}): "which is no plain file name",
    lambda folder: rewrite(folder, loss=10**400): "a number is needed, 0 to 1",
    lambda folder: rewrite(folder, versions=["1"]): "short texts by name are needed",
    lambda folder: (folder / "eve.safetensors").write_bytes(b""): "other bytes than its manifest says",
}


@pytest.mark.skipif(os.name == "nt", reason="needs pipes")
def test_a_submission_that_is_none_is_refused(tiny_sd15, centre, tmp_path):
    from mos_pack.headless.centre import take

    for number, (change, words) in enumerate(FOLDERS.items()):
        exchange = tmp_path / str(number)
        change(give(exchange, make_concept(tiny_sd15, "eve", 4), "eve"))
        (line,) = take(centre, exchange)
        assert line.startswith("client eve, eve: refused, ") and words in line, line
    assert names(centre) == ["mara", "bob"]


def loud(layer, suffix):
    def change(tensors, torch, weights):
        tensors[f"{layer}.{suffix}"] = torch.full(weights[f"{layer}.{'bias' if suffix == 'diff_b' else 'weight'}"], 1e9)

    return change


def of_two_numbers(tensors, torch, weights):
    tensors[next(key for key in tensors if key.endswith(".alpha"))] = torch.ones(2)


def shouted_words(tensors, torch, weights):
    for key in tensors:
        if "embedding" in key:
            tensors[key] = tensors[key] * 1e30


def wider_words(tensors, torch, weights):
    for key in tensors:
        if "embedding" in key:
            tensors[key] = torch.cat([tensors[key]] * 2, 1)


CONCEPTS = {
    loud("diffusion_model.input_blocks.0.0", "diff"): "too loud",
    loud("diffusion_model.out.0", "diff"): "too loud",
    loud("diffusion_model.out.2", "diff_b"): "too loud",
    of_two_numbers: "only one element",
    shouted_words: "not finite",
    wider_words: "parts of different model families",
}


def test_a_poisoned_concept_is_refused(tiny_sd15, centre, tmp_path):
    """In layers that are no part of attention, too, and in words: what would break the fusion of all the others."""
    import torch
    from mos_pack.headless.centre import take
    from mos_pack.mixofshow_core.digests import digest_of_file
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.mixofshow_core.formats.native import load_safetensors, read_concept, save_safetensors

    weights = {key: value.shape for key, value in tiny_sd15.model.model.state_dict().items()}
    for number, (change, words) in enumerate(CONCEPTS.items()):
        exchange = tmp_path / str(number)
        folder = give(exchange, make_concept(tiny_sd15, "eve", 4), "eve")
        tensors, metadata = load_safetensors(folder / "eve.safetensors")
        change(tensors, torch, weights)
        save_safetensors(folder / "eve.safetensors", tensors, metadata)
        rewrite(folder, files={"eve.safetensors": digest_of_file(folder / "eve.safetensors")})
        with suppress(MixOfShowError):
            rewrite(folder, content_hash=read_concept(folder / "eve.safetensors").content_hash)
        (line,) = take(centre, exchange)
        assert line.startswith("client eve, eve: refused, ") and words in line, line
    assert names(centre) == ["mara", "bob"]


def test_nobody_takes_another_s_name(tiny_sd15, centre, tmp_path):
    """Not the centre's own, which would have painted eve's face for mara; nor one's own in a second folder."""
    from mos_pack.headless.centre import take

    give(tmp_path / "own", make_concept(tiny_sd15, "Mara", 4), "eve", "something-else")
    (line,) = take(centre, tmp_path / "own")
    assert line == "client eve, something-else: refused, this project has a concept mara of its own"
    give(tmp_path / "twice", make_concept(tiny_sd15, "bob", 5), "bob", "second")
    (line,) = take(centre, tmp_path / "twice")
    assert line == "client bob, second: refused, the name 'bob' belongs to client bob already"
    assert names(centre) == ["mara", "bob"] and centre.parts()[0].load["file"] == "mixofshow/mara.safetensors"
    give(tmp_path / "anew", make_concept(tiny_sd15, "rob", 6), "bob", "bob")  # the same folder: in place of the first
    assert take(centre, tmp_path / "anew") == [] and names(centre) == ["mara", "rob"]


def test_a_submission_is_taken_from_its_own_folder(tiny_sd15, centre, tmp_path, monkeypatch):
    from mos_pack.headless.centre import take
    from mos_pack.headless.exchange import Submission

    monkeypatch.chdir(give(tmp_path / "exchange", make_concept(tiny_sd15, "ada", 4), "ada"))
    assert take(centre, Path(".")) == [] and names(centre) == ["mara", "ada", "bob"]
    assert Submission(centre.accepted / "ada" / "ada", "ada").manifest().concept == "ada"


def test_what_was_accepted_and_then_damaged_is_named_and_taken_once_more(tiny_sd15, centre, tmp_path, capsys):
    from mos_pack.headless.centre import take
    from mos_pack.mixofshow_core.errors import MixOfShowError

    there = centre.accepted / "bob" / "bob" / "bob.safetensors"
    there.write_bytes(there.read_bytes()[:-1])
    with pytest.raises(MixOfShowError, match="accepted of client bob, bob, is damaged .*Take it once more"):
        centre.parts()
    give(tmp_path / "honest", make_concept(tiny_sd15, "ada", 4), "ada")
    assert take(centre, tmp_path / "honest") == [] and names(centre) == ["mara", "ada", "bob"]


def test_a_full_disk_loses_nothing_that_was_accepted(tiny_sd15, centre, tmp_path, monkeypatch):
    from mos_pack.headless import exchange
    from mos_pack.headless.centre import take

    give(tmp_path / "new", make_concept(tiny_sd15, "bob", 7), "bob")
    copy = shutil.copyfile

    def full(source, target):
        if centre.accepted in target.parents:
            raise OSError(28, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(exchange.shutil, "copyfile", full)
    (line,) = take(centre, tmp_path / "new")
    assert line.startswith("client bob, bob: refused, ") and "No space left" in line
    assert names(centre) == ["mara", "bob"]


def test_a_file_that_breaks_its_reader_keeps_nobody_out(tiny_sd15, centre, tmp_path, monkeypatch):
    from mos_pack.headless import centre as module
    from mos_pack.headless.centre import take

    check = module.check_submission

    def breaks(given, *facts):
        if given.client == "eve":
            raise ZeroDivisionError("by eve")
        return check(given, *facts)

    monkeypatch.setattr(module, "check_submission", breaks)
    give(tmp_path / "both", make_concept(tiny_sd15, "eve", 4), "eve")
    give(tmp_path / "both", make_concept(tiny_sd15, "zoe", 5), "zoe")
    (line,) = take(centre, tmp_path / "both")
    assert line == "client eve, eve: refused, it cannot be checked (ZeroDivisionError: by eve)"
    assert names(centre) == ["mara", "bob", "zoe"]
