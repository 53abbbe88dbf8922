"""Control weights, one picked region, and who owns which token."""

import json

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.regional.control import control_weights, uniform_weight
from mos_pack.mixofshow_core.regional.coverage import (
    describe_coverage,
    draw_coverage,
    level_sizes,
    measure_coverage,
)
from mos_pack.mixofshow_core.regional.describe import describe_regions
from mos_pack.mixofshow_core.regional.pick import pick_region
from mos_pack.mixofshow_core.regional.raster import make_map
from mos_pack.mixofshow_core.regional.schema import parse_regions


def draw(*regions, width=128, height=64, **top):
    entries = [{"id": f"r{n}", **region} for n, region in enumerate(regions)]
    return make_map(parse_regions(json.dumps({"version": 1, "regions": entries, **top}), width, height))


def rect(x=0.0, y=0.0, width=1.0, height=1.0, **more):
    return {"shape": {"type": "rect", "x": x, "y": y, "width": width, "height": height}, "prompt": "a thing", **more}


class TestControlWeights:
    def test_weights_inside_and_outside(self):
        placed = draw(rect(width=0.25, control=0.5, strength=0), rect(x=0.75, width=0.25, control=2, strength=0.1))
        found = control_weights(placed, (4, 8), 0.75)
        assert torch.equal(found, torch.tensor([0.5, 0.5, 0.75, 0.75, 0.75, 0.75, 2, 2]).expand(4, 8))

    def test_overlap_follows_the_regions_rule(self):
        both = rect(control=1), rect(width=0.5, control=3)
        assert control_weights(draw(*both), (2, 4)).tolist() == [[2, 2, 1, 1]] * 2
        assert control_weights(draw(*both, overlap="priority"), (2, 4)).tolist() == [[3, 3, 1, 1]] * 2

    def test_without_regions_only_the_outside_counts(self):
        assert control_weights(draw(), (2, 2), 0.3).unique().tolist() == pytest.approx([0.3])

    def test_uniform(self):
        assert uniform_weight(draw(rect(width=0.5)), 1.0) == 1
        assert uniform_weight(draw(rect(width=0.5)), 0.0) is None
        assert uniform_weight(draw(), 0.0) == 0


class TestPick:
    def test_the_region_covers_everything_and_brings_its_text(self):
        placed = draw(
            rect(width=0.25, prompt="p", negative="n", concept="mara", name="Left", strength=0.5, start=0.2, control=3),
            rect(x=0.5, width=0.5),
            suffix="4k",
        )
        picked, mask = pick_region(placed, " left ")
        (region,) = picked.regions.regions
        assert picked.masks.unique().tolist() == [255] and picked.regions.suffix == "4k"
        assert (region.prompt, region.negative, region.concept, region.control) == ("p", "n", "mara", 3)
        assert (region.strength, region.start, region.end) == (1, 0, 1)
        assert mask.shape == (1, 64, 128) and mask[0, :, :32].min() == 1 and mask[0, :, 32:].max() == 0

    def test_by_id_and_the_only_one(self):
        assert pick_region(draw(rect(name="a")), "")[0].regions.regions[0].name == "a"
        assert pick_region(draw(rect(name="a"), rect(name="b")), "r1")[0].regions.regions[0].name == "b"
        for typed in ("STRASSE", "\uff33\uff54\uff52a\u00dfe"):  # as concepts' names are compared
            assert pick_region(draw(rect(name="stra\u00dfe"), rect(name="b")), typed)[0].regions.regions[0].id == "r0"

    @pytest.mark.parametrize(("name", "message"), [("", "name one of"), ("zoe", "no region 'zoe'")])
    def test_unknown_names_list_the_known(self, name, message):
        with pytest.raises(MixOfShowError, match=f"{message}.*'a', 'b'"):
            pick_region(draw(rect(name="a"), rect(name="b")), name)


