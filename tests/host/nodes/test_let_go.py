"""What a node makes of MODEL and CLIP goes with its run. A ring of references would keep it until the next garbage
collection, memory of a GPU included; the host then speaks of a leak and collects whatever the process has."""

import gc
from collections import Counter

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
from mos_pack.nodes.dataset import MixOfShowDataset
from mos_pack.nodes.evaluate import MixOfShowCompare
from mos_pack.nodes.place import MixOfShowPlace
from mos_pack.nodes.train import MixOfShowTrain
from mos_tests.host.builders import make_concept, tiny_plan
from mos_tests.host.placing.test_routing import box, regions, sample

HELD = ("ModelPatcher", "CLIP", "VAE")
NAMES = ("mara", "tom")


@pytest.fixture
def kept():
    """kept() -> which of HELD only the garbage collector would free since this test began, and how many."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)

    def count() -> Counter:
        gc.collect()
        return Counter(name for name in (type(thing).__name__ for thing in gc.garbage) if name in HELD)

    yield count
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def fuse(base, uses, folder, **settings):
    fuse_uses(base.model, base.clip, uses, "exact", tiny_plan(steps=1), FusionSettings(**settings), folder)


def place(base, uses, prompt, spec=None):
    sample(MixOfShowPlace.one(base.model, base.clip, prompt, "bad", spec, uses).result, steps=1)


def halves():
    return regions(*({"prompt": name, "shape": box(n / 2, n / 2 + 0.5)} for n, name in enumerate(NAMES)))


def train(base):
    data = MixOfShowDataset.execute("mara", "person", "character", "demo:mara", "auto").args[0]
    given = ("ED-LoRA", "standard", 2, 3, "let go", {"preview_every": 1, "batch": 1})
    MixOfShowTrain.execute(base.model, base.clip, base.vae, data, *given)


def compare(base, uses):
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    facts = {"prompts": "{name}", "negative": "", "ways": "sum", "calibration": "quick", "seed": 5, "steps": 1}
    facts |= {"cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "latent_image": latent, "concepts": uses}
    MixOfShowCompare.execute(base.model, base.clip, base.vae, **facts)


WORK = {
    "fuse": fuse,
    "fuse in stages": lambda base, uses, folder: fuse(base, uses, folder, mode="staged", refine=1),
    "place": lambda base, uses, folder: place(base, (), "a cat", halves()),
    "place routed": lambda base, uses, folder: place(base, uses, "a cat", halves()),
    "place by words": lambda base, uses, folder: place(base, uses, "mara and tom"),
    "train": lambda base, uses, folder: train(base),
    "compare": lambda base, uses, folder: compare(base, uses),
}


@pytest.mark.parametrize("work", WORK)
def test_nothing_is_left_to_the_garbage_collector(work, tiny_sd15, tmp_path, monkeypatch, quick_sheets, kept):
    monkeypatch.setattr(tiny_sd15.model.model, "native_size", 64, raising=False)
    uses = tuple(ConceptUse(make_concept(tiny_sd15, name, n + 1)) for n, name in enumerate(NAMES))
    with torch.inference_mode():
        WORK[work](tiny_sd15, uses, tmp_path)
    assert not kept(), "look at gc.get_referrers of these"
