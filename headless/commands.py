"""The commands of cli.py: what they can be told, and which of our functions they call."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..mixofshow_core.errors import MixOfShowError
from ..mixofshow_core.formats.export import FORMATS, WHOLE_FORMATS
from . import files
from .centre import RANK, drop, send, take
from .exchange import KINDS
from .host import DEVICES, pack_module
from .project import NAME, read_project, write_new_project
from .told import Teller
from .work import Session

DEMO_BASE = "SD1.5 kind"
SIDES = {True: 64, False: 512}  # pixels of one person in a new project: the demo base's, another's


def build_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Every command's function is in `run`: it takes (options, teller) and returns what was refused, if anything."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
        command.add_argument("--json", action="store_true", help="one JSON object a line on stdout, for programs")
        command.add_argument("--comfyui", type=Path, help="ComfyUI's folder, where this pack is not installed in it")
        return command

    def add_for_project(name: str, run, about: str, of: str = "concepts") -> argparse.ArgumentParser:
        command = add(name, run, about)
        command.add_argument("names", nargs="*", metavar="NAME", help=f"{of} of the project; all where none is named")
        command.add_argument(
            "--project", type=Path, default=Path(NAME), help=f"the project file; {NAME} in this folder"
        )
        command.add_argument("--set", action="append", default=[], metavar="SECTION.INPUT=VALUE", help="over the file")
        command.add_argument("--device", choices=DEVICES, help="auto: what ComfyUI would choose, a GPU if it has one")
        return command

    init = add("init", run_init, "write a project file")
    init.add_argument("--project", type=Path, default=Path(NAME))
    init.add_argument("--concept", action="append", default=[], metavar="NAME=FOLDER", help="pictures to train on")
    init.add_argument("--model", default=DEMO_BASE, help=f"a file of models/checkpoints; else {DEMO_BASE!r}, our own")
    train = add_for_project(
        "train", run_train, "learn concepts; a run that was stopped goes on, a finished one is found again"
    )
    stats = add_for_project("stats", run_stats, "look at concepts and publish them for a centre")
    stats.add_argument("--to", type=Path, required=True, metavar="EXCHANGE", help="the folder that is shared")
    stats.add_argument("--client", required=True, help="who you are there")
    stats.add_argument("--kind", choices=KINDS, default="compressed", help="what goes with the concept")
    stats.add_argument("--sign", type=Path, metavar="KEY", help="an OpenSSH ed25519 private key to sign it with")
    stats.add_argument("--rank", type=int, default=RANK, help="directions kept of each compressed matrix")
    take = add_for_project("add", run_add, "accept what clients published, and fuse")
    take.add_argument("--from", dest="exchange", type=Path, required=True, metavar="EXCHANGE")
    take.add_argument(
        "--signers", type=Path, metavar="LIST", help="lines CLIENT ssh-ed25519 KEY; then all else is refused"
    )
    add_for_project("remove", run_remove, "give accepted concepts back, and fuse without them", "accepted concepts")
    fuse = add_for_project("fuse", run_fuse, "one set of weights for all concepts")
    for command in (train, fuse, stats):
        command.add_argument("--dry-run", action="store_true", help="say what it would cost, and do nothing")
    for command in (train, fuse):
        command.add_argument(
            "--ray", metavar="ADDRESS", help="share the work out by Ray: local, or a cluster's address"
        )
        command.add_argument("--workers", type=int, default=0, help="tasks at a time, with --ray local")
        command.add_argument("--gpus", type=float, default=0.0, help="share of a GPU that one task takes, with --ray")
    sample = add_for_project("sample", run_sample, "paint the project's picture")
    sample.add_argument("--out", type=Path, help="where the picture goes too: NAME.png, NAME-2.png ...")
    score = add_for_project("score", run_score, "how like the training pictures, and how well fitting the text")
    score.add_argument("--pictures", type=Path, nargs="+", required=True, metavar="PNG")

    inspect = add("inspect", run_inspect, "show what a file holds")
    inspect.add_argument("--plot", type=Path, help="save the norm of every layer's change as a picture")
    convert = add("convert", run_convert, "write a file in another dialect")
    convert.add_argument("--to", required=True, choices=[*FORMATS, *WHOLE_FORMATS], help="the dialect to write")
    convert.add_argument("--out", required=True, type=Path, help="path without suffix")
    convert.add_argument("--size", default="auto", help="auto, exact, or the largest rank")
    convert.add_argument("--strength", type=float, default=1.0, help="folded into the weights")
    for command in (inspect, convert):
        command.add_argument("file", type=Path)
        command.add_argument("--base", type=Path, help="checkpoint or diffusers folder, for files with whole weights")
        command.add_argument("--name", default="", help="another plain name; one of several: old=new,old2=new2")
    return parser


def open_session(options: argparse.Namespace, tell: Teller) -> Session:
    changes = [*options.set, *([f"device={options.device}"] if options.device else [])]
    return Session(read_project(options.project, changes), tell, options.comfyui).start()


def run_init(options: argparse.Namespace, tell: Teller) -> None:
    given = [text.partition("=")[::2] for text in options.concept]
    if wrong := [name for name, folder in given if not name or not folder]:
        raise MixOfShowError(f"--concept {wrong[0]}: write NAME=FOLDER, for instance mara=pictures/mara.")
    concepts = {name: _place_of(folder) for name, folder in given}
    if not concepts:
        concepts = {"mara": "demo:mara", "finn": "demo:finn"}
    write_new_project(options.project, concepts, options.model, SIDES[options.model == DEMO_BASE])
    tell.say("result", f"{options.project}: look it over, then `cli.py train` and `cli.py sample`.")


def _place_of(folder: str) -> str:
    """As the Dataset node takes it: demo:mara, or a full path, whatever folder the command is run in later."""
    return folder if folder.startswith("demo:") else str(Path(folder).expanduser().resolve())


@contextmanager
def open_cluster(options: argparse.Namespace, session: Session) -> Iterator:
    try:
        cluster = pack_module("headless.cluster")
    except MixOfShowError as error:
        raise MixOfShowError(f'--ray needs Ray: pip install "ray>=2.60" ({str(error)[:200]})') from error
    with cluster.connect(session, options.ray, options.workers, options.gpus) as connected:
        yield connected


def run_train(options: argparse.Namespace, tell: Teller) -> list[str] | None:
    session = open_session(options, tell)
    if options.dry_run:
        for part in session.parts(options.names):
            if part.dataset is not None:
                session.foresee_training(part)
        return None
    if options.ray:
        with open_cluster(options, session) as cluster:
            return cluster.train(session.parts(options.names))
    for part in session.parts(options.names):
        if part.dataset is not None:
            session.train(part)


def run_stats(options: argparse.Namespace, tell: Teller) -> None:
    session = open_session(options, tell)
    if options.dry_run:
        return session.foresee_fusion(session.parts(options.names))
    for part in session.parts(options.names):
        send(session, part, options.to, options.client, options.kind, options.rank, options.sign)


def run_add(options: argparse.Namespace, tell: Teller) -> list[str]:
    session = open_session(options, tell)
    refused = take(session, options.exchange, options.signers)
    if session.parts(options.names):
        session.fuse(session.parts(options.names))
    return refused


def run_remove(options: argparse.Namespace, tell: Teller) -> None:
    session = open_session(options, tell)
    drop(session, options.names)
    if session.parts():
        session.fuse(session.parts())


def run_fuse(options: argparse.Namespace, tell: Teller) -> None:
    session = open_session(options, tell)
    parts = session.parts(options.names)
    if options.dry_run:
        return session.foresee_fusion(parts)
    if options.ray:
        with open_cluster(options, session) as cluster:
            cluster.fuse(parts)
    session.fuse(parts)


def run_sample(options: argparse.Namespace, tell: Teller) -> None:
    session = open_session(options, tell)
    saved = session.save(session.sample(session.parts(options.names)))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        copies = [options.out, *(options.out.with_stem(f"{options.out.stem}-{n}") for n in range(2, len(saved) + 1))]
        for source, target in zip(saved, copies, strict=True):
            shutil.copyfile(source, target)
        saved = copies
    tell.say("result", "\n".join(map(str, saved)), pictures=[str(path) for path in saved])


def run_score(options: argparse.Namespace, tell: Teller) -> None:
    session = open_session(options, tell)
    session.score(session.parts(options.names), options.pictures)


def run_inspect(options: argparse.Namespace, tell: Teller) -> None:
    asked = files.Asked(options.file, options.base, options.name, options.comfyui)
    tell.say("result", files.inspect(asked, tell.progress, options.plot))


def run_convert(options: argparse.Namespace, tell: Teller) -> None:
    asked = files.Asked(options.file, options.base, options.name, options.comfyui)
    done = files.convert(asked, tell.progress, options.to, options.out, options.size, options.strength)
    tell.say("result", done)
