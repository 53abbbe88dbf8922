"""Clients publish, a centre takes: the same fusion as if it had looked itself, and nothing poisoned gets in."""

import json
import shutil

import pytest
from mos_tests.host.builders import make_concept
from mos_tests.host.headless.sessions import open_session

FUSE = {"calibration": "quick", "method": "exact"}


@pytest.fixture(scope="module")
def session(tiny_sd15, tmp_path_factory):
    """Two clients' concepts as files of this project, of which the centre below knows nothing."""
    from mos_pack.mixofshow_core.formats.native import write_concept
    from mos_pack.nodes.bridge.host.files import concept_folder

    names = {"ada": 1, "bob": 2}
    for name, seed in names.items():
        write_concept(concept_folder() / f"{name}.safetensors", make_concept(tiny_sd15, name, seed))
    concepts = {name: {"load": {"file": f"mixofshow/{name}.safetensors"}} for name in names}
    return open_session(tiny_sd15, {"concepts": concepts, "fuse": FUSE}, tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def exchange(session, tmp_path_factory):
    from mos_pack.headless.centre import send

    folder = tmp_path_factory.mktemp("exchange")
    for part in session.parts():
        send(session, part, folder, f"{part.name}-s-house", "statistics")
    return folder


@pytest.fixture
def centre(tiny_sd15, tmp_path):
    """A centre with nothing accepted and nothing collected."""
    from mos_pack.nodes.bridge.host.files import work_folder

    made = open_session(tiny_sd15, {"fuse": FUSE}, tmp_path)
    shutil.rmtree(made.accepted, ignore_errors=True)
    for kind in ("statistics", "fusions"):
        shutil.rmtree(work_folder("cache") / kind, ignore_errors=True)
    yield made
    shutil.rmtree(made.accepted, ignore_errors=True)


def fused(session):
    return session.fuse(session.parts())[2][0].concept.content_hash


def test_a_centre_fuses_what_it_was_given_without_looking_at_a_concept(session, exchange, centre, monkeypatch):
    from mos_pack.headless.centre import drop, take
    from mos_pack.nodes.bridge.fusing import stages
    from mos_pack.nodes.bridge.host.files import work_folder

    ours = fused(session)
    for kind in ("statistics", "fusions"):
        shutil.rmtree(work_folder("cache") / kind)
    looked = []
    collect = stages.collect
    monkeypatch.setattr(stages, "collect", lambda *given: looked.append(given[3]) or collect(*given))
    assert take(centre, exchange) == []
    assert [part.name for part in centre.parts()] == ["ada", "bob"]
    assert fused(centre) == ours
    assert len(looked) == 1 and "a photo of a house, blue background" in looked[0]  # the base alone, on generic text
    assert take(centre, exchange) == []
    drop(centre, ["ada"])
    assert [part.name for part in centre.parts()] == ["bob"]


def test_compressed_statistics_say_what_they_lose(session, centre, tmp_path):
    from mos_pack.headless.centre import drop, send, take
    from mos_pack.mixofshow_core.errors import MixOfShowError

    full = send(session, session.parts(["ada"])[0], tmp_path / "full", "ada", "statistics")
    small = send(session, session.parts(["ada"])[0], tmp_path / "small", "ada", "compressed", 32)
    sizes = [(folder / "ada.statistics").stat().st_size for folder in (full, small)]
    loss = json.loads((small / "manifest.json").read_text())["loss"]
    assert sizes[1] < sizes[0] and 0 < loss < 0.3
    assert take(centre, tmp_path / "small") == []
    with pytest.raises(MixOfShowError, match="was not accepted from anybody; accepted are ada"):
        drop(centre, ["bob"])


def test_who_is_not_on_the_list_of_signers_is_refused(session, centre, tmp_path):
    """One signs, one does not, one signs for another; what the signature itself may be is test_signing's."""
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mos_pack.headless.centre import send, take

    key, formats = Ed25519PrivateKey.generate(), serialization
    openssh = formats.Encoding.PEM, formats.PrivateFormat.OpenSSH, formats.NoEncryption()
    (tmp_path / "key").write_bytes(key.private_bytes(*openssh))
    public = key.public_key().public_bytes(formats.Encoding.OpenSSH, formats.PublicFormat.OpenSSH).decode()
    (tmp_path / "signers").write_text(f"ada {public}\nbob {public}\n")
    ada, bob = session.parts()
    send(session, ada, tmp_path / "exchange", "ada", "concept", key=tmp_path / "key")
    send(session, bob, tmp_path / "exchange", "bob", "concept")
    send(session, bob, tmp_path / "exchange", "eve", "concept", key=tmp_path / "key")
    refused = take(centre, tmp_path / "exchange", tmp_path / "signers")
    assert [line.partition(":")[0] for line in refused] == ["client bob, bob", "client eve, bob"]
    assert "it is not signed" in refused[0] and "no key of client 'eve'" in refused[1]
    assert [part.name for part in centre.parts()] == ["ada"]


def statistics_with(path, change):
    """Change the tensors or the header of a statistics file."""
    from mos_pack.mixofshow_core.formats.native import load_safetensors
    from safetensors.torch import save_file

    tensors, metadata = load_safetensors(path)
    header = json.loads(metadata["mixofshow.statistics"])
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors, header)
    save_file(tensors, path, metadata={"mixofshow.statistics": json.dumps(header)})


