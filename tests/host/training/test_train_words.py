"""Every caption's tokens are looked at before a training: one that calls no learned word would teach nothing."""

from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.native import read_concept
from mos_pack.mixofshow_core.training.dataset import TrainingSet
from mos_pack.nodes.bridge.host import text
from mos_pack.nodes.bridge.training import run as training_run
from mos_tests.host.training.test_train import ask, lean, pictures  # noqa: F401 (a fixture)

MISAKI = "\u7f8e\u54b2"


def captioned(name, *captions):
    (concept,) = pictures(name, len(captions)).concepts
    parts = [replace(one, caption=caption) for one, caption in zip(concept.pictures, captions, strict=True)]
    return TrainingSet((replace(concept, pictures=tuple(parts)),))


@pytest.mark.parametrize("preset", ["ED-LoRA", "LoRA"])
def test_captions_without_the_concept_are_named_before_any_work(lean, preset, monkeypatch):  # noqa: F811
    monkeypatch.setattr(lean.vae, "encode", None)  # nothing may be encoded
    data = captioned("zorbo", "zorbo in a hat", "a hat", "embedding:zorbo, a hat", "zorbos in hats")
    with pytest.raises(MixOfShowError, match=r"1\.png \('a hat'\); 2\.png .*; 3\.png .*Write the name"):
        ask(lean, data=data, preset=preset)
    ask(lean, data=captioned("zorbo", "zorbo in a hat", "character:zorbo, 1girl", "(Zorbo:1.2)"), preset=preset)


@pytest.mark.parametrize("before", (73, 74, 75))
def test_a_caption_over_the_border_holds_its_words(lean, before):  # noqa: F811
    ask(lean, data=captioned("zorbo", "red " * before + "zorbo"))


@pytest.mark.parametrize("name", [MISAKI, "Zo\u00eb", "\u092e\u0940\u0928\u093e"])
def test_a_concept_of_any_script_is_trained_saved_and_found_again(lean, name):  # noqa: F811
    data = captioned(name, f"{name}, look", f"\u5199\u771f {name.upper()}")
    with torch.inference_mode():
        result = training_run.run_training(ask(lean, 1, data))
    concept = read_concept(result.path)
    assert concept.name == name and name in result.path.name
    clip = text.register_concepts(lean.clip, training_run.used_concepts(result))
    assert (text.token_kinds(clip, f"a {name}, x")["clip_l"] == text.CONCEPT).sum() == 2
    with torch.inference_mode():
        again = training_run.run_training(ask(lean, 1, data))
    assert again.path == result.path, "an identical run is found again"
