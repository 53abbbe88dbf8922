"""Two LoRAs as a person finds them on the web, for workflows 14 to 16: `python -m world.workflows.demo_loras`.

Trained on the pictures of mara and finn as plain LoRAs without learned words, exported in kohya's dialect, each with
what LoRA managers leave beside a file: its trigger and a picture. About five minutes on two CPU cores.
"""

from __future__ import annotations

import json
import shutil
import sys

from PIL import Image

from tests.host.runtime import find_host
from tests.host.server import Server, start_server

from .stand_ins import training_graph
from .write import ROOT

FOLDER = ROOT / "assets" / "demo" / "loras"
# file -> what Dataset is told: the triggers are words that the small base knows, or both were the same to it
TRAINED = {
    "anna": ("moon", "person", "character", "demo:mara"),
    "ben": ("bell", "person", "character", "demo:finn"),
}
# file -> (suffix of the file beside it, what that program writes around the trigger words)
BESIDE = {
    "anna": (".metadata.json", lambda words: {"file_name": "anna", "civitai": {"trainedWords": words}}),
    "ben": (".civitai.info", lambda words: {"name": "ben", "trainedWords": words}),
}
SIDE = 64


def make(server: Server, file: str) -> None:
    """Train, export, and lay beside it what belongs there."""
    graph = training_graph(file, TRAINED[file], 0)
    export = {"concepts": ["train", 0], "format": "kohya", "size": "auto", "save_as": file}
    graph["export"] = {"class_type": "MixOfShowExport", "inputs": export}
    graph["path"] = {"class_type": "PreviewAny", "inputs": {"source": ["export", 0]}}
    (path,) = server.run(graph, timeout=3600)["path"]["text"]
    FOLDER.mkdir(exist_ok=True)
    shutil.copyfile(path, FOLDER / f"{file}.safetensors")
    word, noun, _, pictures = TRAINED[file]
    suffix, around = BESIDE[file]
    (FOLDER / f"{file}{suffix}").write_text(json.dumps(around([f"{word} {noun}"]), indent=1) + "\n")
    first = sorted((ROOT / "assets" / "demo" / "pictures" / pictures.removeprefix("demo:")).glob("*.png"))[0]
    with Image.open(first) as picture:
        picture.convert("RGB").resize((SIDE, SIDE)).save(FOLDER / f"{file}.png", optimize=True)


def main() -> None:
    with start_server(find_host(), extra_nodes=()) as server:
        for file in BESIDE:
            make(server, file)
            sys.stderr.write(f"wrote {FOLDER.relative_to(ROOT)}/{file}.safetensors\n")


if __name__ == "__main__":
    main()
