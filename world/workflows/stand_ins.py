"""Files that workflow 05 asks its user for: LoRAs of the small base, written as other trainers write theirs.

With them, and with *Demo Model* in place of the checkpoint loader, the workflow runs without a download.
"""

from __future__ import annotations

from safetensors.torch import load_file, save_file

# file -> what is typed to call it up, its class word, kind and pictures
TRAINED = {
    "anna": ("ohwx", "person", "character", "demo:mara"),
    "ben": ("sks", "person", "character", "demo:finn"),
    "ink": ("ink", "style", "style", "demo:tessa"),
}
TEXT = "text_encoders.clip_l.transformer."
UNET = "diffusion_model."


def training_graph(file: str, facts: tuple[str, str, str, str], steps: int) -> dict:
    """A LoRA without learned words, of such facts as TRAINED has. ``steps`` 0: as many as Train chooses."""
    name, word, kind, folder = facts
    data = {"name": name, "class_word": word, "kind": kind, "folder": folder, "captions": "auto"}
    wires = {"model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "dataset": ["data", 0]}
    training = {"preset": "LoRA", "quality": "standard", "steps": steps, "seed": 0, "save_as": f"trained_{file}"}
    return {
        "base": {"class_type": "MixOfShowDemoModel", "inputs": {}},
        "data": {"class_type": "MixOfShowDataset", "inputs": data},
        "train": {"class_type": "MixOfShowTrain", "inputs": wires | training},
    }


def kohya_name(name: str) -> str:
    """Our name of a tensor as kohya's trainer writes it: the module with underscores, then what it is."""
    module, dot, part = name.rpartition(".alpha") if name.endswith(".alpha") else name.partition(".lora_")
    for ours, theirs in ((TEXT, "lora_te_"), (UNET, "lora_unet_")):
        if module.startswith(ours):
            return theirs + module.removeprefix(ours).replace(".", "_") + dot + part
    raise KeyError(name)


def make_files(server, steps: int = 0) -> None:
    """Put all five into the loras folder of a running server (tests/host/server.py)."""
    loras = server.base / "models" / "loras"
    for file, facts in TRAINED.items():
        if not (loras / f"{file}.safetensors").is_file():
            server.run(training_graph(file, facts, steps), timeout=3600)
            tensors = load_file(loras / "mixofshow" / f"trained_{file}.safetensors")
            save_file({kohya_name(name): value for name, value in tensors.items()}, loras / f"{file}.safetensors")
    tensors = load_file(loras / "ink.safetensors")
    for file, strength in {"few_steps": 0.15, "slider": 0.3}.items():  # what acts everywhere, so not much of it
        weaker = {key: value * strength if ".lora_up." in key else value for key, value in tensors.items()}
        save_file(weaker, loras / f"{file}.safetensors")
