"""Every format through the real HTTP graph: Load Concept, Export, Inspect; and what was written, loaded again."""

import re
from pathlib import Path

from mos_tests.host.builders import make_concept
from mos_tests.host.nodes.listening import listening


def test_every_format_by_graph(server, tiny_sd15):
    from mos_pack.mixofshow_core.formats.export import FORMATS, WHOLE_FORMATS
    from mos_pack.mixofshow_core.formats.native import write_concept

    folder = server.base / "models" / "loras" / "mixofshow"
    folder.mkdir(parents=True, exist_ok=True)
    write_concept(folder / "vera.safetensors", make_concept(tiny_sd15, "vera", 5))
    graph = {
        "base": {"class_type": "MosTestTinyBase", "inputs": {"family": "sd15", "seed": 0}},
        "load": {
            "class_type": "MixOfShowLoadConcept",
            "inputs": {
                "file": "mixofshow/vera.safetensors",
                "trigger": "",
                "name": "",
                "strength": 1.0,
                "role": "auto",
            },
        },
        "wire": {
            "class_type": "MixOfShowInspect",
            "inputs": {"file": "(the connected concepts)", "concepts": ["load", 0]},
        },
        "file": {"class_type": "MixOfShowInspect", "inputs": {"file": "mixofshow/vera.safetensors"}},
        "plot": {"class_type": "PreviewImage", "inputs": {"images": ["file", 1]}},
    }
    for kind in (*FORMATS, *WHOLE_FORMATS):
        inputs = {"concepts": ["load", 0], "format": kind, "size": "auto", "save_as": f"vera {kind}"}
        if kind in (*WHOLE_FORMATS, "custom-diffusion"):
            inputs |= {"model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2]}
        graph[kind] = {"class_type": "MixOfShowExport", "inputs": inputs}
    with listening(server) as heard:
        outputs = server.run(graph)
    assert any("layers and writing vera_checkpoint" in line or "merging" in line for line in heard.words("checkpoint"))
    assert any(re.match(r"weights merged: \d+ of \d+", line) for line in heard.words("diffusers-pipeline"))
    for node in ("wire", "file"):
        assert "<vera-1> <vera-2>" in outputs[node]["text"][0]
    assert outputs["plot"]["images"]
    for kind in (*FORMATS, *WHOLE_FORMATS):
        report = outputs[kind]["text"][0]
        path = report.partition("wrote ")[2].partition(" (")[0]
        assert Path(path).exists() and str(server.base) in path, report
    stock = next(folder.glob("vera*stock.safetensors"))
    kohya = next(folder.glob("vera*kohya.safetensors"))
    again = {
        "base": graph["base"],
        "stock": {
            "class_type": "LoraLoader",
            "inputs": {
                "model": ["base", 0],
                "clip": ["base", 1],
                "lora_name": f"mixofshow/{stock.name}",
                "strength_model": 1.0,
                "strength_clip": 1.0,
            },
        },
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["stock", 1], "text": "a cat"}},
        "size": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "sample": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["stock", 0],
                "positive": ["text", 0],
                "negative": ["text", 0],
                "latent_image": ["size", 0],
                "seed": 1,
                "steps": 1,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["base", 2]}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
        "file": {"class_type": "MixOfShowInspect", "inputs": {"file": f"mixofshow/{kohya.name}"}},
    }
    outputs = server.run(again)
    assert outputs["show"]["images"] and "rank 2" in outputs["file"]["text"][0]
