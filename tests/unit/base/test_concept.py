"""The concept type: scales, validation, content hash, naming."""

from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse, LayeredEmbedding, Word, check_unique_names
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.renaming import renamed
from mos_tests.unit.builders import SD15_Q, make_concept, make_entry


def test_scale_follows_the_community_convention():
    delta = LowRank(torch.ones(3, 2), torch.ones(2, 4), alpha=1.0)
    assert delta.scale == 0.5
    assert torch.equal(delta.dense(), torch.ones(3, 4))
    assert torch.equal(delta.scaled(3.0).dense(), 3.0 * torch.ones(3, 4))
    assert delta.scaled(3.0).alpha is None
    assert LowRank(torch.ones(3, 2), torch.ones(2, 4)).scale == 1.0


def test_dense_scales_too():
    assert torch.equal(Dense(torch.ones(2, 2)).scaled(0.5).dense(), 0.5 * torch.ones(2, 2))


@pytest.mark.parametrize(
    "up, down", [((3, 2), (3, 4)), ((3,), (2, 4)), ((3, 0), (0, 4))], ids=["rank", "vector", "empty"]
)
def test_shapes_that_make_no_product_are_refused(up, down):
    with pytest.raises(MixOfShowError):
        LowRank(torch.zeros(up), torch.zeros(down))


def test_layered_embedding_maps_layers_to_rows():
    embedding = LayeredEmbedding({"clip_l": torch.tensor([[1.0, 1.0], [3.0, 3.0]])}, (0, 1, 1))
    assert embedding.per_layer("clip_l").tolist() == [[1, 1], [3, 3], [3, 3]]
    assert embedding.mean("clip_l").tolist() == pytest.approx([7 / 3, 7 / 3])
    with pytest.raises(MixOfShowError, match="row 2"):
        LayeredEmbedding({"clip_l": torch.zeros(2, 4)}, (0, 2))


def test_content_hash_sees_tensors_words_and_names_but_not_training_facts():
    concept = make_concept()
    assert concept.content_hash == make_concept().content_hash
    assert concept.content_hash == replace(concept, training={"steps": 99}).content_hash
    changed = dict(concept.deltas)
    changed[SD15_Q] = LowRank(changed[SD15_Q].up + 1e-3, changed[SD15_Q].down, changed[SD15_Q].alpha)
    others = [replace(concept, deltas=changed), renamed(concept, "tara"), make_concept(seed=1)]
    assert len({concept.content_hash, *(other.content_hash for other in others)}) == 4


def test_names_and_words_are_checked():
    with pytest.raises(MixOfShowError, match="Concept name"):
        make_entry(name="1mara")
    with pytest.raises(MixOfShowError, match="must look like"):
        Word("mara", "")
    with pytest.raises(MixOfShowError, match="kind"):
        replace(make_entry(), kind="mood")
    with pytest.raises(MixOfShowError, match="both use"):
        check_unique_names([make_entry("mara"), replace(make_entry("mara"), id="other")], "LoadConcept")


def test_layer_names_are_checked():
    with pytest.raises(MixOfShowError, match="Layer .unet.to_q"):
        make_concept(deltas={"unet.to_q": LowRank(torch.ones(2, 1), torch.ones(1, 2))})


def test_roles_resolve_from_the_kind():
    assert ConceptUse(make_concept()).resolved_role == "concept"
    assert ConceptUse(make_concept(kind="style")).resolved_role == "style"
    assert ConceptUse(make_concept(), role="add-on").resolved_role == "add-on"
    with pytest.raises(MixOfShowError, match="Strength"):
        ConceptUse(make_concept(), strength=11.0)
