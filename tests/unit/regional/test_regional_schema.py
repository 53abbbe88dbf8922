"""The region document: what is accepted, what is refused and with which words."""

import contextlib
import json
import random

import pytest
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.regional.schema import Ellipse, Polygon, dump_regions, parse_regions

BOX = {"type": "rect", "x": 0.1, "y": 0.1, "width": 0.5, "height": 0.5}


def document(*regions, **top):
    return json.dumps({"version": 1, "regions": list(regions), **top})


def region(**more):
    return {"id": "a", "shape": BOX, **more}


def parse(*regions, **top):
    return parse_regions(document(*regions, **top), 128, 64)


def test_everything_survives_a_round_trip():
    shapes = [
        BOX,
        {"type": "ellipse", "x": -0.2, "y": 0, "width": 0.5, "height": 1},
        {"type": "polygon", "points": [[0, 0], [1, 0], [0.5, 1]]},
        {"type": "mask", "width": 4, "height": 2, "runs": [1, 2, 5]},
        {"type": "input", "index": 3},
    ]
    entries = [
        region(
            id=f"r{n}",
            shape=shape,
            name=f"No {n}",
            prompt="p",
            negative="n",
            concept="mara",
            strength=0.5,
            feather=0.1,
            start=0.2,
            end=0.8,
            weight=2,
            control=0,
            ui={"color": "#fff", "locked": True},
            enabled=n != 2,
        )
        for n, shape in enumerate(shapes)
    ]
    top = {"overlap": "priority", "edges": "paper", "suffix": "4k", "background": {"concept": "lake"}}
    first = parse(*entries, **top)
    text = dump_regions(first)
    assert parse_regions(text) == first
    assert dump_regions(parse_regions(text)) == text
    assert isinstance(first.regions[1].shape, Ellipse)
    assert first.regions[2].shape == Polygon(((0, 0), (1, 0), (0.5, 1)))
    assert (first.width, first.height) == (128, 64)


def test_defaults():
    found = parse(region())
    assert (found.overlap, found.edges, found.regions[0].name) == ("average", "soft", "a")
    assert parse().regions == ()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not JSON"),
        ("[1]", "an object is needed"),
        ("[" * 100_000, "not JSON|nested"),
        ('{"version": 1' + " " * 262_144 + "}", "at most 262144"),
        ('{"regions": []}', "version is None"),
        ('{"version": 2}', "reads version 1"),
        ('{"version": true}', "version is True"),
        ('{"version": 1, "version": 1}', "names a field twice"),
        ('{"version": 1, "regions": 5}', "a list is needed"),
        (document(surprise=1), "unknown field 'surprise'"),
        (document(overlap="sum"), "overlap is 'sum'"),
        (document(background={"concept": 5}), "background: concept is 5"),
        (document(5), "region 1 is 5"),
        (document({"id": "a"}), "lacks the field 'shape'"),
        (document({"id": "a", "shape": 5}), "shape is 5"),
        (document(region(shape={"type": "star"})), "use one of rect"),
        (document(region(shape={"type": []})), "use one of rect"),
        (document(region(shape=BOX | {"x": float("nan")})), "NaN; only finite"),
        (document(region(shape=BOX)).replace("0.1", "1e999"), "x is inf"),
        (document(region(shape=BOX | {"x": 10**400})), "x is "),
        (document(region(shape=BOX)).replace("0.1", "9" * 5000), "region 1|not JSON"),
        (document(region(shape=BOX | {"x": 1})), "outside the canvas"),
        (document(region(shape=BOX | {"y": -0.5})), "outside the canvas"),
        (document(region(shape=BOX | {"x": 256})), "not pixels"),
        (document(region(shape=BOX | {"width": 0})), "no area"),
        (document(region(shape=BOX | {"width": True})), "width is True"),
        (document(region(shape={"type": "polygon", "points": [[0, 0], [1, 1]]})), "3 to 256 pairs"),
        (document(region(shape={"type": "polygon", "points": [[0, 0], [1, 0], [0.5, 0]]})), "no area"),
        (document(region(shape={"type": "polygon", "points": [[0, 0], [1], [0.5, 0]]})), "point 2"),
        (document(region(shape={"type": "mask", "width": 2, "height": 2, "runs": [1, 2]})), "add up to 3"),
        (document(region(shape={"type": "mask", "width": 2, "height": 2, "runs": [4]})), "mask is empty"),
        (document(region(shape={"type": "mask", "width": 99999, "height": 2, "runs": [4]})), "mask width"),
        (document(region(shape={"type": "input", "index": 64})), "index is 64"),
        (document(region(id="../x")), "letters, digits"),
        (document(region(), region()), "id 'a'"),
        (document(region(name="B"), region(id="b")), "name 'b'"),
        (document(*[region(id=f"r{n}") for n in range(65)]), "there are 65 regions"),
        (document(region(strength=1.5)), "strength is 1.5"),
        (document(region(feather=-1)), "feather is -1"),
        (document(region(start=0.5, end=0.5)), "start must come first"),
        (document(region(weight=0)), '"enabled": false to switch'),
        (document(region(prompt="x" * 4001)), "4001 characters"),
        (document(region(prompt=None)), "prompt is None"),
        (document(region(ui={"a": {}})), "ui holds"),
        (document(region(colour="red")), "unknown field 'colour'"),
    ],
)
def test_bad_documents_are_refused_in_clear_words(text, message):
    with pytest.raises(MixOfShowError, match=message) as error:
        parse_regions(text, 128, 64)
    assert str(error.value).startswith("Regions: ")
    assert len(str(error.value)) < 400


