"""The raster: golden masks that JavaScript reproduces too, and the rules behind them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.regional.preview import draw_preview
from mos_pack.mixofshow_core.regional.raster import make_map, rasterize, rasterize_shape
from mos_pack.mixofshow_core.regional.schema import parse_regions

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "regions_raster.json"


def spec(*shapes, width=64, height=64, **more):
    entries = [{"id": f"r{n}", "shape": shape, **more} for n, shape in enumerate(shapes)]
    return parse_regions(json.dumps({"version": 1, "regions": entries}), width, height)


def rect(x, y, width, height):
    return {"type": "rect", "x": x, "y": y, "width": width, "height": height}


def draw(shape, width=64, height=64, feather=0.0):
    return rasterize(spec(shape, width=width, height=height, feather=feather))[0].numpy()


CASES = json.loads(GOLDEN.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_golden(case):
    shape = spec(case["shape"]).regions[0].shape
    found = rasterize_shape(shape, case["width"], case["height"], case["feather"])
    wanted = np.frombuffer(bytes.fromhex(case["hex"]), np.uint8).reshape(case["height"], case["width"])
    assert np.array_equal(found, wanted)


def test_rectangle_on_pixels_is_exact():
    mask = draw(rect(0.25, 0.5, 0.5, 0.25))
    assert mask[32:48, 16:48].min() == 255 and int((mask > 0).sum()) == 16 * 32


def test_quarter_pixels_count():
    mask = draw(rect(0, 0, 10.25 / 64, 10.5 / 64))
    assert (mask[0, 10], mask[10, 0], mask[10, 10]) == (64, 128, 32)


def test_areas():
    assert draw({"type": "ellipse", "x": 0.1, "y": 0.2, "width": 0.8, "height": 0.6}, 256, 256).mean() / 255 == (
        pytest.approx(np.pi * 0.4 * 0.3, abs=2e-4)
    )
    triangle = {"type": "polygon", "points": [[0.1, 0.1], [0.9, 0.2], [0.4, 0.8]]}
    assert draw(triangle, 256, 256).mean() / 255 == pytest.approx(0.5 * (0.8 * 0.7 - 0.3 * 0.1), abs=2e-4)


def test_even_odd_star_has_a_hole():
    star = {"type": "polygon", "points": [[0.5, 0], [0.8, 1], [0, 0.4], [1, 0.4], [0.2, 1]]}
    assert draw(star)[32, 32] == 0


@pytest.mark.parametrize(
    "shape",
    [
        rect(0.25, 0.25, 0.5, 0.5),
        {"type": "ellipse", "x": 0.2, "y": 0.1, "width": 0.6, "height": 0.8},
        {"type": "polygon", "points": [[0.1, 0.1], [0.9, 0.2], [0.4, 0.8]]},
    ],
)
def test_feather_is_a_linear_ramp_over_distance(shape):
    """Against brute force: the distance to the nearest of many points on the edge."""
    size, feather = 64, 0.2
    fine = draw(shape, 1024, 1024) >= 128
    edge = np.argwhere(fine[:-1, :-1] ^ fine[1:, :-1] | fine[:-1, :-1] ^ fine[:-1, 1:]) / 1024 * size
    mask = draw(shape, size, size, feather).astype(float) / 255
    for y in range(2, size, 7):
        for x in range(2, size, 7):
            distance = np.sqrt(((edge - (y + 0.5, x + 0.5)) ** 2).sum(1)).min()
            inside = fine[int((y + 0.5) * 16), int((x + 0.5) * 16)]
            wanted = np.clip(0.5 + (distance if inside else -distance) / (feather * size), 0, 1)
            assert mask[y, x] == pytest.approx(wanted, abs=0.02)


def test_feathered_halves_add_up_and_the_canvas_border_is_no_edge():
    left, right = draw(rect(0, 0, 0.5, 1), feather=0.2), draw(rect(0.5, 0, 0.5, 1), feather=0.2)
    total = left.astype(int) + right
    assert total.min() >= 254 and total.max() <= 256
    assert left[:, :24].min() == 255 and left[:, 40:].max() == 0
    whole = {"type": "polygon", "points": [[0, 0], [1, 0], [1, 1], [0, 1]]}
    assert draw(whole, feather=0.5).min() == 255


def test_feathered_brush_matches_the_same_rectangle():
    brush = {"type": "mask", "width": 64, "height": 64, "runs": [32 * 64, 32 * 64]}
    difference = draw(brush, feather=0.25).astype(int) - draw(rect(0, 0.5, 1, 0.5), feather=0.25)
    assert abs(difference).max() <= 1


def test_brush_grid_is_scaled_to_the_canvas():
    brush = {"type": "mask", "width": 2, "height": 2, "runs": [1, 1, 1, 1]}
    mask = draw(brush)
    assert mask[:, 32:].min() == 255 and mask[:, :32].max() == 0


def test_shapes_that_stick_out_are_cut():
    assert np.array_equal(draw(rect(-1, -1, 1.5, 3)), draw(rect(0, 0, 0.5, 1)))


def test_a_region_without_pixels_is_an_error():
    with pytest.raises(MixOfShowError, match="'r0' covers no pixel of the 64 x 64"):
        draw(rect(0.5, 0.5, 1e-6, 1e-6))


class TestInputMasks:
    shape = {"type": "input", "index": 0}

    def test_same_size_keeps_its_values(self):
        mask = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(rasterize(spec(self.shape), [mask])[0], (mask * 255 + 0.5).floor().to(torch.uint8))

    def test_other_size_is_resized(self):
        mask = torch.zeros(32, 32)
        mask[:, 16:] = 1
        found = rasterize(spec(self.shape), [mask])[0]
        assert found[:, 36:].min() == 255 and found[:, :28].max() == 0

    def test_feather(self):
        mask = torch.zeros(64, 64)
        mask[:, 32:] = 1
        found = rasterize(spec(self.shape, feather=0.25), [mask])[0].numpy()
        assert (
            np.array_equal(found, draw(rect(0.5, 0, 0.5, 1), feather=0.25))
            or abs(found.astype(int) - draw(rect(0.5, 0, 0.5, 1), feather=0.25)).max() <= 1
        )

    @pytest.mark.parametrize(
        "mask, message",
        [
            (torch.full((64, 64), float("nan")), "NaN"),
            (torch.ones(64, 32), "proportions differ"),
            (torch.ones(2, 64, 64), r"\[H, W\] is needed"),
            (torch.zeros(64, 64), "covers no pixel"),
        ],
    )
    def test_unusable(self, mask, message):
        with pytest.raises(MixOfShowError, match=message):
            rasterize(spec(self.shape), [mask])

    def test_missing(self):
        with pytest.raises(MixOfShowError, match="uses input mask 0, but `masks` brings 0"):
            rasterize(spec(self.shape))


def test_preview_shows_regions_over_the_backdrop():
    placed = make_map(spec(rect(0, 0, 0.5, 1), width=128, prompt="a dog"))
    picture = draw_preview(placed, torch.full((1, 10, 20, 3), 0.5))
    assert picture.shape == (1, 64, 128, 3)
    assert torch.allclose(picture[0, :, 70:], torch.tensor(0.5), atol=0.01)
    assert (picture[0, :5, :60] - 0.5).abs().max() > 0.1


def test_preview_of_a_region_that_claims_nothing_shows_its_name_alone():
    silent, speaking = (draw_preview(make_map(spec(rect(0, 0, 1, 1), prompt=text))) for text in ("", "a dog"))
    assert (silent[0, :10] - 0.12).abs().max() < 0.01 < (speaking[0, :10] - 0.12).abs().max(), "no colour"
    assert (silent - 0.12).abs().max() > 0.5, "its name"
