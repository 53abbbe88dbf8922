"""What lies in a folder is what is trained: captions of other programs, deep grey pictures, files of the system."""

import numpy as np
import pytest
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.training.captions import MODES
from mos_pack.mixofshow_core.training.dataset import dark_note, looks_inverted, read_image, read_mask
from mos_pack.mixofshow_core.training.folder import (
    FOREIGN,
    READS,
    folder_fingerprint,
    read_class_folder,
    read_folder,
)
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
    assert read_class_folder(tmp_path, "a person")[0][0].caption == "mara in a hat"


def test_txt_wins_and_hidden_files_of_the_system_are_no_pictures(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.caption").write_text("mara, second choice")
    (tmp_path / "a.txt").write_text("mara, first choice")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    pictures, notes = read_folder(tmp_path, "mara")
    assert [picture.caption for picture in pictures] == ["mara, first choice"]
    assert len(notes) == 1 and "a.caption" in notes[0]


def picture(path, size=(64, 64), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def mask(path, size=(64, 64), inverted=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    plane = np.zeros(size[::-1], np.uint8)
    plane[16:48, 16:48] = 255
    Image.fromarray(255 - plane if inverted else plane).save(path)


@pytest.mark.parametrize(
    "name",
    [
        "a.mask.png",
        "a.MASK.PNG",
        "a_mask.png",
        "a-mask.webp",
        "a.mask.bmp",
        "masks/a.png",
        "Mask/A.PNG",
    ],
)
def test_masks_of_every_usual_name_are_masks(tmp_path, name):
    picture(tmp_path / "a.png")
    mask(tmp_path / name)
    (found,), notes = read_folder(tmp_path, "mara")
    assert found.source == "a.png" and found.mask is not None and not notes


@pytest.mark.parametrize("name", ["a.jfif", "a.JPG", "a.jpe", "a.bmp", "a.WebP"])
def test_pictures_of_every_ending_we_open(tmp_path, name):
    picture(tmp_path / "x.png")
    Image.open(tmp_path / "x.png").save(
        tmp_path / name, format={"bmp": "BMP", "webp": "WEBP"}.get(name.lower().split(".")[1], "JPEG")
    )
    assert [found.source for found in read_folder(tmp_path, "mara")[0]] == [name, "x.png"]


@pytest.mark.parametrize("ending", FOREIGN)
def test_pictures_that_we_do_not_open_are_named(tmp_path, ending):
    picture(tmp_path / "a.png")
    (tmp_path / f"b{ending.upper()}").write_bytes(b"x")
    with pytest.raises(MixOfShowError, match=rf"b\{ending.upper()}.*PNG or JPEG"):
        read_folder(tmp_path, "mara")


def test_a_caption_in_another_case_is_the_pictures(tmp_path):
    picture(tmp_path / "IMG_1.PNG")
    (tmp_path / "img_1.txt").write_text("mara in a hat")
    (found,), notes = read_folder(tmp_path, "mara")
    assert found.caption == "mara in a hat" and not notes


def test_what_is_not_used_is_named(tmp_path):
    for name in ("a.png", "b.png", "face_mask.png"):
        picture(tmp_path / name, value=len(name) + ord(name[0]) % 50)
    for name, text in (("a.txt", "mara"), ("a.caption", "mara"), ("typo.txt", "mara"), ("b.json", "{}")):
        (tmp_path / name).write_text(text)
    mask(tmp_path / "gone.mask.png")
    picture(tmp_path / "more" / "c.png")
    pictures, notes = read_folder(tmp_path, "mara")
    assert [found.source for found in pictures] == ["a.png", "b.png", "face_mask.png"], "a mask of nothing is a picture"
    told = "\n".join(notes)
    for name in ("a.caption", "typo.txt", "b.json", "gone.mask.png", "more (1)"):
        assert name in told, name
    assert len(notes) == 5 and "without a caption file: b.png, face_mask.png" in told
    quiet = read_folder(tmp_path, "mara", "templates")[1]
    assert not any("caption" in note for note in quiet) and any("gone.mask.png" in note for note in quiet)
    assert "a.caption" in "\n".join(read_class_folder(tmp_path, "a person")[1])


def test_a_moving_picture_says_what_is_used(tmp_path):
    frames = [Image.new("RGB", (64, 64), (n * 40, 0, 0)) for n in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    assert "a.webp moves: only its first frame" in read_folder(tmp_path, "mara")[1][0]


def test_the_parent_of_kohyas_folders_says_where_the_pictures_are(tmp_path):
    for name in ("img/10_mara person", "img/20_tom person"):
        picture(tmp_path / name / "a.png")
    with pytest.raises(MixOfShowError, match=r"10_mara person \(1\).*kohya.*repeats.*chain one Dataset"):
        read_folder(tmp_path, "mara")
    with pytest.raises(MixOfShowError, match="its subfolders do: 10_mara person"):
        read_folder(tmp_path / "img", "mara")
    assert len(read_folder(tmp_path / "img" / "10_mara person", "mara")[0]) == 1
    with pytest.raises(MixOfShowError, match="holds no pictures. Put"):
        read_folder(empty(tmp_path), "mara")


def empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def test_all_problems_stand_in_one_message(tmp_path):
    picture(tmp_path / "good.png")
    picture(tmp_path / "small.png", size=(20, 64))
    picture(tmp_path / "masked.png")
    mask(tmp_path / "masked.mask.png", size=(32, 32))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "raw.CR2").write_bytes(b"x")
    (tmp_path / "good.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(MixOfShowError) as told:
        read_folder(tmp_path, "mara")
    told_of = ("5 problems", "raw.CR2", "small.png is 20x64", "masked.png: the mask is 32x32", "broken.png", "good.txt")
    for word in told_of:
        assert word in str(told.value), word
    with pytest.raises(MixOfShowError, match=r"(?s)small.png.*good.txt|good.txt.*small.png"):
        read_class_folder(tmp_path, "a person")
    with pytest.raises(MixOfShowError, match="And 3 more"):
        many = empty(tmp_path)
        for number in range(9):
            picture(many / f"{number}.png", size=(20, 20))
        read_folder(many, "mara")


def test_a_changed_mask_in_its_own_folder_is_noticed(tmp_path):
    picture(tmp_path / "a.png")
    mask(tmp_path / "masks" / "a.png")
    before = folder_fingerprint(tmp_path)
    mask(tmp_path / "masks" / "a.png", inverted=True)
    assert folder_fingerprint(tmp_path) != before


def test_masks_that_look_inverted_are_told_from_those_that_do_not():
    plane = np.zeros((64, 64), np.uint8)
    plane[8:56, 16:48] = 255
    assert looks_inverted(255 - plane) and not looks_inverted(plane)
    assert not looks_inverted(np.full((64, 64), 255, np.uint8)), "an object that fills the picture"
    assert not looks_inverted(np.zeros((64, 64), np.uint8))
    half = np.zeros((64, 64), np.uint8)
    half[:, 20:] = 255
    assert not looks_inverted(half), "cut off at three sides"


def test_every_way_of_captions_is_wired():
    assert set(READS) == set(MODES)


def test_a_link_to_nothing_is_named_and_does_not_freeze_the_folder(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(MixOfShowError, match=r"b\.png: a link to a file that is not there"):
        read_folder(tmp_path, "mara")
    before = folder_fingerprint(tmp_path)
    picture(tmp_path / "c.png")
    assert folder_fingerprint(tmp_path) != before


def test_masks_that_are_not_opened_are_named(tmp_path):
    picture(tmp_path / "a.png")
    mask(tmp_path / "masks" / "a.tif")
    with pytest.raises(MixOfShowError, match=r"masks/a\.tif: save such files as PNG"):
        read_folder(tmp_path, "mara")


@pytest.mark.parametrize("content", ["mara".encode("utf-16"), "mara".encode("utf-16-le"), "mara é".encode("latin-1")])
def test_a_caption_that_is_no_utf8_is_refused(tmp_path, content):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(MixOfShowError, match=r"a\.txt cannot be read .*Save it as UTF-8"):
        read_folder(tmp_path, "mara")


def test_pictures_without_words_of_their_own_are_named(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name, value=len(name))
    (tmp_path / "a.txt").write_text("mara in a hat")
    (tmp_path / "b.txt").write_text(" \n")
    _, notes = read_folder(tmp_path, "mara")
    assert any("b.txt is empty" in note for note in notes)
    assert any("without a caption file: c.png" in note for note in notes)
    assert not any("caption" in note for note in read_folder(tmp_path, "mara", "templates")[1])


def test_a_name_with_an_accent_is_the_same_however_it_is_written(tmp_path):
    picture(tmp_path / "rene\u0301.png")  # as archives of macOS write it
    (tmp_path / "ren\u00e9.txt").write_text("mara in a hat")
    mask(tmp_path / "ren\u00e9.mask.png")
    (found,), notes = read_folder(tmp_path, "mara")
    assert found.caption == "mara in a hat" and found.mask is not None and not notes


def test_what_is_transparent_is_no_object_in_a_mask_and_white_in_a_picture(tmp_path):
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:32, :, 3] = 0
    for name in ("a.png", "a.mask.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    (found,), notes = read_folder(tmp_path, "mara")
    assert not found.mask[:32].any() and (found.mask[32:] == 255).all()
    assert any("a.png is transparent in places" in note for note in notes)


def test_masks_without_an_object_are_named(tmp_path):
    picture(tmp_path / "a.png")
    Image.fromarray(np.ones((64, 64), np.uint8)).save(tmp_path / "a.mask.png")  # 0 and 1, as labelling programs write
    pictures, _ = read_folder(tmp_path, "mara")
    assert "1 masks show no object" in dark_note(pictures)[0]
    mask(tmp_path / "a.mask.png")
    assert not dark_note(read_folder(tmp_path, "mara")[0])


def test_class_pictures_say_what_is_not_used_of_them(tmp_path):
    stills = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    stills[0].save(tmp_path / "a.webp", save_all=True, append_images=stills[1:])
    assert any("only its first frame" in note for note in read_class_folder(tmp_path, "a person")[1])
