"""The training nodes in the real executor: whole graphs, errors before long work, cancel, files."""

import io
import time

import numpy as np
import pytest
from mos_tests.host.server import ServerError
from PIL import Image
from safetensors import safe_open


@pytest.fixture(scope="module")
def folder(server):
    """A folder inside the server's input folder: three pictures, one with a caption that lacks the name."""
    place = server.base / "input" / "zorbo"
    place.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (80, 64 + 8 * number, 3), np.uint8)).save(place / f"{number}.png")
    (place / "0.txt").write_text("smiling, red background")
    return place


def graph(family="sd15", steps=2, seed=0, dataset=None, **train):
    return {
        "base": {"class_type": "MosTestTinyBase", "inputs": {"family": family, "seed": 0, "native_size": 64}},
        "data": {
            "class_type": "MixOfShowDataset",
            "inputs": {
                "name": "zorbo",
                "class_word": "person",
                "kind": "character",
                "folder": "zorbo",
                "captions": "auto",
            }
            | (dataset or {}),
        },
        "settings": {
            "class_type": "MixOfShowTrainSettings",
            "inputs": {
                "rank": 2,
                "lr_embedding": 0.0,
                "lr_text": 0.0,
                "lr_unet": 0.0,
                "batch": 2,
                "accumulation": 1,
                "embedding_rows": "from preset",
                "schedule": "from preset",
                "warmup_steps": 0,
                "noise_offset": -1.0,
                "min_snr": -1.0,
                "clip_gradient": -1.0,
                "norm_stop": -2.0,
                "loss_mask": "from preset",
                "crop_chance": -1.0,
                "scale_min": 0.0,
                "flip": "from preset",
                "shuffle_captions": "from preset",
                "dropout": -1.0,
                "checkpointing": "from preset",
                "precision": "from preset",
                "snapshot_every": 100,
                "preview_every": 1,
            },
        },
        "train": {
            "class_type": "MixOfShowTrain",
            "inputs": {
                "model": ["base", 0],
                "clip": ["base", 1],
                "vae": ["base", 2],
                "dataset": ["data", 0],
                "settings": ["settings", 0],
                "preset": "ED-LoRA",
                "quality": "draft",
                "steps": steps,
                "seed": seed,
                "save_as": "",
            }
            | train,
        },
        "sheet": {"class_type": "PreviewImage", "inputs": {"images": ["data", 1]}},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["data", 2]}},
        "samples": {"class_type": "PreviewImage", "inputs": {"images": ["train", 1]}},
        "loss": {"class_type": "LossGraphNode", "inputs": {"loss": ["train", 2], "filename_prefix": "loss"}},
        "path": {"class_type": "PreviewAny", "inputs": {"source": ["train", 3]}},
    }


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_graph_trains_and_saves(server, folder, family):
    outputs = server.run(graph(family, save_as=f"of {family}"))
    path = server.base / "models" / "loras" / "mixofshow" / f"of {family}.safetensors"
    assert outputs["path"]["text"] == [str(path)]
    with safe_open(str(path), framework="pt") as file:
        keys = set(file.keys())
        assert file.metadata()["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    layers = {"sd15": 16, "sdxl": 70}[family]
    assert sum(key.endswith(".attn2.to_k.lora_up.weight") for key in keys) == layers
    encoders = ["clip_l"] if family == "sd15" else ["clip_l", "clip_g"]
    for encoder in encoders:
        assert f"mixofshow.embedding.0.{encoder}" in keys
        assert f"text_encoders.{encoder}.transformer.text_model.encoder.layers.0.self_attn.q_proj.alpha" in keys
    assert len(outputs["samples"]["images"]) == 3 and len(outputs["loss"]["images"]) == 1
    picture = Image.open(io.BytesIO(server.image(outputs["samples"]["images"][0])))
    assert picture.size == (64, 64)
    report = outputs["report"]["text"][0]
    assert "0.png: zorbo, smiling, red background" in report and "name put in front" in report


def test_an_identical_run_is_loaded_when_the_host_runs_the_node_again(server, folder):
    first = server.run(graph(save_as="twice"))["path"]["text"]
    again = graph(save_as="twice")
    again["settings"]["inputs"]["snapshot_every"] = 50  # runs the node again, and changes nothing in the result
    assert server.run(again)["path"]["text"] == first
    assert "identical run is finished" in server.log.read_text()


@pytest.mark.parametrize(
    ("dataset", "match"),
    [
        ({"folder": "nowhere"}, "nowhere.*does not exist"),
        ({"folder": "../output"}, "must lie inside the input folder"),
        ({"folder": "demo:nobody"}, "demo:nobody"),
        ({"folder": ""}, "folder is empty"),
        ({"class_word": "Zorbo"}, "equals its class word"),
        ({"name": "two words"}, "letters, digits"),
        ({"captions": "files"}, "1.png has no caption file"),
    ],
)
def test_bad_data_is_refused_before_any_model_is_loaded(server, folder, dataset, match):
    with pytest.raises(ServerError, match=match):
        server.run({key: node for key, node in graph(dataset=dataset).items() if key in ("data", "sheet")})


def test_a_name_of_the_vocabulary_is_a_warning(server, folder):
    nodes = graph(dataset={"name": "potter"})
    outputs = server.run({key: nodes[key] for key in ("data", "report")})
    assert "'potter' is a word that the model knows already" in outputs["report"]["text"][0]


def test_a_changed_folder_is_read_again(server, folder):
    nodes = {key: node for key, node in graph().items() if key in ("data", "report")}
    server.run(nodes)
    (folder / "1.txt").write_text("at sea")
    try:
        assert "1.png: zorbo, at sea" in server.run(nodes)["report"]["text"][0]
    finally:
        (folder / "1.txt").unlink()


def test_cancel_leaves_a_usable_file_and_the_log_says_where(server, folder):
    prompt = server.queue_prompt(graph(steps=5000, save_as="endless"))
    start = time.monotonic()
    while "Training step 1 of 5000" not in server.log.read_text():
        assert time.monotonic() - start < 120, server.tail()
        time.sleep(0.2)
    server.interrupt()
    asked = time.monotonic()
    with pytest.raises(ServerError, match="interrupted"):
        server.wait(prompt, timeout=60)
    assert time.monotonic() - asked < 15
    (saved,) = (server.base / "output" / "mixofshow" / "steps").glob("endless-step*.safetensors")
    assert str(saved) in server.log.read_text()


def test_custom_diffusion_with_class_pictures_buckets_and_a_validation_sheet(server, folder):
    nodes = graph(preset="Custom Diffusion", save_as="modifier")
    nodes["settings"]["inputs"] |= {
        "prior_pictures": 2,
        "aspect": "buckets",
        "validate_every": 1,
        "validation_prompts": "zorbo",
    }
    path = server.run({key: nodes[key] for key in ("base", "data", "settings", "train", "path")})["path"]["text"][0]
    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
    assert sum(key.endswith(".diff") for key in keys) == 32
    place = server.base / "output" / "mixofshow" / "steps"
    assert (place / "modifier-step1.safetensors").is_file() and (place / "modifier-step1.png").is_file()
    assert "auto: memory about" in server.log.read_text()
