"""What lies in a folder is what is trained: captions of other programs, deep grey pictures, files of the system."""

import numpy as np
import pytest
from mos_pack.mixofshow_core.training.dataset import read_class_folder, read_folder, read_image, read_mask
from PIL import Image


def save_grey16(path):
    """A ramp of 16-bit grey: dark on the left, white on the right."""
    Image.fromarray(np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))).save(path)


def test_sixteen_bit_grey_keeps_its_greys(tmp_path):
    save_grey16(tmp_path / "a.png")
    for pixels in (read_image(tmp_path / "a.png")[0, :, 0], read_mask(tmp_path / "a.png")[0]):
        assert pixels[0] == 0 and pixels[-1] == 255 and 120 < pixels[32] < 136


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".caption", ".CAPTION"])
def test_captions_of_other_programs_are_read(tmp_path, suffix):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / f"a{suffix}").write_text("mara in a hat\nsecond line\n")
    (picture,), notes = read_folder(tmp_path, "mara")
    assert picture.caption == "mara in a hat" and any("only the first line" in note for note in notes)
    assert read_class_folder(tmp_path, "a person")[0].caption == "mara in a hat"


def test_txt_wins_and_hidden_files_of_the_system_are_no_pictures(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.caption").write_text("mara, second choice")
    (tmp_path / "a.txt").write_text("mara, first choice")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    pictures, notes = read_folder(tmp_path, "mara")
    assert [picture.caption for picture in pictures] == ["mara, first choice"] and not notes
