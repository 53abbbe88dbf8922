"""The real server runs graphs with tiny models and reports errors and pictures."""

import io

import pytest
from PIL import Image


def sampling_graph(family: str = "sd15", size: int = 64) -> dict:
    text = {"class_type": "CLIPTextEncode"}
    return {
        "1": {"class_type": "MosTestTinyBase", "inputs": {"family": family, "seed": 0}},
        "2": text | {"inputs": {"clip": ["1", 1], "text": "a cat"}},
        "3": text | {"inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "latent_image": ["4", 0],
                "seed": 1,
                "steps": 1,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
    }


def test_a_graph_with_a_tiny_base_gives_a_picture(server):
    outputs = server.run(sampling_graph())
    picture = Image.open(io.BytesIO(server.image(outputs["7"]["images"][0])))
    assert picture.size == (64, 64)


def test_errors_reach_the_caller(server):
    from mos_tests.host.server import ServerError

    graph = sampling_graph()
    graph["5"]["inputs"]["sampler_name"] = "nonsense"
    with pytest.raises(ServerError, match="nonsense"):
        server.run(graph)


def test_our_pack_loads_without_an_error(server):
    """The host only logs a pack that fails to import; it prints one line of import time per pack."""
    lines = [line.strip() for line in server.log.read_text().splitlines() if line.strip().endswith("/mixofshow")]
    assert [line for line in lines if "seconds" in line], server.tail()
    assert not [line for line in lines if "FAILED" in line], server.tail()
    assert "Error while calling comfy_entrypoint" not in server.log.read_text(), server.tail()
