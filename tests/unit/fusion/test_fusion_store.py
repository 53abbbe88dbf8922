"""Capture by hooks, calibration plans, and statistics on disk."""

import os
import time

import pytest
import torch
from mos_pack.mixofshow_core.concept import BaseInfo, Concept, ConceptEntry, ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.fusion.capture import Capture, text_weights
from mos_pack.mixofshow_core.fusion.plan import PRESETS, concept_prompts, picture_prompts, preset, prior_prompts
from mos_pack.mixofshow_core.fusion.statistics import Gram, GramAccumulator, Statistics
from mos_pack.mixofshow_core.fusion.store import StatisticsStore, read_statistics, write_statistics
from mos_pack.mixofshow_core.linalg import mirror_upper
from torch import nn


def gram(seed, width=6):
    x = torch.randn(20, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Gram(x.mT @ x / 20, 20.0, 20)


def test_streaming_equals_all_rows_at_once():
    x = torch.randn(1000, 8)
    weights = torch.rand(1000)
    weights[::3] = 0
    accumulator = GramAccumulator()
    for start in range(0, 1000, 130):
        accumulator.add(x[start : start + 130], weights[start : start + 130])
    w = weights.double()
    wanted = (x.double() * w[:, None]).mT @ x.double() / w.sum()
    assert torch.allclose(accumulator.finish().matrix, wanted, atol=1e-6)
    assert accumulator.finish().rows == int((weights > 0).sum())


def test_few_rows_are_kept_and_wide_products_are_blocked(tmp_path):
    x, weights = torch.randn(300, 256), torch.rand(300)
    few, many = GramAccumulator(), GramAccumulator()
    few.add(x[:100], weights[:100])
    few.add(x[100:200], weights[100:200])
    for start in range(0, 300, 100):
        many.add(x[start : start + 100], weights[start : start + 100])
    for accumulator, n in ((few, 200), (many, 300)):
        gram, w = accumulator.finish(), weights[:n].double()
        wanted = (x[:n].double() * w[:, None]).mT @ x[:n].double() / w.sum()
        assert gram.factored == (n == 200) and gram.rows == n
        assert float((gram.matrix - wanted).norm() / wanted.norm()) < 3e-7
        assert torch.equal(gram.matrix, gram.matrix.mT)
    store = StatisticsStore(tmp_path)
    saved = store.save("a" * 64, Statistics({"g": few.finish(), "h": many.finish()}), frozenset("gh")).grams
    assert saved["g"].factored and saved["h"].rounded and not saved["h"].factored
    assert torch.allclose(saved["g"].matrix, few.finish().matrix, atol=1e-6)


def test_a_product_that_the_processor_summed_in_two_orders_is_made_symmetric():
    lopsided = torch.tensor([[1.0, 2.0, 3.0], [2.5, 4.0, 5.0], [3.5, 5.5, 6.0]], dtype=torch.float64)
    wanted = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]], dtype=torch.float64)
    assert torch.equal(mirror_upper(lopsided), wanted)


def test_capture_takes_weighted_rows_only_and_leaves_no_hook():
    linear, conv = nn.Linear(4, 4), nn.Conv2d(4, 4, 1)
    capture = Capture(["a", "b"])
    x, image = torch.randn(2, 5, 4), torch.randn(2, 4, 3, 3)
    with capture.watching({"a": linear, "b": conv}):
        linear(x)  # no weights yet: ignored
        capture.weights = torch.tensor([0.0, 1.0])
        linear(x)
        conv(image)
        capture.weights = None
        linear(x)
    assert not linear._forward_pre_hooks and not conv._forward_pre_hooks
    grams = capture.finish()
    assert torch.allclose(grams["a"].matrix, (x[1].mT @ x[1]).double() / 5, atol=1e-6)
    pixels = image[1].flatten(1).mT
    assert torch.allclose(grams["b"].matrix, (pixels.mT @ pixels).double() / 9, atol=1e-6)


def test_capture_hooks_go_when_the_pass_fails():
    linear, capture = nn.Linear(4, 4), Capture(["a"])
    with pytest.raises(RuntimeError, match="stop"), capture.watching({"a": linear}):
        raise RuntimeError("stop")
    assert not linear._forward_pre_hooks


def test_token_weights_repeat_over_layer_sections():
    weights = text_weights(torch.tensor([0, 1, 2, 3, 3]), 1, 2, 3)
    assert weights.tolist() == [0.0, 1.0, 1.0, 0.5, 0.5]
    linear, capture = nn.Linear(4, 4), Capture(["a"])
    capture.weights = weights[None]
    x = torch.randn(3, 5, 4)
    with capture.watching({"a": linear}):
        linear(x)
    wanted = sum((part * weights[:, None]).mT @ part for part in x).double() / 9
    assert torch.allclose(capture.finish()["a"].matrix, wanted, atol=1e-6)


