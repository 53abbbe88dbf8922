"""A client gives (`stats`), a centre takes (`add`) and gives back (`remove`): what the exchange folder is for."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from ..mixofshow_core.concept import ConceptUse
from ..mixofshow_core.digests import digest_of_file
from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.formats.native import read_concept
from .exchange import (
    CONCEPT,
    MANIFEST,
    STATISTICS,
    Held,
    Manifest,
    Submission,
    check_submission,
    publish,
    read_held,
    submissions,
)
from .host import pack_module, versions
from .project import ConceptPart
from .signing import check_signature, read_signers, sign
from .work import Session

log = logging.getLogger("mixofshow")

RANK = 64  # directions that compressed statistics keep of each matrix


def send(
    session: Session,
    part: ConceptPart,
    exchange: Path,
    client: str,
    kind: str,
    rank: int = RANK,
    key: Path | None = None,
) -> Path:
    """Publish one concept as `client`, alone, with its statistics, or with compressed ones. key: to sign it with."""
    files, model, clip = pack_module("nodes.bridge.host.files"), *session.base[:2]
    use = session.concepts([part])[0]
    source = files.resolve_concept_file(use.path)
    concept = read_concept(source)
    name = files.safe_name(part.name)
    with tempfile.TemporaryDirectory(prefix="mixofshow-") as folder:
        given, loss = {name + CONCEPT: source}, 0.0
        if kind != "concept":
            made = Path(folder) / "made.statistics"
            write = pack_module("nodes.bridge.fusing.submitted").write_own_statistics
            rank = rank if kind == "compressed" else 0
            loss = write(model, clip, use, session.plan, files.work_folder("cache"), made, rank)
            given[name + STATISTICS] = made
        manifest = Manifest(
            client,
            part.name,
            kind,
            {target: digest_of_file(path) for target, path in given.items()},
            concept.content_hash,
            concept.base.family,
            concept.base.fingerprint or "",
            session.plan.content_hash,
            versions(),
            loss,
        )
        if key is not None:
            manifest = replace(manifest, signature=sign(manifest.to_sign(), key))
        sent = publish(exchange / files.safe_name(client) / name, manifest, given)
    size = sum(path.stat().st_size for path in sent.iterdir())
    lost = f", compressing loses {loss:.1%} of the worst matrix" if kind == "compressed" else ""
    session.tell.say("result", f"{sent}: {kind}, {size / 1e6:.2f} MB{lost}", path=str(sent), bytes=size, loss=loss)
    return sent


def take(session: Session, folder: Path, signers: Path | None = None) -> list[str]:
    """Accept what can be accepted of an exchange folder; a line for each that was refused. What is here stays.

    signers: a list of clients' keys; then what is not signed by its client's is refused.
    """
    refused, keys = [], None if signers is None else read_signers(signers)
    known = _held(session)
    for given in submissions(folder):
        place = f"client {given.client}, {given.folder.name}"
        try:
            if given.client == "":
                raise MixOfShowError("it lies in no client's folder")
            found, is_here = check_submission(given, list(known.values()), session.project.concepts)
            if keys is not None:
                check_signature(found.manifest.to_sign(), found.manifest.signature, given.client, keys)
            if not is_here:
                known[given.client, given.folder.name] = _accept(session, given, found.manifest)
            said = "is here already" if is_here else f"accepted; it answers to {', '.join(sorted(found.names))}"
            session.tell.say("note", f"{place}: {said}", client=given.client)
        except (MixOfShowError, OSError) as error:
            refused.append(f"{place}: refused, {error}")
            session.tell.say("refused", refused[-1], client=given.client)
        except Exception as error:  # a file made to break its reader must not keep the others out
            log.warning("%s", place, exc_info=True)
            refused.append(f"{place}: refused, it cannot be checked ({type(error).__name__}: {str(error)[:200]})")
            session.tell.say("refused", refused[-1], client=given.client)
    return refused


def _held(session: Session) -> dict[tuple[str, str], Held]:
    """What is here already, by client and folder; what was damaged here is said, and may be taken once more."""
    found = {}
    for given in submissions(session.accepted) if session.accepted.is_dir() else ():
        try:
            found[given.client, given.folder.name] = read_held(given)
        except MixOfShowError as error:
            session.tell.say("note", str(error), client=given.client)
    return found


def _accept(session: Session, given: Submission, manifest: Manifest) -> Held:
    """Check with the base and copy. The copy is checked again, for the folder may have changed meanwhile."""
    model, clip, _ = session.base
    work = pack_module("nodes.bridge.host.files").work_folder
    with tempfile.TemporaryDirectory(dir=work("taken")) as place:
        mine = Submission(Path(place), given.client)
        for name in (*manifest.files, MANIFEST):
            shutil.copyfile(given.folder / name, mine.folder / name)
        paths = {suffix: mine.file(manifest, suffix) for suffix in (CONCEPT, STATISTICS)}
        if mine.manifest() != manifest:
            raise MixOfShowError("it is being written: take it again later")
        statistics = paths[STATISTICS]
        use = ConceptUse(read_concept(paths[CONCEPT]), statistics=str(statistics or ""))
        check = pack_module("nodes.bridge.fusing.submitted").check_submitted
        check(model, clip, use, session.plan, work("cache"), manifest.loss)
        target = session.accepted / given.client / given.folder.name
        publish(target, manifest, {name: mine.folder / name for name in manifest.files})
        return read_held(Submission(target, given.client))


def drop(session: Session, names: list[str]) -> None:
    """Give back accepted concepts; MixOfShowError for one that is none."""
    if not names:
        raise MixOfShowError("Say which: `cli.py remove NAME`.")
    known = {held.manifest.concept: held.given for held in _held(session).values()}
    if strange := [name for name in names if name not in known]:
        raise MixOfShowError(
            f"{', '.join(strange)} was not accepted from anybody; accepted are {', '.join(known) or 'none'}. What the "
            "project file holds is removed there."
        )
    for name in names:
        (known[name].folder / MANIFEST).unlink()  # from here on it is not there, whatever happens next
        shutil.rmtree(known[name].folder)
        session.tell.say("note", f"{name} of client {known[name].client}: removed", client=known[name].client)
