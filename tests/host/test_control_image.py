"""Control pictures: our own lines, controlnet_aux when it is there, and what is said when it or its weights are not."""

import sys

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.placing import preprocess
from mos_pack.nodes.control import MixOfShowControlImage


def make(image, kind="lines", resolution=0):
    return MixOfShowControlImage.execute(image, kind, resolution).result[0]


@pytest.fixture
def square():
    """A blue square of 12 pixels on green of the same brightness, twice."""
    image = torch.zeros(2, 24, 40, 3)
    image[..., 1] = 0.5
    image[:, 6:18, 10:22] = torch.tensor([0.0, 0.0, 0.5])
    return image


def test_lines_are_the_outline_and_nothing_else(square):
    found = make(square)
    assert found.shape == square.shape and set(found.unique().tolist()) == {0.0, 1.0}
    drawn = found[0, ..., 0].bool()
    near, inner = torch.zeros_like(drawn), torch.zeros_like(drawn)
    near[5:19, 9:23], inner[8:16, 12:20] = True, True
    assert not drawn[~near].any() and not drawn[inner].any()
    assert drawn[6:18].any(1).all() and drawn[:, 10:22].any(0).all()
    assert drawn.sum() < 60  # one pixel wide
    assert not make(torch.full((1, 8, 8, 3), 0.3)).any()


def test_alpha_is_ignored(square):
    assert torch.equal(make(torch.cat([square, torch.rand(2, 24, 40, 1)], 3)), make(square))


@pytest.mark.parametrize("kind", preprocess.DETECTORS)
def test_without_the_package_the_message_says_how_to_get_it(square, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, preprocess.PACKAGE, None)
    with pytest.raises(MixOfShowError, match=rf"'{kind}' needs the package.*pip install controlnet-aux.*'lines'"):
        make(square, kind)


@pytest.mark.parametrize("kind", [kind for kind, detector in preprocess.DETECTORS.items() if detector.files])
def test_without_weights_the_message_names_files_and_folder(square, kind):
    pytest.importorskip(preprocess.PACKAGE)
    with pytest.raises(MixOfShowError, match=rf"{preprocess.DETECTORS[kind].files[0]}.*models.controlnet_aux"):
        make(square, kind)


@pytest.mark.parametrize(("resolution", "size"), [(0, (24, 40)), (96, (96, 160))])
def test_canny_of_the_package_keeps_the_proportions(square, resolution, size):
    pytest.importorskip(preprocess.PACKAGE)
    found, scale = make(square, "canny", resolution), size[0] // 24
    assert found.shape == (2, *size, 3) and not found[:, :, 30 * scale :].any()
    assert found[:, 4 * scale : 20 * scale, 8 * scale : 24 * scale].max() > 0.3


def test_dwpose_without_its_packages_says_so(square):
    pytest.importorskip(preprocess.PACKAGE)
    with pytest.raises(MixOfShowError, match="did not start.*mmpose"):
        make(square, "dwpose")


@pytest.mark.parametrize(("image", "kind", "message"), [
    (torch.zeros(0, 8, 8, 3), "lines", "connect one"),
    (torch.zeros(1, 8, 8, 1), "lines", "connect one"),
    (torch.zeros(1, 8, 8, 3), "depth", "unknown kind 'depth'; known: lines, canny"),
])  # fmt: skip
def test_bad_input(image, kind, message):
    with pytest.raises(MixOfShowError, match=message):
        make(image, kind)
