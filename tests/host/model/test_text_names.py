"""Names of any script through the host's own tokenizer, and the 77-token border that parts no concept's words."""

import pytest
import torch
from mos_pack.mixofshow_core.concept import Concept, ConceptEntry, ConceptUse, Word
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.native import read_concept, write_concept
from mos_pack.nodes.bridge.host import text
from mos_pack.nodes.bridge.host.files import concept_save_path, safe_name
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.model.test_text import use, widths_of
from mos_tests.unit.builders import make_concept

MISAKI, MEENA, ZOE = "\u7f8e\u54b2", "\u092e\u0940\u0928\u093e", "Zo\u00eb"


@pytest.fixture
def base(tiny_sd15):
    return tiny_sd15


def named(clip, name, words=2, seed=0):
    entry = make_concept("mara", seed=seed, layers=16, widths=widths_of(clip)).entries[0]
    texts = tuple(Word(f"<{name}-{n + 1}>") for n in range(words))
    embeddings = tuple((entry.embeddings * words)[:words])
    return ConceptUse(Concept((ConceptEntry("id", name, words=texts, embeddings=embeddings),), {}, base_info()))


def base_info():
    from mos_pack.mixofshow_core.concept import BaseInfo

    return BaseInfo("sd-64", None, 16)


@pytest.mark.parametrize("name", [MISAKI, MEENA, ZOE, "\u0410\u043d\u043d\u0430", "\ubbfc\uc9c0", "\u0647\u062f\u0649"])
def test_a_name_of_any_script_is_its_words(base, name, tmp_path):
    """The same rows as under a Latin name: in prompts, by its words, folded, in <>, and after a file."""
    wanted = text.encode_layered(text.register_concepts(base.clip, [named(base.clip, "mara")]), "a mara, x", 16)
    path = tmp_path / f"{safe_name(name)}.safetensors"
    write_concept(path, named(base.clip, name).concept)
    clip = text.register_concepts(base.clip, [ConceptUse(read_concept(path))])
    for call in (name, name.upper(), f"<{name}>", f"\uff1c{name}\uff1e", f"<{name}-1> <{name}-2>"):
        found = text.encode_layered(clip, f"a {call}, x", 16)
        assert found.layers is not None and torch.equal(found.layers, wanted.layers), call
    with pytest.raises(MixOfShowError, match="not known here"):
        text.encode_layered(clip, f"a <{name}x>", 16)


def test_two_names_that_differ_in_letters_outside_ascii_only(base):
    concepts = [named(base.clip, "\u7f8e\u54b2", seed=1), named(base.clip, "\u7f8e\u4e09", seed=2)]
    concepts[1] = ConceptUse(
        Concept(
            (
                concepts[1]
                .concept.entries[0]
                .__class__(
                    "other",
                    "\u7f8e\u4e09",
                    words=concepts[1].concept.entries[0].words,
                    embeddings=concepts[1].concept.entries[0].embeddings,
                ),
            ),
            {},
            base_info(),
        )
    )
    clip = text.register_concepts(base.clip, concepts)
    both = [text.encode_layered(clip, f"a {name}", 16).layers for name in ("\u7f8e\u54b2", "\u7f8e\u4e09")]
    assert not torch.equal(*both)


@pytest.mark.parametrize("before", range(70, 77))
def test_the_border_parts_no_words_of_one_concept(base, before):
    clip = text.register_concepts(base.clip, [use(base.clip)])
    kinds = text.token_kinds(clip, "red " * before + "mara")["clip_l"].view(-1, 77)
    counts = (kinds == text.CONCEPT).sum(1).tolist()
    assert sorted(counts)[-1] == 2 == sum(counts), f"{before} words before: {counts}"


@pytest.mark.parametrize("words", [9, 40, 75, 90])
def test_many_words_stay_together_while_a_section_holds_them(base, words):
    clip = text.register_concepts(base.clip, [named(base.clip, "many", words)])
    kinds = text.token_kinds(clip, "red " * 30 + "many, blue")["clip_l"].view(-1, 77)
    counts = [count for count in (kinds == text.CONCEPT).sum(1).tolist() if count]
    assert sum(counts) == words and (len(counts) == 1) == (words <= 75), counts


def test_place_knows_the_name_in_every_form(base):
    from mos_tests.host.placing.test_place import regions

    clip = text.register_concepts(base.clip, [named(base.clip, ZOE)])
    for concept in ("zoe\u0308", "\uff3a\uff2f\u00cb", "<Zo\u00eb>"):
        MixOfShowPlace.one(base.model, clip, "a street", "", regions({"prompt": "a hat", "concept": concept}))
    with pytest.raises(MixOfShowError, match="does not know"):
        MixOfShowPlace.one(base.model, clip, "a street", "", regions({"prompt": "a hat", "concept": "zoe"}))


def test_files_of_such_names_fit_every_file_system():
    long = "\u7f8e" * 64
    assert len(safe_name(long).encode()) <= 80 and safe_name(MEENA) == MEENA
    path = concept_save_path(long)
    path.write_bytes(b"x")
    try:
        assert concept_save_path(long).name.endswith("-2.safetensors")
    finally:
        path.unlink()
