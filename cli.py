"""Mix-of-Show on the command line: train, fuse and paint without a graph; look into files and convert them.

    python cli.py init --concept mara=FOLDER --concept finn=FOLDER
    python cli.py train
    python cli.py sample

The project file (mixofshow.yaml, docs/project.md) has the nodes' own inputs. ComfyUI is used, not started: it is found
where this pack is installed, or by --comfyui or COMFYUI_PATH. Exit codes: 0 done, 1 a fault inside, 2 refused, 3 a part
was refused and the rest done, 130 stopped (the same command goes on).
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
PACK = "mixofshow_pack"  # the repository as a package: its root must not stand on sys.path, ComfyUI has a `nodes` too
if PACK not in sys.modules:
    sys.modules[PACK] = ModuleType(PACK)
    sys.modules[PACK].__path__ = [str(ROOT)]

DONE, FAULT, REFUSED, PARTLY, STOPPED = 0, 1, 2, 3, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. The reason of anything but 0 goes to stderr, or into the JSON lines."""
    commands = importlib.import_module(f"{PACK}.headless.commands")
    errors = importlib.import_module(f"{PACK}.mixofshow_core.errors")
    options = commands.build_parser(argparse.ArgumentParser(prog="cli.py", description=__doc__.split("\n\n")[0]))
    options = options.parse_args(arguments)
    tell = importlib.import_module(f"{PACK}.headless.told").Teller(options.json)
    tell.listen()
    signal.signal(signal.SIGTERM, _stop)
    try:
        return PARTLY if options.run(options, tell) else DONE
    except errors.MixOfShowError as error:
        tell.say("refused", str(error))
        return REFUSED
    except KeyboardInterrupt:
        tell.say("failed", "Stopped. The same command goes on where this one was.")
        return STOPPED
    except Exception as error:
        tell.say("failed", f"{traceback.format_exc()}\nThis is a fault: {type(error).__name__}: {error}")
        return FAULT
    finally:
        tell.close_bar()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