def spatial(tensors):
    return next(name for name in sorted(tensors) if name.startswith("diffusion_model") and "attn1" in name)


def louder(tensors, header):
    tensors[spatial(tensors)] *= 1e12


def negative(tensors, header):
    tensors[spatial(tensors)] *= -1


def indefinite(tensors, header):
    tensors[spatial(tensors)][1] += 100 * tensors[spatial(tensors)].abs().max()  # one entry beside the diagonal


def not_finite(tensors, header):
    tensors[spatial(tensors)][0] = float("nan")


def of_another_base(tensors, header):
    header["manifest"]["base"] = "0" * 64


def of_another_calibration(tensors, header):
    header["manifest"]["plan"] = "0" * 64


def at_another_strength(tensors, header):
    header["manifest"]["concepts"] = ["0" * 64]


def too_narrow(tensors, header):
    packed = tensors[spatial(tensors)]  # [d + 1, d / 2]
    tensors[spatial(tensors)] = packed[:-2, :-1].clone()


def of_another_concept(tensors, header):
    for name, tensor in tensors.items():
        if "text_encoders" in name:
            tensors[name] = tensor * 1.5


def without_a_layer(tensors, header):
    header["asked"] = header["asked"][1:]


POISONS = {
    louder: "have energy",
    negative: "have energy",
    indefinite: "not positive semidefinite",
    not_finite: "not finite",
    of_another_base: "collected for another base",
    of_another_calibration: "collected for another calibration",
    at_another_strength: "at another strength or trigger",
    too_narrow: "they belong to another base",
    of_another_concept: "are not those of this concept",
    without_a_layer: "lack 1 layers",
}


def test_poisoned_statistics_are_refused_by_the_client_s_name(exchange, centre, tmp_path):
    """Each with a manifest that agrees with the poisoned bytes: a client may lie."""
    from mos_pack.headless.centre import take
    from mos_pack.mixofshow_core.digests import digest_of_file

    shutil.copytree(exchange / "bob-s-house", tmp_path / "bob-s-house")
    for poison in POISONS:
        folder = tmp_path / poison.__name__ / "ada"
        shutil.copytree(exchange / "ada-s-house" / "ada", folder)
        statistics_with(folder / "ada.statistics", poison)
        files = {name: digest_of_file(folder / name) for name in ("ada.safetensors", "ada.statistics")}
        rewrite(folder, client=poison.__name__, files=files)
    refused = dict(zip(sorted(poison.__name__ for poison in POISONS), take(centre, tmp_path), strict=True))
    for poison, words in POISONS.items():
        line = refused[poison.__name__]
        assert line.startswith(f"client {poison.__name__}, ada: refused, ") and words in line, line
    assert [part.name for part in centre.parts()] == ["bob"]  # the honest one is in


