"""Bounds of settings stand in their fields, and the classes check themselves by them."""

from dataclasses import dataclass, fields

import pytest
from mos_pack.mixofshow_core.bounds import Bounds, bounds_of, check_bounds, choice, number
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.mixofshow_core.training.settings import PRESETS, TrainSettings

FREE = {TrainSettings: {"method", "prior_folder", "validation_prompts"}, FusionSettings: set()}  # any text


@dataclass(frozen=True)
class Example:
    count: int = number(4, 1, 8)
    share: float = number(0.5, 0, 1)
    rate: float = number(0, 0, 1, auto=True)
    stop: float = number(0, -1, 9, auto=True)
    way: str = choice("a", ("a", "b"))
    free: str = ""

    def __post_init__(self):
        check_bounds(self, "Example")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"count": 9}, "Example count is 9; it must be 1 to 8"),
        ({"count": 0}, "it must be 1 to 8"),
        ({"share": float("nan")}, "Example share is nan; give a finite"),
        ({"share": float("inf")}, "finite"),
        ({"way": "c"}, "Example way is 'c'; choose one of a, b"),
    ],
)
def test_a_value_out_of_bounds_is_refused(change, told):
    with pytest.raises(MixOfShowError, match=told):
        Example(**change)


def test_what_says_not_touched_is_no_value_of_the_setting():
    found = bounds_of(Example)
    assert list(found) == ["count", "share", "rate", "stop", "way"]
    assert [found[name].below for name in ("count", "share", "rate", "stop")] == [0, -1, 0, -2]
    assert found["way"] == Bounds(choices=("a", "b"))


@pytest.mark.parametrize("settings", [TrainSettings, FusionSettings])
def test_every_number_and_word_of_the_settings_has_bounds(settings):
    plain = settings()
    bare = {
        entry.name
        for entry in fields(settings)
        if isinstance(getattr(plain, entry.name), (int, float, str))
        and not isinstance(getattr(plain, entry.name), bool)
    } - set(bounds_of(settings))
    assert bare == FREE[settings]


@pytest.mark.parametrize("settings", [TrainSettings, FusionSettings])
def test_the_settings_ask_their_bounds(settings):
    for name, bounds in bounds_of(settings).items():
        for value in ["neither"] if bounds.choices else [bounds.low - 1, bounds.high + 1]:
            with pytest.raises(MixOfShowError, match=rf"setting {name} is"):
                settings(**{name: value})


def test_presets_are_within():
    assert all(preset.to_json()["method"] == name for name, preset in PRESETS.items())