def test_canvas_size_is_checked():
    with pytest.raises(MixOfShowError, match="width is 8"):
        parse_regions(document(), 8, 64)
    with pytest.raises(MixOfShowError, match="too much memory"):
        parse_regions(document(*[region(id=f"r{n}") for n in range(5)]), 8192, 8192)
    with pytest.raises(MixOfShowError, match="lacks the field 'width'"):
        parse_regions(document())


def test_the_region_is_named_in_the_error():
    with pytest.raises(MixOfShowError, match=r"region 2 \('Ann'\): strength"):
        parse(region(), region(id="b", name="Ann", strength=7))


def test_random_damage_never_escapes_as_another_error():
    """Cut, swap and replace pieces of a valid text: the answer is a RegionSet or a MixOfShowError."""
    chooser = random.Random(0)
    triangle = {"type": "polygon", "points": [[0, 0], [1, 0], [0, 1]]}
    valid = document(region(ui={"color": "red"}), region(id="b", shape=triangle))
    pieces = ['"', "{", "}", "[", "]", "null", "-1", "1e9", "NaN", '"x"', ",", ":", "true", "\\u0000", "[[]]", "0.5"]
    for _ in range(5000):
        text = valid
        for _ in range(chooser.randint(1, 4)):
            at = chooser.randrange(len(text))
            text = text[:at] + chooser.choice(pieces) + text[at + chooser.randint(0, 6) :]
        with contextlib.suppress(MixOfShowError):
            parse_regions(text, 64, 64)


def test_random_types_never_escape_as_another_error():
    chooser = random.Random(1)
    values = [None, True, -1, 0, 2, 1e300, "", "rect", [], {}, [[]], [[0, 0]] * 3, {"type": "rect"}, BOX]
    fields = ["id", "shape", "name", "prompt", "strength", "start", "end", "weight", "ui", "concept"]
    for _ in range(5000):
        entry = region()
        for _ in range(chooser.randint(1, 3)):
            target = chooser.choice([entry, dict(BOX)])
            target[chooser.choice(fields if target is entry else list(BOX))] = chooser.choice(values)
            if target is not entry:
                entry["shape"] = target
        with contextlib.suppress(MixOfShowError):
            parse(entry)
