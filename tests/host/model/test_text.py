"""Concept words in the host's own tokenizer and encoder."""

import pytest
import torch
from mos_pack.mixofshow_core.concept import ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.nodes.bridge.host import text
from mos_tests.unit.builders import make_concept


def widths_of(clip):
    return {
        name: module.transformer.get_input_embeddings().weight.shape[1]
        for name, module in (
            ("clip_l", getattr(clip.cond_stage_model, "clip_l", None)),
            ("clip_g", getattr(clip.cond_stage_model, "clip_g", None)),
        )
        if module is not None
    }


def use(clip, name="mara", layers=16, seed=0):
    return ConceptUse(make_concept(name, seed=seed, layers=layers, widths=widths_of(clip)))


@pytest.fixture(params=["sd15", "sdxl"])
def base(request):
    return request.getfixturevalue(f"tiny_{request.param}")


def test_each_layer_equals_its_own_encoding(base):
    concept = use(base.clip)
    clip = text.register_concepts(base.clip, [concept])
    prompt = "a photo of (mara:1.3), smiling"
    encoded = text.encode_layered(clip, prompt, 16)
    assert encoded.layers.shape == (16, *encoded.context.shape[1:])
    tokens = clip.tokenize(prompt)
    for layer in (0, 7, 15):
        single = {
            key: [
                [
                    (
                        {"type": "embedding", "data": token[0]["rows"][layer]}
                        if isinstance(token[0], dict)
                        else token[0],
                        token[1],
                    )
                    for token in chunk
                ]
                for chunk in chunks
            ]
            for key, chunks in tokens.items()
        }
        alone = clip.encode_from_tokens(single, return_dict=True)["cond"]
        assert torch.allclose(encoded.layers[layer], alone[0], atol=1e-5)
    stock = clip.encode_from_tokens(tokens, return_dict=True)
    assert torch.allclose(encoded.context, stock["cond"], atol=1e-5)
    assert torch.allclose(encoded.extras["pooled_output"], stock["pooled_output"], atol=1e-5)


def test_plain_name_bracketed_name_and_words_are_one_thing(base):
    clip = text.register_concepts(base.clip, [use(base.clip)])
    prompts = (
        "a photo of mara, smiling",
        "a photo of <mara> , smiling",
        "a photo of <mara-1> <mara-2>, smiling",
        "a photo of Mara, smiling",
    )
    first, *others = [text.encode_layered(clip, prompt, 16).layers for prompt in prompts]
    assert all(torch.equal(first, other) for other in others)
    plain = text.encode_layered(base.clip, prompts[0], 16)
    assert plain.layers is None
    assert not torch.equal(plain.context[0], first[0])


def test_a_prompt_without_concepts_is_the_stock_encoding(base):
    clip = text.register_concepts(base.clip, [use(base.clip)])
    prompt = "a marathon in (red:1.2) shoes"
    encoded = text.encode_layered(clip, prompt, 16)
    assert encoded.layers is None
    assert torch.equal(encoded.context, base.clip.encode_from_tokens(base.clip.tokenize(prompt)))


def test_two_registrations_add_up_and_leave_the_first_clip_alone(base):
    one = text.register_concepts(base.clip, [use(base.clip)])
    two = text.register_concepts(one, [use(base.clip), use(base.clip, "finn", seed=3)])
    assert text.concept_names(base.clip) == ()
    assert text.concept_names(one) == ("mara",)
    assert text.concept_names(two) == ("mara", "finn")
    assert text.concept_names(two.clone()) == ("mara", "finn")
    assert text.encode_layered(two, "mara and finn", 16).layers is not None


def test_longest_name_wins(base):
    clip = text.register_concepts(base.clip, [use(base.clip, "mara"), use(base.clip, "mara-lynn", seed=4)])
    kinds = text.token_kinds(clip, "mara-lynn")["clip_l"]
    alone = text.register_concepts(base.clip, [use(base.clip, "mara-lynn", seed=4)])
    assert torch.equal(
        text.encode_layered(clip, "mara-lynn", 16).layers, text.encode_layered(alone, "mara-lynn", 16).layers
    )
    assert int((kinds == text.CONCEPT).sum()) == 2


def test_long_prompts_keep_one_length_per_layer(base):
    clip = text.register_concepts(base.clip, [use(base.clip)])
    encoded = text.encode_layered(clip, "red " * 100 + "mara", 16)
    assert encoded.layers.shape[:2] == (16, 154)


def test_token_kinds(base):
    clip = text.register_concepts(base.clip, [use(base.clip)])
    kinds = text.token_kinds(clip, "a photo of mara")
    assert set(kinds) == set(widths_of(base.clip))
    for (row,) in kinds.values():
        assert row.tolist()[:7] == [text.BOS, text.TEXT, text.TEXT, text.TEXT, text.CONCEPT, text.CONCEPT, text.EOS_PAD]
        assert set(row.tolist()[7:]) == {text.EOS_PAD}


def test_unknown_and_mismatched_concepts_are_errors(base):
    clip = text.register_concepts(base.clip, [use(base.clip)])
    with pytest.raises(MixOfShowError, match="<nobody>.*Known: mara"):
        text.encode_layered(clip, "<nobody> and mara", 16)
    with pytest.raises(MixOfShowError, match="16 cross-attention layers; MODEL has 70"):
        text.encode_layered(clip, "mara", 70)
    with pytest.raises(MixOfShowError, match="characters"):
        text.encode_layered(clip, "x" * 30_000, 16)


def test_a_concept_without_rows_for_an_encoder_is_an_error(tiny_sdxl):
    wrong = ConceptUse(make_concept(layers=70, widths={"clip_l": widths_of(tiny_sdxl.clip)["clip_l"]}))
    clip = text.register_concepts(tiny_sdxl.clip, [wrong])
    with pytest.raises(MixOfShowError, match="for clip_l only, and CLIP reads texts with clip_g"):
        text.encode_layered(clip, "mara", 70)


@pytest.mark.parametrize(
    ("prompt", "says"), [("mara, embedding: hat", "without a file's name"), ("mara, a \ud83d hat", "half a character")]
)
def test_what_the_host_would_stop_at_is_said_in_words(tiny_sd15, prompt, says):
    for clip in (tiny_sd15.clip, text.register_concepts(tiny_sd15.clip, [use(tiny_sd15.clip)])):
        with pytest.raises(MixOfShowError, match=f"The prompt h.*{says}"):
            text.encode_layered(clip, prompt, 16)
