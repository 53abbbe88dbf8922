"""A project trained and fused in one go: what `cli.py train` and `cli.py fuse` do, by one process and one Ray.

A script, run in the project's folder. It saves every command's start of Python, of ComfyUI and of Ray.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workers", type=int, default=0, help="by Ray, so many tasks at a time; 0: without Ray")
    workers = parser.parse_args().workers
    sys.path[0] = str(ROOT)  # was this folder, whose names are not to be found before others
    cli = importlib.import_module("cli")
    told, work, project = (
        importlib.import_module(f"{cli.PACK}.headless.{name}") for name in ("told", "work", "project")
    )
    tell = told.Teller(as_json=True)
    tell.listen()
    session = work.Session(project.read_project(Path(project.NAME)), tell).start()
    parts = session.parts()
    if not workers:
        for part in parts:
            session.train(part)
    else:
        connect = importlib.import_module(f"{cli.PACK}.headless.cluster").connect
        with connect(session, "local", workers) as cluster:
            if cluster.train(parts):
                return cli.REFUSED
            cluster.fuse(parts)
    session.fuse(parts)
    return cli.DONE


if __name__ == "__main__":
    sys.exit(main())
