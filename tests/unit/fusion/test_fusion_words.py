"""The report begins with a verdict and advice; one quantity has one word."""

import re

import pytest
import torch
from mos_pack.mixofshow_core.fusion.plot import COLOURS, FLOOR, bar_of, draw_report
from mos_pack.mixofshow_core.fusion.report import format_report
from mos_pack.mixofshow_core.fusion.words import spots, verdict

NOTES = ("roles: mara (concept 1)", "statistics in /somewhere use 1.0 MB")


def summary(method="exact", measured=True, others=5.0, **residuals):
    """``residuals``: concept -> (text, keys and values); None: it changes nothing there."""
    roles = {
        role: {
            "groups": 3,
            "residual": [found[place] for found in residuals.values()],
            "residual_sum": [None if found[place] is None else others for found in residuals.values()],
            "residual_average": [None if found[place] is None else others for found in residuals.values()],
            "overlap": [0.747 for _ in residuals],
            "drift": 1.5,
            "ridge": 0.01,
            "condition": 10.0,
            "rank_share": 0.1,
        }
        for place, role in enumerate(("text", "cross_kv"))
    }
    return {
        "method": method,
        "measured": measured,
        "concepts": list(residuals),
        "roles": roles,
        "worst": [{"layer": "layer.0", "residual": 0.9}],
        "reasons": [],
        "unsolved": {"layers": 0, "first": [], "rule": "mean"},
        "weights": [],
    }


THREE = dict(mara=(0.1, 0.2), finn=(0.05, 0.1), rex=(0.48, 0.3))


@pytest.mark.parametrize(
    ("residuals", "told"),
    [
        (THREE, "All three kept. Weakest: rex's text, 52%."),
        ({"mara": (0.3, 0.2), "finn": (0.05, 0.1)}, "Both kept. Weakest: mara's text, 70%."),
        (THREE | {"rex": (0.6, 0.3)}, "Two of three kept. In part: rex's text, 40%."),
        (
            THREE | {"rex": (0.6, 0.3), "finn": (3.0, 0.1)},
            "One of three kept. In part: rex's text, 40%. Lost: finn's text, nothing.",
        ),
        (
            {"mara": (0.8, 0.1), "finn": (1.2, 0.1)},
            "None of two kept. In part: mara's text, 20%. Lost: finn's text, nothing.",
        ),
        ({"mara": (0.1, None)}, "mara is kept. Weakest: mara's text, 90%."),
        ({"mara": (None, None)}, "No concept changes anything that is solved."),
    ],
)
def test_the_first_line_is_the_verdict(residuals, told):
    text = format_report(summary(**residuals), NOTES)
    assert text.splitlines()[0] == told
    assert text.splitlines()[-2:] == list(NOTES), "paths come last"


def test_advice_names_the_weakest_and_only_what_holds():
    weak = THREE | {"rex": (0.6, 0.3)}
    told = "\n".join(verdict(summary(**weak)))
    assert "weights: rex: 3" in told and "Place" in told and "Method sum" not in told
    assert "weights:" not in "\n".join(verdict(summary(method="constrained", **weak)))
    better = "\n".join(verdict(summary(others=0.2, **weak)))
    assert "Method sum keeps more here: 80% in its weakest spot." in better
    calm = {"mara": (0.05, 0.1), "finn": (0.1, 0.15)}
    assert "For more of" not in "\n".join(verdict(summary(**calm)))
    blind = verdict(summary(method="ties", measured=False, **weak))
    assert blind == [blind[0]] and "not measured" in blind[0] and "exact" in blind[0]


def test_one_quantity_has_one_word_and_one_value():
    """`keeps 69 %` once stood beside `kept 0.747`."""
    text = format_report(summary(**THREE), NOTES)
    assert not re.search(r"\bkept\s+0|residual|0\.747|74\.7", text)
    table = text[text.index("\nkeeps ") :]
    for spot in spots(summary(**THREE)):
        assert f"{spot.concept} keeps: " in text and f"{spot.part} {spot.keeps:.0%}" in text
        assert re.search(rf"{spot.concept} +{100 * spot.keeps:.1f}%", table), spot
    assert "10.0%  layer.0" in text


def test_what_is_worse_than_nothing_is_said_so():
    text = format_report(summary(mara=(14.0, 0.1), finn=(0.1, 0.1)))
    assert "Lost: mara's text, nothing." in text and "-1300.0%" in text
    assert "below 0: worse than leaving it out" in text


def test_bars_that_are_cut_say_so():
    assert bar_of(0.69) == (0.69, "69%") and bar_of(FLOOR) == (FLOOR, f"{FLOOR:.0%}")
    assert bar_of(-13.0) == (FLOOR, f"-1300% (bar cut at {FLOOR:.0%})")


def test_a_longer_bar_is_more_kept():
    """Pixels of the fused colour, of a legend's square less."""
    blue = torch.tensor([int(COLOURS["residual"][n : n + 2], 16) for n in (1, 3, 5)])

    def pixels(residual):
        picture = draw_report(summary(mara=(residual, None)))
        shown = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(-1, 3)
        return int((shown == blue).all(1).sum())

    half, most, lost = pixels(0.5), pixels(0.1), pixels(9.0)
    assert most > half > 0 and 0 < lost < most
