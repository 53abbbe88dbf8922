"""What a client gives to a centre: a folder with a concept, its statistics and a manifest; and how a centre takes it.

    EXCHANGE/<client>/<concept>/  <concept>.safetensors  <concept>.statistics  manifest.json

The manifest is written last, so a folder without one is not finished. Anything that copies folders is a transport. What
was accepted lies in models/loras/mixofshow/accepted in the same form: that folder is the whole state of a centre.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..mixofshow_core.atomic import replacing
from ..mixofshow_core.digests import digest_of_file
from ..mixofshow_core.errors import MixOfShowError, short
from ..mixofshow_core.formats.native import read_concept
from ..mixofshow_core.names import fold

VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST = 100_000
ACCEPTED = "accepted"
KINDS = ("concept", "statistics", "compressed")


@dataclass(frozen=True)
class Manifest:
    """What a client says about what it gives. files: name -> SHA-256. loss: of the compressed statistics' worst matrix.

    base: fingerprint of the base's weights as the concept file has it. plan: hash of the calibration. signature: by the
    client, of everything else (signing.py); empty where nobody asked for one.
    """

    client: str
    concept: str
    kind: str
    files: Mapping[str, str]
    content_hash: str
    family: str
    base: str
    plan: str
    versions: Mapping[str, str] = field(default_factory=dict)
    loss: float = 0.0
    version: int = VERSION
    signature: str = ""

    def __post_init__(self) -> None:
        for name in ("client", "concept", "content_hash", "family", "base", "plan", "signature"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > 200:
                raise MixOfShowError(f"{name} is {short(value)}; a short text is needed")
        if isinstance(self.loss, bool) or not isinstance(self.loss, (int, float)):
            raise MixOfShowError(f"loss is {short(self.loss)}; a number is needed")
        if self.version != VERSION:
            raise MixOfShowError(f"version is {short(self.version)}; this pack reads {VERSION}")
        if self.kind not in KINDS:
            raise MixOfShowError(f"kind is {short(self.kind)}; use one of {', '.join(KINDS)}")
        if not isinstance(self.files, dict) or not 1 <= len(self.files) <= 2:
            raise MixOfShowError(f"files is {short(self.files)}; it names a concept and perhaps statistics")
        if bad := [name for name in self.files if Path(str(name)).name != name or str(name).startswith(".")]:
            raise MixOfShowError(f"files names {short(bad[0])}, which is no plain file name")

    def text(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    def to_sign(self) -> bytes:
        """What a signature stands for: all but itself."""
        return replace(self, signature="").text().encode()


@dataclass(frozen=True)
class Submission:
    """A folder that holds a manifest and what it names. client: by the folder's place, whatever the manifest says."""

    folder: Path
    client: str

    def manifest(self) -> Manifest:
        path = self.folder / MANIFEST
        try:
            if path.stat().st_size > MAX_MANIFEST:
                raise ValueError(f"{path.stat().st_size} bytes")
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or set(found) - {part.name for part in fields(Manifest)}:
                raise ValueError(f"it holds {short(found)}")
            manifest = Manifest(**found)
        except (OSError, ValueError, TypeError, RecursionError, MixOfShowError) as error:
            raise MixOfShowError(f"its manifest cannot be read ({str(error)[:200]})") from error
        if manifest.client != self.client:
            raise MixOfShowError(f"its manifest says that client {short(manifest.client)} made it")
        return manifest

    def file(self, manifest: Manifest, suffix: str) -> Path | None:
        """The one file of this kind, with the bytes that the manifest promises."""
        names = [name for name in manifest.files if name.endswith(suffix)]
        if len(names) != 1:
            return None
        path = self.folder / names[0]
        if not path.is_file() or path.is_symlink():
            raise MixOfShowError(f"{path.name} is missing")
        if digest_of_file(path) != manifest.files[path.name]:
            raise MixOfShowError(f"{path.name} has other bytes than its manifest says (half copied, or changed)")
        return path


def submissions(folder: Path) -> list[Submission]:
    """All finished ones below EXCHANGE, by client and concept; or the one that `folder` itself is."""
    if not folder.is_dir():
        raise MixOfShowError(f"{folder} is no folder: name the exchange folder, or one submission in it.")
    if (folder / MANIFEST).is_file():
        return [Submission(folder, folder.resolve().parent.name)]
    return [Submission(path.parent, path.parent.parent.name) for path in sorted(folder.glob(f"*/*/{MANIFEST}"))]


def publish(folder: Path, manifest: Manifest, files: Mapping[str, Path]) -> Path:
    """Copy `files` (name -> where it is) and write the manifest last; an earlier submission of it is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # not finished, from here until the new one is there
    for name, source in files.items():
        with replacing(folder / name) as part:
            shutil.copyfile(source, part)
    for old in folder.iterdir():
        if old.is_file() and old.name not in files and not old.name.startswith("."):
            old.unlink()
    with replacing(folder / MANIFEST) as part:
        part.write_text(manifest.text(), encoding="utf-8")
    return folder


def check_submission(given: Submission, accepted: list[Submission]) -> tuple[Manifest, Path, Path | None, bool]:
    """(manifest, concept file, statistics file or None, whether this very concept is here already).

    Everything that can be asked without a model; MixOfShowError says what is wrong, without naming the client.
    """
    manifest = given.manifest()
    path = given.file(manifest, ".safetensors")
    if path is None:
        raise MixOfShowError("it names no concept file")
    statistics = given.file(manifest, ".statistics")
    if (statistics is None) != (manifest.kind == "concept"):
        raise MixOfShowError(
            f"its manifest says {manifest.kind}, and statistics are {'there' if statistics else 'not'}"
        )
    concept = read_concept(path)
    found = concept.content_hash, concept.base.family, concept.base.fingerprint or ""
    if found != (manifest.content_hash, manifest.family, manifest.base):
        raise MixOfShowError("the concept is another one than its manifest says")
    names = {fold(entry.name) for entry in concept.entries}
    if not names or manifest.concept not in {entry.name for entry in concept.entries}:
        raise MixOfShowError(f"the file holds no concept {manifest.concept!r}")
    for other in accepted:
        theirs = other.manifest()
        if theirs.content_hash == manifest.content_hash and other.client != given.client:
            raise MixOfShowError(f"client {other.client} has given this very concept already")
        known = read_concept(other.file(theirs, ".safetensors"))
        same = other.client == given.client and theirs.concept == manifest.concept
        if not same and (shared := names & {fold(entry.name) for entry in known.entries}):
            raise MixOfShowError(f"the name {sorted(shared)[0]!r} belongs to client {other.client} already")
        if same and theirs.files == manifest.files:
            return manifest, path, statistics, True
    return manifest, path, statistics, False