class TestCoverage:
    def test_sizes_round_up(self):
        assert level_sizes(104, 72) == ((9, 13), (5, 7), (3, 4), (2, 2))
        assert level_sizes(104, 72, (2, 4)) == ((5, 7), (3, 4))

    def test_tokens_are_counted_as_attention_weighs_them(self):
        placed = draw(rect(width=0.5), rect(width=0.25, strength=0.5))
        (level,) = measure_coverage(placed, [(4, 8)])
        first, second = level.shares
        assert (first.tokens, first.owned, second.tokens, second.owned) == (16, 12, 8, 2)

    def test_a_tiny_region_is_explained(self):
        tiny = rect(x=0.5, y=0.5, width=0.02, height=0.04, name="ring")
        for edges, wanted in (("paper", "'ring' has no effect at all: no token"), ("soft", "never owns half a token")):
            placed = draw(rect(width=0.5, name="man"), tiny, edges=edges)
            report = describe_coverage(placed, measure_coverage(placed, level_sizes(128, 64)))
            assert wanted in report and "'man'" not in report
            assert [line.split()[0] for line in report.splitlines()[:3]] == ["tokens", "man", "ring"]

    def test_a_hidden_and_a_switched_off_region(self):
        placed = draw(rect(name="under"), rect(name="top"), rect(name="off", strength=0), overlap="priority")
        report = describe_coverage(placed, measure_coverage(placed, [(8, 16)]))
        assert "'under' has no effect at all: others cover it" in report and "'off' has strength 0" in report

    def test_a_region_that_says_nothing_claims_nothing_and_the_report_says_so(self):
        """It took half of what it lay over, in silence; a negative alone has its place among the negatives only."""
        silent, denying = rect(name="drawn", prompt=" "), rect(name="denying", prompt="", negative="hat")
        placed = draw(rect(width=0.5, name="man"), silent, denying)
        (level,) = measure_coverage(placed, [(4, 8)])
        assert [share.owned for share in level.shares] == [16, 0, 0]
        report = describe_coverage(placed, (level,))
        assert "'drawn' has no prompt and no concept: it claims nothing" in report and "'man' " not in report
        assert "'denying' has no prompt and no concept: only its negative counts" in report
        assert "others cover" not in report
        assert [int(mask.max()) for mask in placed.claiming().masks] == [255, 0, 0]
        assert [int(mask.max()) for mask in placed.claiming(negative=True).masks] == [255, 0, 255]
        assert [int(mask.max()) for mask in placed.masks] == [255, 255, 255], "its MASK is drawn all the same"
        assert control_weights(placed, (4, 8)).unique().tolist() == [1]
        whole = draw(rect(width=0.5, name="man"))
        assert whole.claiming() is whole, "nothing to empty: nothing is copied"

    def test_a_region_that_is_off_is_as_if_it_were_not_there(self):
        off = rect(name="off", negative="hat", enabled=False)
        placed = draw(rect(width=0.5, name="man"), off, {"shape": {"type": "input", "index": 0}, "enabled": False})
        assert [int(mask.max()) for mask in placed.masks] == [255, 0, 0], "nor is the mask asked for that is not wired"
        assert not any(placed.claiming(negative=True).masks[1:].flatten())
        assert [region.name for region in placed.enabled().regions.regions] == ["man"]
        (level,) = measure_coverage(placed, [(4, 8)])
        assert [share.owned for share in level.shares] == [16, 0, 0]
        report = describe_coverage(placed, (level,))
        assert "'off' is switched off" in report and "no effect" not in report
        assert control_weights(draw(rect(control=0, enabled=False)), (4, 8)).unique().tolist() == [1]
        assert describe_regions(placed) == [
            "1 region on 128 x 64: man 50%; the background has 50%",
            "'off' is switched off",
            "'r2' is switched off",
        ]
        with pytest.raises(MixOfShowError, match="'off' is switched off. Switch it on"):
            pick_region(placed, "off")
        everything = draw(rect(width=0.5, name="man"))
        assert everything.enabled() is everything

    def test_a_concept_alone_is_a_claim(self):
        assert draw(rect(prompt="", concept="mara")).regions.regions[0].claims

    def test_no_regions(self):
        placed = draw()
        levels = measure_coverage(placed, [(8, 16)])
        assert "no regions" in describe_coverage(placed, levels) and len(draw_coverage(placed, levels)) == 1

    def test_pictures_have_one_size_and_the_owners_colours(self):
        placed = draw(rect(width=0.5))
        pictures = draw_coverage(placed, measure_coverage(placed, level_sizes(128, 64)))
        assert len({picture.size for picture in pictures}) == 1 and len(pictures) == 4
        left, right = pictures[0].getpixel((20, 110)), pictures[0].getpixel((350, 110))
        assert max(left) > 200 and max(right) < 40
