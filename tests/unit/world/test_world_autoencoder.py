"""The judge of autoencoders measures what it says, and the training of one resumes."""

import pytest
import torch
import torch.nn.functional as F
from mos_world import autoencoders
from mos_world.drawing.people import Person
from mos_world.judges import autoencoder as judge
from mos_world.judges.face_reader import QUESTIONS, Drawing, Reader, numbers_of
from mos_world.training import autoencoder as recipe

BEARDED = Person("an afro", "fro", "red", "dark", "sunglasses", "wayfarers", mood="sad", mouth="concerned")


@pytest.fixture
def faces():
    """Two patches with and without a dark spot."""
    without = torch.full((2, 3, 64, 64), 0.4)
    with_it = without.clone()
    with_it[:, :, 24:27, 24:27] = -0.8
    return with_it, without


def test_what_comes_through_is_all_nothing_or_half(faces):
    assert torch.allclose(judge.kept(*faces, judge.shown), torch.ones(2), atol=0.02)
    assert torch.allclose(judge.kept(*faces, lambda x: torch.zeros_like(x)), torch.zeros(2))
    assert torch.allclose(judge.kept(*faces, lambda x: x / 2), torch.full((2,), 0.5))
    # A mean over the patch makes both pictures almost the same, however close they are in mean squared error.
    smear = judge.kept(*faces, lambda x: F.interpolate(F.avg_pool2d(x, 16), scale_factor=16.0))
    assert smear.max() < 0.1


def test_pairs_that_do_not_differ_are_left_out(faces):
    with_it, without = faces
    with_it[1] = without[1]
    assert len(judge.kept(with_it, without, judge.shown)) == 1


def test_edges_are_found_again_within_a_pixel_and_lost_in_a_blur(faces):
    with_it, without = faces
    assert judge.edge_scores(with_it, with_it).tolist() == [1, 1]
    assert judge.edge_scores(with_it.roll(1, 3), with_it).min() == 1
    assert judge.edge_scores(with_it.roll(4, 3), with_it).max() < 0.5
    assert judge.edge_scores(without, with_it).tolist() == [0, 0]
    assert judge.edge_scores(with_it, with_it, (40, 40, 64, 64)).tolist() == [0, 0]  # no line in that box


def test_noise_is_seeded_and_measured_in_deviations():
    net = torch.nn.Module()
    net.encode = net.decode = lambda x: x
    x = torch.zeros(1, 3, 64, 64)
    deviation = torch.tensor([0.1, 0.2, 0.4])
    view = judge.through(net, 0.5, deviation)
    assert torch.equal(view(x), view(x))
    assert torch.allclose(view(x).std((0, 2, 3)), 0.5 * deviation, rtol=0.1)
    assert judge.through(net)(x).abs().max() < 0.005


def test_a_drawing_without_eyes_asks_for_none_and_is_labelled_so():
    plain = Person("a bob", "bob", "red", "pale", mouth="smile", eyes="side")
    assert Drawing(plain).options()["eyes"] == ["side"] and Drawing(plain, eyes=False).options()["eyes"] == []
    assert Drawing(plain, mouth=False).options()["mouth"] == []
    assert Drawing(plain, eyes=False).labels() == {
        "hair": "red",
        "glasses": "no glasses",
        "eyes": "nothing",
        "mouth": "smile",
    }
    assert Drawing(BEARDED).labels()["eyes"] == ""  # behind sunglasses
    numbers = numbers_of([Drawing(BEARDED), Drawing(plain, mouth=False)])
    assert numbers["eyes"][0] == -100 and numbers["mouth"][1] == 0


def test_the_reader_answers_every_question_for_every_picture():
    answers = Reader().eval().answer(torch.zeros(3, 3, 64, 64))
    assert {name: len(found) for name, found in answers.items()} == dict.fromkeys(QUESTIONS, 3)


def test_new_nets_start_as_the_best_linear_code():
    pixels = torch.randint(0, 255, (64, 8, 8, 3), dtype=torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    net = autoencoders.nets().SmallAutoencoder(3)
    recipe.start_from_pca(net, pixels)
    assert net.encode(recipe.to_float(pixels)).shape == (64, 3, 8, 8)
    assert recipe.score(net, pixels)[0] > 40  # flat patches have three numbers each


def test_some_latents_stay_undisturbed():
    torch.manual_seed(0)
    z = torch.randn(200, 4, 2, 2)
    moved = (recipe.disturb(z) - z).abs().amax((1, 2, 3))
    assert 20 < int((moved == 0).sum()) < 90 and moved.max() > 0.3


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    pixels = torch.randint(0, 255, (40, 64, 64, 3), dtype=torch.uint8)
    pool = recipe.Pool(pixels[:32], torch.arange(8), pixels[32:])
    assert pool.faces(5).shape == (5, 3, 32, 32) and pool.whole(5).shape == (5, 3, 64, 64)
    monkeypatch.setattr(recipe, "load_pool", lambda device: pool)
    monkeypatch.setattr(recipe, "EarlyFeatures", lambda: torch.nn.AvgPool2d(4))
    path = tmp_path / "snapshot.pt"
    recipe.train(0.5 / 3600, "cpu", 1, path)
    first = torch.load(path)
    recipe.train((first["elapsed"] + 0.5) / 3600, "cpu", 1, path)
    second = torch.load(path)
    assert f"from step {first['step']}:" in capsys.readouterr().out
    assert second["step"] > first["step"] > 0 and second["elapsed"] >= first["elapsed"] + 0.5
    assert second["seen"] == 3 * second["step"] and not path.with_suffix(".tmp").exists()
    assert autoencoders.load(path).channels == 24


def test_the_shipped_base_stands_in_for_a_lost_snapshot(monkeypatch, tmp_path):
    missing = tmp_path / "lost.pt"
    monkeypatch.setattr(autoencoders, "SNAPSHOT", missing)
    stored = autoencoders.of_base(autoencoders.SHIPPED).state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in autoencoders.load(missing).state_dict().items())
    with pytest.raises(FileNotFoundError):
        autoencoders.load(tmp_path / "mistyped.pt")
