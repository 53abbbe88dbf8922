"""Signed manifests: a client's own key and nobody else's, over every word; and what is said without the library."""

import importlib.util
import sys

import pytest
from mos_pack.headless.exchange import Manifest
from mos_pack.headless.signing import check_signature, read_signers, sign
from mos_pack.mixofshow_core.errors import MixOfShowError

signing = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="NO CRYPTOGRAPHY HERE: signatures were NOT tested"
)
GIVEN = Manifest("ada", "mara", "concept", {"mara.safetensors": "0" * 64}, "1" * 64, "sd15", "", "2" * 64)


@pytest.fixture
def keys(tmp_path):
    """Private key files of ada, bob and eve (who uses another kind), and a list of signers with ada's and bob's."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    lines = ["# who may give", ""]
    for name in ("ada", "bob", "eve"):
        key = generate_private_key(SECP256R1()) if name == "eve" else Ed25519PrivateKey.generate()
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        lines += [f"{name} {public} {name}@home"] if name != "eve" else []
    (tmp_path / "signers").write_text("\n".join(lines))
    return tmp_path


@signing
def test_a_client_s_own_key_and_no_other(keys):
    signers = read_signers(keys / "signers")
    assert set(signers) == {"ada", "bob"}
    text, signature = GIVEN.to_sign(), sign(GIVEN.to_sign(), keys / "ada")
    check_signature(text, signature, "ada", signers)
    with open(keys / "signers", "a") as file:  # a client with two machines
        file.write("\n" + (keys / "signers").read_text().splitlines()[3].replace("bob ", "ada ", 1))
    check_signature(text, sign(text, keys / "bob"), "ada", read_signers(keys / "signers"))
    for client, given, words in (
        ("bob", signature, "by no key of client 'bob'"),
        ("eve", signature, "no key of client 'eve'"),
        ("ada", sign(text, keys / "bob"), "by no key of client 'ada'"),
        ("ada", "", "it is not signed"),
        ("ada", "no base64!", "no base64"),
    ):
        with pytest.raises(MixOfShowError, match=words):
            check_signature(text, given, client, signers)


@signing
@pytest.mark.parametrize(
    "change",
    [{"client": "bob"}, {"concept": "finn"}, {"loss": 0.5}, {"base": "x"}, {"files": {"mara.safetensors": "1" * 64}}],
)
def test_a_changed_manifest_is_not_signed(keys, change):
    from dataclasses import replace

    signature = sign(GIVEN.to_sign(), keys / "ada")
    signed = replace(GIVEN, signature=signature)
    check_signature(signed.to_sign(), signature, "ada", read_signers(keys / "signers"))  # a signature signs not itself
    with pytest.raises(MixOfShowError, match="changed afterwards"):
        check_signature(replace(signed, **change).to_sign(), signature, "ada", read_signers(keys / "signers"))


@signing
def test_other_files_are_no_keys_and_no_lists(keys):
    with pytest.raises(MixOfShowError, match="another kind than ed25519"):
        sign(b"", keys / "eve")
    for words in ("signers", "nobody"):
        with pytest.raises(MixOfShowError, match=r"no private key that can be read .*ssh-keygen -t ed25519 -N ''"):
            sign(b"", keys / words)
    for text, words in (
        ("", "names nobody"),
        ("ada", "line 1: write `CLIENT ssh-ed25519 KEY`"),
        ("\nada ssh-rsa AAAA", "line 2: write"),
        ("ada ssh-ed25519 AAAA", "no public key"),
    ):
        (keys / "list").write_text(text)
        with pytest.raises(MixOfShowError, match=words):
            read_signers(keys / "list")
    with pytest.raises(MixOfShowError, match="cannot be read"):
        read_signers(keys / "no-such-file")


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for name in [name for name in sys.modules if name.startswith("cryptography.")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "signers").write_text("ada ssh-ed25519 AAAA")
    for use in (lambda: sign(b"", tmp_path / "key"), lambda: read_signers(tmp_path / "signers")):
        with pytest.raises(MixOfShowError, match="need the library cryptography: pip install cryptography"):
            use()