def use(name="mara", kind="character", role="auto", trigger="", class_word="person"):
    entries = (ConceptEntry(name, name, class_word, kind),) if name else ()
    return ConceptUse(Concept(entries, {}, BaseInfo("sd15")), 1.0, role, trigger)


def test_prompts_follow_name_trigger_and_role():
    plan = preset("quick")
    assert concept_prompts(plan, use())[:2] == ("photo of a mara", "mara")
    assert concept_prompts(plan, use("", role="concept", trigger="ohwx man"))[1] == "ohwx man"
    assert all(text.endswith(", ink") for text in concept_prompts(plan, use("ink", "style")))
    assert picture_prompts(plan, use()) == ("photo of a mara",)
    assert "photo of a person" in prior_prompts(plan, [use()]) and "" in prior_prompts(plan, [use()])
    two = prior_prompts(plan, [use("a", class_word="dog"), use("b", class_word="cat")])
    assert two == prior_prompts(plan, [use("b", class_word="cat"), use("a", class_word="dog")])
    with pytest.raises(MixOfShowError, match="trigger"):
        concept_prompts(plan, use("", role="concept"))
    with pytest.raises(MixOfShowError, match="quick, standard, thorough"):
        preset("fast")
    assert len({plan.content_hash for plan in PRESETS.values()}) == 3


def test_store_gives_back_what_it_returned(tmp_path):
    store, shared = StatisticsStore(tmp_path), gram(1)
    grams = {"a": gram(0), "kv.0": shared, "kv.1": shared}
    saved = store.save("f" * 64, Statistics(grams, {"plan": "x"}), frozenset(grams))
    found = StatisticsStore(tmp_path).load("f" * 64, frozenset(["a", "kv.1"]))
    for name, wanted in grams.items():
        assert torch.equal(found.grams[name].matrix, saved.grams[name].matrix)
        assert torch.allclose(found.grams[name].matrix, wanted.matrix, rtol=1e-6)
    assert found.manifest == {"plan": "x"}
    assert store.size() < 3 * 6 * 7 / 2 * 4 + 1000  # the shared matrix lies there once
    assert store.load("f" * 64, frozenset(["a", "other"])) is None  # other groups were never watched
    assert store.load("e" * 64, frozenset()) is None


def test_damaged_statistics_are_collected_again(tmp_path):
    store = StatisticsStore(tmp_path)
    store.save("f" * 64, Statistics({"a": gram(0)}), frozenset("a"))
    path = store.path_of("f" * 64)
    path.write_bytes(path.read_bytes()[:-20])
    assert store.load("f" * 64, frozenset("a")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"groups": {"a": [10**400, 1, "a"]}},
        {"groups": [1]},
        {"asked": 5},
        {"manifest": [1]},
        {"groups": {"a": [1, "x"]}},
    ],
)
def test_a_header_that_somebody_else_wrote_is_refused_in_one_line(tmp_path, change):
    header = {"identity": "f", "asked": ["a"], "groups": {"a": [1.0, 3, "a"]}, "manifest": {}}
    write_statistics(tmp_path / "x.statistics", header, {"a": torch.zeros(7, 3)})
    assert read_statistics(tmp_path / "x.statistics")[1]["asked"] == ["a"]
    write_statistics(tmp_path / "x.statistics", header | change, {"a": torch.zeros(7, 3)})
    with pytest.raises(MixOfShowError, match=r"x\.statistics is damaged"):
        read_statistics(tmp_path / "x.statistics")


def test_statistics_of_something_else_under_this_name_are_not_used(tmp_path):
    """A file that was copied or renamed says itself what it belongs to."""
    store = StatisticsStore(tmp_path)
    store.save("f" * 64, Statistics({"a": gram(0)}), frozenset("a"))
    store.path_of("f" * 64).rename(store.path_of("e" * 64))
    assert store.load("e" * 64, frozenset("a")) is None and store.load("f" * 64, frozenset("a")) is None


def test_store_without_room_keeps_the_same_numbers_in_memory(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    blocked = StatisticsStore(tmp_path / "file").save("f" * 64, Statistics({"a": gram(0)}), frozenset("a"))
    kept = StatisticsStore(tmp_path / "folder").save("f" * 64, Statistics({"a": gram(0)}), frozenset("a"))
    assert torch.equal(blocked.grams["a"].matrix, kept.grams["a"].matrix)


def test_limit_removes_the_longest_unused(tmp_path):
    store = StatisticsStore(tmp_path, limit=4000)
    for n, name in enumerate("abc"):
        store.save(name * 64, Statistics({"x": gram(n, 20)}), frozenset("x"))
        os.utime(store.path_of(name * 64), (time.time() - 10000 + n, time.time() - 10000 + n))
    store.load("a" * 64, frozenset("x"))  # used now
    store.save("d" * 64, Statistics({"x": gram(9, 20)}), frozenset("x"))
    assert store.load("a" * 64, frozenset("x")) and store.load("d" * 64, frozenset("x"))
    assert store.load("b" * 64, frozenset("x")) is None
