"""What a client gives to a centre: a folder with a concept, its statistics and a manifest; and how a centre takes it.

    EXCHANGE/<client>/<concept>/  <concept>.safetensors  <concept>.statistics  manifest.json

The manifest is written last, so a folder without one is not finished. Anything that copies folders is a transport. What
was accepted lies in models/loras/mixofshow/accepted in the same form: that folder is the whole state of a centre.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..mixofshow_core.atomic import replacing
from ..mixofshow_core.concept import Concept
from ..mixofshow_core.digests import digest_of_file
from ..mixofshow_core.errors import MixOfShowError, short
from ..mixofshow_core.formats.dialect import check_concept
from ..mixofshow_core.formats.native import read_concept
from ..mixofshow_core.names import fold

VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST = 100_000
ACCEPTED = "accepted"
KINDS = ("concept", "statistics", "compressed")
CONCEPT, STATISTICS = ".safetensors", ".statistics"  # how the names of the two files end


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
        if isinstance(self.loss, bool) or not isinstance(self.loss, (int, float)) or not 0 <= self.loss <= 1:
            raise MixOfShowError(f"loss is {short(self.loss)}; a number is needed, 0 to 1")
        said = self.versions.items() if isinstance(self.versions, dict) else [("", None)]
        if len(said) > 20 or not all(isinstance(text, str) and len(text) <= 200 for pair in said for text in pair):
            raise MixOfShowError(f"versions is {short(self.versions)}; short texts by name are needed")
        if self.version != VERSION:
            raise MixOfShowError(f"version is {short(self.version)}; this pack reads {VERSION}")
        if self.kind not in KINDS:
            raise MixOfShowError(f"kind is {short(self.kind)}; use one of {', '.join(KINDS)}")
        if not isinstance(self.files, dict) or not 1 <= len(self.files) <= 2:
            raise MixOfShowError(f"files is {short(self.files)}; it names a concept and perhaps statistics")
        if bad := [name for name in self.files if not _is_plain(str(name))]:
            raise MixOfShowError(f"files names {short(bad[0])}, which is no plain file name of a concept or statistics")

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
            found = json.loads(_read_small(path))
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


def _is_plain(name: str) -> bool:
    """Whether a file of this name lies in the folder itself, is seen there, and is of a kind that is asked for."""
    stem, dot, suffix = name.rpartition(".")
    plain = name.isprintable() and len(name) <= 200 and not set(name) & set("/\\:") and name[:1] != "."
    return plain and bool(stem) and dot + suffix in (CONCEPT, STATISTICS)


def _read_small(path: Path) -> str:
    """The text of a manifest. A link or a pipe may never end, or begin."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("it is no plain file")
    with open(path, "rb") as file:
        text = file.read(MAX_MANIFEST + 1)
    if len(text) > MAX_MANIFEST:
        raise ValueError(f"it has more than {MAX_MANIFEST} bytes")
    return text.decode("utf-8")


def submissions(folder: Path) -> list[Submission]:
    """All finished ones below EXCHANGE, by client and concept; or the one that `folder` itself is."""
    if not folder.is_dir():
        raise MixOfShowError(f"{folder} is no folder: name the exchange folder, or one submission in it.")
    if (folder / MANIFEST).is_file():
        folder = folder.resolve()  # its own name and its client's, also where it was called "."
        return [Submission(folder, folder.parent.name)]
    return [Submission(path.parent, path.parent.parent.name) for path in sorted(folder.glob(f"*/*/{MANIFEST}"))]


def publish(folder: Path, manifest: Manifest, files: Mapping[str, Path]) -> Path:
    """Copy `files` (name -> where it is) and write the manifest last; an earlier submission of it is replaced.

    Until everything is copied (a disk may be full) the earlier one stays whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as last:
        parts = {name: last.enter_context(replacing(folder / name)) for name in files}
        for name, part in parts.items():
            shutil.copyfile(files[name], part)
        (folder / MANIFEST).unlink(missing_ok=True)  # not finished, from here until the new one is there
    for old in folder.iterdir():
        if old.is_file() and old.name not in files and not old.name.startswith("."):
            old.unlink()
    with replacing(folder / MANIFEST) as part:
        part.write_text(manifest.text(), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Held:
    """A submission that was accepted. names: of its concepts, folded."""

    given: Submission
    manifest: Manifest
    path: Path
    names: frozenset[str]


def read_held(given: Submission) -> Held:
    """What lies in a centre's own folder; MixOfShowError, which names the client, where it was damaged there."""
    try:
        manifest = given.manifest()
        path = given.file(manifest, CONCEPT)
        if path is None:
            raise MixOfShowError("it names no concept file")
        return Held(given, manifest, path, _names(read_concept(path)))
    except (MixOfShowError, OSError) as error:
        raise MixOfShowError(
            f"What was accepted of client {given.client}, {given.folder.name}, is damaged ({error}). Take it once more "
            f"(`cli.py add`), or delete {given.folder}."
        ) from error


def _names(concept: Concept) -> frozenset[str]:
    return frozenset(fold(entry.name) for entry in concept.entries)


def check_submission(given: Submission, accepted: Sequence[Held], own: Collection[str] = ()) -> tuple[Held, bool]:
    """(what is given, whether this very concept is here already).

    Everything that can be asked without a model; MixOfShowError says what is wrong, without naming the client. own:
    names that the centre gave itself. What lies under the same client's same folder is replaced, so it may have the
    same names.
    """
    manifest = given.manifest()
    path = given.file(manifest, CONCEPT)
    if path is None:
        raise MixOfShowError("it names no concept file")
    statistics = given.file(manifest, STATISTICS)
    if (statistics is None) != (manifest.kind == "concept"):
        raise MixOfShowError(
            f"its manifest says {manifest.kind}, and statistics are {'there' if statistics else 'not'}"
        )
    concept = read_concept(path)
    found = concept.content_hash, concept.base.family, concept.base.fingerprint or ""
    if found != (manifest.content_hash, manifest.family, manifest.base):
        raise MixOfShowError("the concept is another one than its manifest says")
    names = _names(concept)
    check_concept(concept, path.name)
    if not names or manifest.concept not in {entry.name for entry in concept.entries}:
        raise MixOfShowError(f"the file holds no concept {short(manifest.concept)}")
    if shared := names & set(map(fold, own)):
        raise MixOfShowError(f"this project has a concept {sorted(shared)[0]} of its own")
    is_here = False
    for other in accepted:
        if (other.given.client, other.given.folder.name) == (given.client, given.folder.name):
            is_here = (other.manifest.files, other.manifest.concept) == (manifest.files, manifest.concept)
            continue
        if other.manifest.content_hash == manifest.content_hash:
            raise MixOfShowError(f"client {other.given.client} has given this very concept already")
        if shared := names & other.names:
            raise MixOfShowError(f"the name {sorted(shared)[0]!r} belongs to client {other.given.client} already")
    return Held(given, manifest, path, names), is_here
