"""The sketch adapter that ships: it fits both small bases, guides the regions that want it and leaves the others."""

import json

import comfy.sample
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.regional.lines import draw_lines
from mos_pack.mixofshow_core.regional.raster import make_map
from mos_pack.mixofshow_core.regional.schema import parse_regions
from mos_pack.nodes.bridge.demo.adapter import load_sketch_adapter
from mos_pack.nodes.bridge.demo.small_base import LATENT_CHANNELS, load_small_base
from mos_pack.nodes.bridge.demo.small_base_xl import load_small_base_xl
from mos_pack.nodes.bridge.placing.place import place
from mos_pack.nodes.control import MixOfShowControlImage, MixOfShowDemoControl, MixOfShowRegionControl
from mos_tests.host.runtime import ROOT
from PIL import Image
from safetensors.torch import save_file

PICTURES = ROOT / "assets" / "demo" / "pictures"


@pytest.fixture(scope="module")
def drawing():
    """IMAGE [4, 64, 128, 3]: lines of mara on the left, of finn on the right."""
    halves = []
    for name in ("mara", "finn"):
        files = sorted((PICTURES / name).glob("*.png"))[:4]
        small = [np.asarray(Image.open(file).convert("RGB").resize((64, 64)), dtype=np.float32) / 255 for file in files]
        halves.append(MixOfShowControlImage.execute(torch.from_numpy(np.stack(small))).result[0])
    return torch.cat(halves, 2)


def paint(load, drawing, left, right, steps=8):
    """Pictures of two people; ``left`` and ``right``: the sketch's weight in each half."""
    model, clip, vae = load()
    regions = [
        {"id": f"r{n}", "control": weight, "shape": {"type": "rect", "x": n / 2, "y": 0, "width": 0.5, "height": 1}}
        for n, weight in enumerate((left, right))
    ]
    placed = make_map(parse_regions(json.dumps({"version": 1, "regions": regions}), 128, 64))
    prompt = "a person on the left and a person on the right, green background"
    model, *conds = place(model, clip, prompt, "", placed)
    (control,) = MixOfShowDemoControl.execute().result
    conds = MixOfShowRegionControl.execute(*conds, control, drawing, placed, outside=0.0).result
    latent = torch.zeros(len(drawing), LATENT_CHANNELS, 8, 16)
    noise = comfy.sample.prepare_noise(latent, 3)
    with torch.inference_mode():
        made = comfy.sample.sample(
            model, noise, steps, 3.0, "dpmpp_2m", "normal", *conds, latent, seed=3, disable_pbar=True
        )
        return vae.decode(made)[..., :3].clamp(0, 1).float()


def followed(painted, drawing):
    """Share of the drawn lines [left, right] that are painted within two pixels."""
    lines = F.max_pool2d(draw_lines(painted.movedim(-1, 1)), 5, 1, 2)
    drawn = drawing[..., :1].movedim(-1, 1)
    return [float((a * b).sum() / b.sum()) for a, b in zip(lines.chunk(2, 3), drawn.chunk(2, 3), strict=True)]


@pytest.mark.parametrize("load", [load_small_base, load_small_base_xl])
def test_the_sketch_holds_where_its_weight_is_one_and_frees_the_rest(load, drawing, caplog):
    free, half = (paint(load, drawing, left, 0) for left in (0, 1))
    assert followed(half, drawing)[0] > followed(free, drawing)[0] + 0.08
    change = (half - free).abs().mean((0, 1, 3))
    assert change[:64].mean() > 1.5 * change[64:].mean()
    assert "could not be applied" not in caplog.text


def test_features_reach_the_last_block_of_each_level(drawing):
    found = load_sketch_adapter().t2i_model(drawing[..., :1].movedim(-1, 1))
    assert [None if part is None else tuple(part.shape) for part in reversed(found["input"])] == [
        None,
        (4, 64, 8, 16),
        None,
        (4, 128, 4, 8),
    ]


def test_a_missing_and_a_strange_file_are_named(tmp_path):
    with pytest.raises(MixOfShowError, match="missing: .*gone.safetensors. Reinstall"):
        load_sketch_adapter(tmp_path / "gone.safetensors")
    save_file({"conv_in.bias": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(MixOfShowError, match="other.safetensors is unreadable"):
        load_sketch_adapter(tmp_path / "other.safetensors")
