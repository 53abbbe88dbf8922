"""Pictures, captions and placements: what is read, what is refused and why."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.training import augment, captions, curve, dataset, folder
from mos_pack.mixofshow_core.training.auto import ModelFacts, resolve
from mos_pack.mixofshow_core.training.settings import PRESETS, TrainSettings, learning_rate_factor
from mos_pack.mixofshow_core.training.sheet import contact_sheet
from PIL import Image

SMALL = ModelFacts("sd-192-v", 64, 0.4)
FULL = ModelFacts("sd15", 512, 0.38, "cuda")


def save(place, name, size=(80, 96), mode="RGB", colour=(200, 30, 30), **options):
    image = Image.new(mode, size, colour)
    image.save(place / name, **options)


def test_captions_get_the_name_in_front_and_keep_it_where_it_is(tmp_path):
    for name in ("a.png", "b.jpg", "c.webp"):
        save(tmp_path, name, colour=(len(name), ord(name[0]), 0))
    (tmp_path / "a.txt").write_text("smiling,  blue background\nsecond line")
    (tmp_path / "b.txt").write_text("a photo of Mara at sea")
    pictures, notes = folder.read_folder(tmp_path, "mara")
    assert [p.caption for p in pictures] == ["mara, smiling, blue background", "a photo of Mara at sea", "mara"]
    assert len(notes) == 2 and "c.webp" in notes[0]
    assert "a.png" in notes[1]
    ignored, _ = folder.read_folder(tmp_path, "mara", "templates")
    assert {p.caption for p in ignored} == {"mara"}
    with pytest.raises(MixOfShowError, match="c.webp.*c.txt"):
        folder.read_folder(tmp_path, "mara", "files")


def test_a_name_inside_another_word_is_not_the_name():
    assert captions.with_name("maradona at sea", "mara") == "mara, maradona at sea"
    assert captions.with_name("<mara-1> at sea", "mara") == "mara, <mara-1> at sea"
    assert captions.with_name("at sea with MARA!", "mara") == "at sea with MARA!"


def test_pictures_are_turned_as_exif_says_and_laid_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    save(tmp_path, "turned.jpg", size=(100, 70), exif=exif)
    save(tmp_path, "clear.png", mode="RGBA", colour=(0, 0, 0, 0))
    clear, turned = folder.read_folder(tmp_path, "mara")[0]
    assert turned.pixels.shape == (100, 70, 3)
    assert (clear.pixels == 255).all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda f: None, "holds no pictures"),
        (lambda f: (f / "a.png").write_bytes(b"not a picture"), "a.png cannot be read"),
        (lambda f: save(f, "a.png", size=(63, 200)), "a.png is 63x200.*64"),
        (lambda f: (f / "a.heic").write_bytes(b"x"), "a.heic.*PNG"),
        (lambda f: (save(f, "a.png"), save(f, "a.mask.png", size=(10, 10), mode="L", colour=0)), "mask is 10x10"),
        (lambda f: (save(f, "a.png"), (f / "a.txt").write_bytes(b"\xff\xfe\xff")), "a.txt cannot be read"),
    ],
)
def test_unusable_folders_are_refused_by_name(tmp_path, make, match):
    make(tmp_path)
    with pytest.raises(MixOfShowError, match=match):
        folder.read_folder(tmp_path, "mara")


def test_a_truncated_picture_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (128, 128, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(MixOfShowError, match="a.png cannot be read"):
        folder.read_folder(tmp_path, "mara")


def test_the_same_picture_twice_is_reported(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path, name)
    save(tmp_path, "c.png", colour=(1, 2, 3))
    pictures, notes = folder.read_folder(tmp_path, "mara")
    assert len(pictures) == 3 and notes == ("b.png is the same picture as a.png: it counts twice",)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MixOfShowError, match="nowhere.*does not exist"):
        folder.read_folder(tmp_path / "nowhere", "mara")


@pytest.mark.parametrize(
    ("name", "noun", "match"),
    [("dog", "Dog", "equals its class word"), ("my dog", "dog", "letters, digits"), ("rex", " ", "class word")],
)
def test_names_that_cannot_work_are_refused(name, noun, match):
    picture = dataset.Picture("x", np.zeros((64, 64, 3), np.uint8), name)
    with pytest.raises(MixOfShowError, match=match):
        dataset.ConceptPictures(name, noun, "object", (picture,))


def test_two_datasets_of_one_name_cannot_be_chained():
    picture = dataset.Picture("x", np.zeros((64, 64, 3), np.uint8), "rex")
    one = dataset.TrainingSet((dataset.ConceptPictures("rex", "dog", "object", (picture,)),))
    with pytest.raises(MixOfShowError, match="both named 'rex'"):
        one.joined(one)


def test_masks_are_one_for_all_or_one_each():
    pictures = dataset.from_batches([np.random.default_rng(0).random((3, 70, 64, 4), np.float32)], "rex")
    assert all(p.mask is not None for p in dataset.with_masks(pictures, np.ones((1, 70, 64), np.float32)))
    with pytest.raises(MixOfShowError, match="2 masks for 3 pictures"):
        dataset.with_masks(pictures, np.ones((2, 70, 64), np.float32))


def test_the_hash_sees_pixels_captions_and_masks():
    def hashed(value=0, caption="rex", mask=None):
        picture = dataset.Picture("x", np.full((64, 64, 3), value, np.uint8), caption, mask)
        return dataset.TrainingSet((dataset.ConceptPictures("rex", "dog", "object", (picture,)),)).content_hash

    assert hashed() == hashed()
    assert len({hashed(), hashed(1), hashed(caption="rex, red"), hashed(mask=np.zeros((64, 64), np.uint8))}) == 4


def test_placements_keep_the_picture_inside_its_mask():
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[...] = (10, 200, 30)
    picture = dataset.Picture("x", pixels, "rex")
    settings = TrainSettings(scale_min=0.7, variants=12)
    placed = list(augment.placements(picture, 64, settings, 3))
    assert len(placed) == 12
    assert placed[0].valid.sum() == pytest.approx(64 * 43, abs=64)
    assert len({one.valid.tobytes() for one in placed}) > 6
    for one in placed:
        assert one.canvas.shape == (64, 64, 3) and one.valid.max() == 1.0
        # The border takes the picture's own edge colour: a flat picture gives a flat canvas.
        assert np.abs(one.canvas - np.array([10, 200, 30]) / 255.0).max() < 0.02
    again = [one.canvas.tobytes() for one in augment.placements(picture, 64, settings, 3)]
    assert again == [one.canvas.tobytes() for one in placed]


def test_varied_captions_keep_the_name_first_and_lose_nothing():
    rng = random.Random(0)
    seen = {captions.vary("mara, a, b, c", "mara", "character", rng, True, True) for _ in range(60)}
    assert len(seen) > 8
    for caption in seen:
        assert "mara" in caption and {"a", "b", "c"} <= set(caption.replace(",", "").split())
    assert captions.vary("the hat of mara, x", "mara", "character", rng, True, False) == "the hat of mara, x"


def test_auto_fills_everything_and_says_why():
    chosen, notes = resolve(PRESETS["ED-LoRA"], SMALL, 8)
    assert (chosen.steps, chosen.batch, chosen.precision, chosen.checkpointing) == (300, 8, "fp32", "off")
    assert all(any(name in note for note in notes) for name in ("steps", "lr_unet", "batch"))
    full, _ = resolve(PRESETS["ED-LoRA"], FULL, 10)
    assert (full.steps, full.lr_embedding, full.lr_text, full.lr_unet, full.batch) == (800, 1e-3, 1e-5, 1e-4, 2)
    assert full.norm_stop == pytest.approx(0.551, abs=1e-3) and full.checkpointing == "on"
    alone, beside = (resolve(PRESETS[name], SMALL, 8)[0].lr_embedding for name in ("P+", "ED-LoRA"))
    assert (alone, beside) == (2e-2, 5e-3), "words without weights beside them have further to go"
    assert resolve(PRESETS["ED-LoRA"], FULL, 10, "draft")[0].steps == 320
    assert resolve(PRESETS["ED-LoRA"], FULL, 10, "high", 7)[0].steps == 7
    for preset in PRESETS.values():
        resolve(preset, SMALL, 8)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"lr_unet": float("nan")}, "lr_unet is nan"),
        ({"rank": 0}, "rank is 0"),
        ({"words": 0}, "embedding_rows"),
        ({"schedule": "zigzag"}, "schedule is 'zigzag'"),
        ({"words": 0, "embedding_rows": "none", "text_lora": False, "unet_lora": False}, "Nothing would be trained"),
    ],
)
def test_contradictory_settings_are_refused(changes, match):
    with pytest.raises(MixOfShowError, match=match):
        TrainSettings(**changes)


def test_slots_must_divide_the_batch():
    with pytest.raises(MixOfShowError, match="slots is 3"):
        resolve(TrainSettings(slots=3), SMALL, 8)


def test_schedules_end_at_zero_and_warm_up():
    linear = TrainSettings(steps=10, warmup_steps=2)
    rates = [learning_rate_factor(linear, step) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[-1] == pytest.approx(1 / 8)
    assert learning_rate_factor(TrainSettings(steps=10, schedule="cosine"), 5) == pytest.approx(0.5)
    assert learning_rate_factor(TrainSettings(steps=10, schedule="constant"), 9) == 1.0


def test_the_sheet_shows_every_picture():
    pictures = tuple(dataset.Picture(str(n), np.full((64, 80, 3), n, np.uint8), f"rex {n}") for n in range(5))
    data = dataset.TrainingSet((dataset.ConceptPictures("rex", "dog", "object", pictures),))
    sheet = contact_sheet(data)
    # Five pictures fill two rows; the third shows placed samples, whose border beside the picture is dimmed.
    assert sheet.shape == (3 * 236, 4 * 192, 3) and sheet.min() >= 0.0 and sheet.max() <= 1.0
    bright = tuple(replace(picture, pixels=np.full((64, 160, 3), 250, np.uint8)) for picture in pictures)
    data = dataset.TrainingSet((dataset.ConceptPictures("rex", "dog", "object", bright),))
    placed = contact_sheet(data)[2 * 236 : 2 * 236 + 192]
    assert (placed == 250 / 255).any() and ((placed > 0.3) & (placed < 0.5)).any()


def test_captions_of_booru_kind_are_seen_and_written_as_tags(tmp_path):
    tags = ("mara, 1girl, solo, blue_hair, smile", "mara, red_shirt, outdoors")
    prose = ("mara, wearing a blue shirt, smiling, white background", "a photo of mara at sea")
    assert captions.looks_like_tags(tags) and not captions.looks_like_tags(prose)
    assert captions.as_tags("blue_hair ,  red_shirt") == "blue hair, red shirt"
    rng = random.Random(0)
    assert {captions.vary("mara, smile", "mara", "character", rng, True, False, "booru tags") for _ in range(9)} == {
        "mara, smile"
    }
    pictures = [dataset.Picture("x", np.zeros((64, 64, 3), np.uint8), caption) for caption in tags]
    assert dataset.caption_style(pictures, "auto") == dataset.caption_style((), "booru tags") == "booru tags"
    assert dataset.caption_style(pictures, "sentences") == dataset.caption_style(pictures, "templates") == "sentences"
    assert dataset.in_style(pictures, "mara", "booru tags")[0].caption == "mara, 1girl, solo, blue hair, smile"
    assert captions.class_prompt("owl", "object", "sentences") == "a photo of an owl"
    assert captions.class_prompt("owl", "object", "booru tags") == "owl"


def test_sizes_are_told_and_buckets_keep_the_shape():
    picture = dataset.Picture("x", np.full((96, 64, 3), 128, np.uint8), "rex")
    settings = TrainSettings(size_captions=True, variants=40)
    placed = list(augment.placements(picture, 64, settings, 3))
    assert {one.phrase for one in placed} == {"", "far away", "very small", "zoomed in", "close up"}
    for one in placed:
        share = one.valid.mean()
        assert share > 0.999 if one.phrase in augment.PHRASES["close"] else share < 0.7
        assert (one.phrase in augment.PHRASES["far"]) == (share < 0.6**2 * 0.7)
    assert augment.bucket(640, 480, 512) == (576, 448) and augment.bucket(100, 1000, 512) == (384, 704)
    wide = list(augment.placements(picture, (96, 64), TrainSettings(variants=3, scale_min=1.0), 3))
    assert all(one.canvas.shape == (64, 96, 3) for one in wide)


def test_the_loss_curve_falls_where_the_losses_do():
    falling = [1.0 - n / 200 for n in range(100)]
    plot = curve.loss_curve(falling, 100)
    assert plot.shape == (360, 640, 3) and plot.min() >= 0.0 and plot.max() <= 1.0
    line = np.abs(plot - np.array(curve.LINE) / 255).sum(-1) < 0.02
    rows = [int(np.flatnonzero(line[:, x]).mean()) for x in (100, 300, 600)]
    assert rows[0] < rows[1] < rows[2], "a smaller loss is drawn lower"
    assert curve.running_mean(np.array([4.0, 2.0, 0.0]), 2).tolist() == [4.0, 3.0, 1.0]
    for few in ([], [0.5], [0.0, 0.0], [math.nan, 1.0]):
        assert curve.loss_curve(few, 3).shape == plot.shape