def rewrite(folder, **facts):
    manifest = json.loads((folder / "manifest.json").read_text()) | facts
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_concept_of_another_family_is_refused_by_the_client_s_name(tiny_sdxl, centre, tmp_path):
    from mos_pack.headless.centre import take
    from mos_pack.headless.exchange import Manifest, publish
    from mos_pack.mixofshow_core.digests import digest_of_file
    from mos_pack.mixofshow_core.formats.native import read_concept, write_concept

    write_concept(tmp_path / "eve.safetensors", make_concept(tiny_sdxl, "eve", 3))
    concept, files = read_concept(tmp_path / "eve.safetensors"), {"eve.safetensors": tmp_path / "eve.safetensors"}
    facts = concept.content_hash, concept.base.family, concept.base.fingerprint or "", "plan"
    digests = {name: digest_of_file(path) for name, path in files.items()}
    publish(tmp_path / "exchange" / "eve" / "eve", Manifest("eve", "eve", "concept", digests, *facts), files)
    (line,) = take(centre, tmp_path / "exchange")
    assert line.startswith("client eve, eve: refused, ") and "was made for SDXL, but MODEL is " in line
    assert centre.parts() == []


def test_lies_and_halves_and_conflicts(tiny_sd15, exchange, centre, tmp_path):
    from mos_pack.headless.centre import take
    from mos_pack.mixofshow_core.digests import digest_of_file
    from mos_pack.mixofshow_core.formats.native import read_concept, write_concept

    given = tmp_path / "given"
    shutil.copytree(exchange, given)
    ada, bob = given / "ada-s-house" / "ada", given / "bob-s-house" / "bob"

    def told(words, folder=ada):
        (line,) = take(centre, folder)
        assert words in line, line
        shutil.rmtree(ada), shutil.copytree(exchange / "ada-s-house" / "ada", ada)

    with open(ada / "ada.statistics", "ab") as file:
        file.write(b"x")
    told("other bytes than its manifest says")
    (ada / "ada.statistics").unlink()
    told("ada.statistics is missing")
    (ada / "manifest.json").write_text("{")
    told("manifest cannot be read")
    rewrite(ada, files={"../../x.safetensors": "0"})
    told("no plain file name")
    rewrite(ada, client="bob-s-house")
    told("says that client 'bob-s-house' made it")
    rewrite(ada, loss="0")
    told("loss is '0'; a number is needed")
    rewrite(ada, content_hash="0" * 64)
    told("another one than its manifest says")
    rewrite(ada, base="0" * 64)
    told("another one than its manifest says")
    rewrite(ada, kind="concept")
    told("says concept, and statistics are there")
    loud = read_concept(ada / "ada.safetensors")
    loud.deltas[next(iter(loud.deltas))].up.mul_(1e6)
    (ada / "ada.statistics").unlink()
    write_concept(ada / "ada.safetensors", loud)
    rewrite(
        ada,
        kind="concept",
        files={"ada.safetensors": digest_of_file(ada / "ada.safetensors")},
        content_hash=read_concept(ada / "ada.safetensors").content_hash,
    )
    told("too loud")

    # A folder without a manifest is not finished; one that is there already is said to be.
    (ada / "manifest.json").unlink()
    assert take(centre, given) == [] and [part.name for part in centre.parts()] == ["bob"]
    shutil.copytree(bob, given / "eve" / "bob")
    rewrite(given / "eve" / "bob", client="eve")
    (line,) = take(centre, given)
    assert line == "client eve, bob: refused, client bob-s-house has given this very concept already"
    other = make_concept(tiny_sd15, "bob", 7)
    write_concept(given / "eve" / "bob" / "bob.safetensors", other)
    (given / "eve" / "bob" / "bob.statistics").unlink()
    files = {"bob.safetensors": digest_of_file(given / "eve" / "bob" / "bob.safetensors")}
    rewrite(given / "eve" / "bob", kind="concept", files=files, content_hash=other.content_hash)
    (line,) = take(centre, given)
    assert line == "client eve, bob: refused, the name 'bob' belongs to client bob-s-house already"
    assert [part.name for part in centre.parts()] == ["bob"]
