"""A client gives (`stats`), a centre takes (`add`) and gives back (`remove`): what the exchange folder is for."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from ..mixofshow_core.concept import ConceptUse
from ..mixofshow_core.digests import digest_of_file
from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.formats.native import read_concept
from .exchange import MANIFEST, Manifest, Submission, check_submission, publish, submissions
from .host import pack_module, versions
from .project import ConceptPart
from .signing import check_signature, read_signers, sign
from .work import Session

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
        given, loss = {f"{name}.safetensors": source}, 0.0
        if kind != "concept":
            made = Path(folder) / "made.statistics"
            write = pack_module("nodes.bridge.fusing.submitted").write_own_statistics
            rank = rank if kind == "compressed" else 0
            loss = write(model, clip, use, session.plan, files.work_folder("cache"), made, rank)
            given[f"{name}.statistics"] = made
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
    for given in submissions(folder):
        place = f"client {given.client}, {given.folder.name}"
        try:
            known = submissions(session.accepted) if session.accepted.is_dir() else []
            if given.client == "" or given.folder.name in session.project.concepts:
                raise MixOfShowError(f"this project has a concept {given.folder.name} of its own")
            manifest, _, _, is_here = check_submission(given, known)
            if keys is not None:
                check_signature(manifest.to_sign(), manifest.signature, given.client, keys)
            if not is_here:
                _accept(session, given, manifest)
            session.tell.say("note", f"{place}: {'is here already' if is_here else 'accepted'}", client=given.client)
        except MixOfShowError as error:
            refused.append(f"{place}: refused, {error}")
            session.tell.say("refused", refused[-1], client=given.client)
    return refused


def _accept(session: Session, given: Submission, manifest: Manifest) -> None:
    """Check with the base and copy. The copy is checked again, for the folder may have changed meanwhile."""
    model, clip, _ = session.base
    work = pack_module("nodes.bridge.host.files").work_folder
    with tempfile.TemporaryDirectory(dir=work("taken")) as place:
        mine = Submission(Path(place), given.client)
        for name in (*manifest.files, MANIFEST):
            shutil.copyfile(given.folder / name, mine.folder / name)
        paths = {suffix: mine.file(manifest, suffix) for suffix in (".safetensors", ".statistics")}
        if mine.manifest() != manifest:
            raise MixOfShowError("it is being written: take it again later")
        statistics = paths[".statistics"]
        use = ConceptUse(read_concept(paths[".safetensors"]), statistics=str(statistics or ""))
        check = pack_module("nodes.bridge.fusing.submitted").check_submitted
        check(model, clip, use, session.plan, work("cache"), manifest.loss)
        target = session.accepted / given.folder.parent.name / given.folder.name
        publish(target, manifest, {name: mine.folder / name for name in manifest.files})


def drop(session: Session, names: list[str]) -> None:
    """Give back accepted concepts; MixOfShowError for one that is none."""
    if not names:
        raise MixOfShowError("Say which: `cli.py remove NAME`.")
    found = submissions(session.accepted) if session.accepted.is_dir() else []
    known = {given.manifest().concept: given for given in found}
    if strange := [name for name in names if name not in known]:
        raise MixOfShowError(
            f"{', '.join(strange)} was not accepted from anybody; accepted are {', '.join(known) or 'none'}. What the "
            "project file holds is removed there."
        )
    for name in names:
        (known[name].folder / MANIFEST).unlink()  # from here on it is not there, whatever happens next
        shutil.rmtree(known[name].folder)
        session.tell.say("note", f"{name} of client {known[name].client}: removed", client=known[name].client)
