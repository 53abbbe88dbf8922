"""Who made a manifest: ed25519 signatures by OpenSSH keys, which most people have.

The one file that asks for the library `cryptography`, and only when something is signed or checked.

    ssh-keygen -t ed25519 -f mine             the client's key; mine.pub is what the centre is given
    ada ssh-ed25519 AAAAC3Nz... a comment     a line of the centre's list: client, then the line of mine.pub
"""

from __future__ import annotations

import base64
import binascii
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ..mixofshow_core.errors import MixOfShowError, short

KIND = "ssh-ed25519"
PURPOSE = b"mixofshow manifest\n"  # before what is signed, so that a signature for something else means nothing here


def sign(text: bytes, key: Path) -> str:
    """The signature of `text` by the OpenSSH private key in a file, as base64."""
    library = _library("hazmat.primitives.serialization")
    try:
        private = library.load_ssh_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, _library("exceptions").UnsupportedAlgorithm) as error:
        raise MixOfShowError(
            f"{key} is no private key that can be read ({str(error)[:200]}). `ssh-keygen -t ed25519 -N '' -f FILE` "
            "makes one without a passphrase."
        ) from error
    if not isinstance(private, _library("hazmat.primitives.asymmetric.ed25519").Ed25519PrivateKey):
        raise MixOfShowError(f"{key} is a key of another kind than ed25519: `ssh-keygen -t ed25519` makes one.")
    return base64.b64encode(private.sign(PURPOSE + text)).decode()


def read_signers(path: Path) -> dict[str, tuple[str, ...]]:
    """Client -> the public keys that may sign for it. Empty lines and lines that begin with # are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise MixOfShowError(f"The list of signers {path} cannot be read ({str(error)[:200]}).") from error
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 3 or words[1] != KIND:
            raise MixOfShowError(f"{path.name}, line {number}: write `CLIENT {KIND} KEY`, the line of a .pub file.")
        key = " ".join(words[1:3])
        _public(key, f"{path.name}, line {number}")
        found[words[0]] = (*found.get(words[0], ()), key)
    if not found:
        raise MixOfShowError(f"The list of signers {path.name} names nobody: write lines `CLIENT {KIND} KEY`.")
    return found


def check_signature(text: bytes, signature: str, client: str, signers: Mapping[str, Sequence[str]]) -> None:
    """MixOfShowError unless one of the client's keys signed `text`."""
    if client not in signers:
        raise MixOfShowError(f"the list of signers has no key of client {short(client)}")
    if not signature:
        raise MixOfShowError("it is not signed, and the list of signers was named")
    try:
        given = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MixOfShowError(f"its signature is {short(signature)}, no base64") from error
    for key in signers[client]:
        try:
            _public(key, client).verify(given, PURPOSE + text)
            return
        except _library("exceptions").InvalidSignature:
            continue
    raise MixOfShowError(f"its signature is by no key of client {short(client)}, or it was changed afterwards")


def _public(key: str, where: str):
    try:
        return _library("hazmat.primitives.serialization").load_ssh_public_key(key.encode())
    except (ValueError, _library("exceptions").UnsupportedAlgorithm) as error:
        raise MixOfShowError(f"{where}: {short(key)} is no public key ({str(error)[:200]}).") from error


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"cryptography.{name}")
    except ImportError as error:
        raise MixOfShowError(
            f"Signatures need the library cryptography: pip install cryptography ({str(error)[:200]})"
        ) from error
