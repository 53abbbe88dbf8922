"""Learned words as rows of the encoded text, on nets whose text encoder is left as it is: Cosmos-Predict2."""

from dataclasses import replace

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from mos_pack.mixofshow_core.concept import CONTEXT, BaseInfo, Concept, ConceptUse
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats.export import export
from mos_pack.mixofshow_core.formats.native import read_concept
from mos_pack.nodes.bridge.host import layered, text
from mos_pack.nodes.bridge.host.fitting import check_fit
from mos_pack.nodes.bridge.placing.place import place
from mos_pack.nodes.bridge.training import run as training_run
from mos_pack.nodes.concepts import MixOfShowLoadConcept
from mos_pack.nodes.fuse import MixOfShowFuse
from mos_tests.host.builders import tiny_plan
from mos_tests.host.placing.test_routing import regions, sample
from mos_tests.host.training.test_train import (
    ask,
    clean_folders,  # noqa: F401  (autouse)
    gradients,
    opened,
    pictures,
    slope_along,
)

SIZE, LAYERS, WIDTH = 64, 3, 64
PROMPT = "a photo of zorbo, smiling"


@pytest.fixture
def base(tiny_cosmos, monkeypatch):
    monkeypatch.setattr(tiny_cosmos.model.model, "native_size", SIZE, raising=False)
    return tiny_cosmos


def run(base, name="zorbo", **changes):
    changes = {"steps": 3, "lr_embedding": 0.1, "lr_unet": 1e-2, "data": pictures(name)} | changes
    with torch.inference_mode():  # as the executor runs nodes
        return training_run.run_training(ask(base, **changes))


def use_of(result):
    (use,) = training_run.used_concepts(result)
    return use


def test_what_was_trained_is_what_place_reads_and_the_file_says_again(base):
    result = run(base)
    (entry,) = result.concept.entries
    assert [word.text for word in entry.words] == ["<zorbo-1>", "<zorbo-2>"]
    for embedding in entry.embeddings:
        assert set(embedding.rows) == {CONTEXT} and embedding.rows[CONTEXT].shape == (LAYERS, WIDTH)
        assert not torch.equal(*embedding.rows[CONTEXT][:2]), "layers learned rows of their own"
    assert {name.split(".")[0] for name in result.concept.deltas} == {"diffusion_model"}
    (use,), _ = MixOfShowLoadConcept.execute(f"mixofshow/{result.path.name}").result
    assert use.concept.content_hash == result.concept.content_hash
    clip = text.register_concepts(base.clip, [use])
    read = text.encode_layered(clip, PROMPT, LAYERS)
    tokens = clip.tokenize(PROMPT)
    plain = base.clip.encode_from_tokens({key: [[(int(t), w) for t, w in c] for c in cs] for key, cs in tokens.items()})
    noun = base.clip.tokenize("person")["t5xxl"][0][0][0]
    assert sum(token == noun for token, _ in tokens["t5xxl"][0]) == 2, "the encoder reads the class noun for each word"
    changed = (read.layers != plain).any(-1)
    assert changed.sum(1).tolist() == [2] * LAYERS, "two rows are the words', all others the host's own"
    first = int(changed[0].nonzero()[0])
    for layer in range(LAYERS):
        own = torch.stack([embedding.rows[CONTEXT][layer] for embedding in entry.embeddings])
        assert torch.equal(read.layers[layer, first : first + 2], own)
    assert torch.allclose(read.context, read.layers.mean(0), atol=1e-6)


def test_training_reads_what_sampling_reads(base):
    """The same texts, and through them the same answer of the net, of a run that has adapters, too."""
    with opened(base, preset="ED-LoRA") as (host, trainables, samples, settings), torch.no_grad():
        told = host.encode([PROMPT, ""], trainables.vectors())
        x, t = samples[0].latents[:1].float(), torch.tensor([500])
        trained = host.predict(x, t, told, torch.tensor([0]))
        learned = training_run.learned_concept(
            trainables, ask(base).plans, tuple(range(LAYERS)), BaseInfo("cosmos2"), {}
        )
        clip = text.register_concepts(base.clip, [ConceptUse(learned)])
        read = text.encode_layered(clip, PROMPT, LAYERS)
        assert torch.equal(told.layers[:, 0], read.layers)
        patched = layered.with_layers(host.patchers[0], read.layers)
        options = {
            "cond_or_uncond": [layered.POSITIVE],
            "wrappers": {WrappersMP.DIFFUSION_MODEL: patched.wrappers[WrappersMP.DIFFUSION_MODEL]},
        }
        moment = host.sampling.timestep(host.sigmas[t]).float()
        net = host.model.diffusion_model
        found = net(x.unsqueeze(2), moment, context=read.context, transformer_options=options).squeeze(2)
        plain = net(x.unsqueeze(2), moment, context=read.context, transformer_options={}).squeeze(2)
    assert torch.allclose(trained, found, atol=1e-5 * float(found.abs().max()))
    assert (plain - found).abs().max() > 1e-3 * found.abs().max(), "the layers matter"


@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_a_gradient_of_a_word_is_the_slope_of_the_loss(base, checkpointing):
    """Central differences along each layer's rows: a recomputed block must find its own layer's text again."""
    with opened(base, preset="ED-LoRA", batch=1, checkpointing=checkpointing) as now:
        named, grads = gradients(now)
        (name,) = (name for name in named if name.startswith("embeddings"))
        for layer in range(LAYERS):
            direction = torch.zeros_like(grads[name])
            direction[:, layer] = grads[name][:, layer]
            slope = float(direction.norm())
            assert slope > 0
            reach = 2e-2
            found = slope_along(now, named[name], direction / slope, reach)
            assert found == pytest.approx(slope, rel=0.05, abs=1e-6 / reach), layer


def test_who_is_not_named_changes_nothing(base):
    use = use_of(run(base, steps=1))
    clip = text.register_concepts(base.clip, [use])
    told = text.encode_layered(clip, "a street", LAYERS)
    assert told.layers is None
    assert torch.equal(told.context, base.clip.encode_from_tokens(base.clip.tokenize("a street")))
    model, positive, _ = place(base.model, clip, "a street", "")
    assert model is base.model and "model_conds" not in positive[0][1]


def test_a_weight_draws_a_word_towards_the_empty_text(base):
    clip = text.register_concepts(base.clip, [use_of(run(base, steps=1))])
    whole, half = (text.encode_layered(clip, f"a (zorbo:{w})", LAYERS).layers for w in (1.0, 0.5))
    empty = base.clip.encode_from_tokens(base.clip.tokenize(""))[0]
    own = (whole != whole[:1]).any(-1).any(0)
    assert own.sum() == 2
    torch.testing.assert_close(half[:, own], (whole[:, own] + empty[own]) / 2, rtol=0, atol=1e-5)


def test_fused_and_in_regions_every_text_has_its_own_words(base, monkeypatch):
    from mos_pack.nodes import fuse

    uses = tuple(use_of(run(base, name, seed=n)) for n, name in enumerate(("zorbo", "mimba")))
    monkeypatch.setattr(fuse, "preset", lambda name: tiny_plan())
    with torch.inference_mode():
        model, clip, *_ = MixOfShowFuse.execute(base.model, base.clip, uses, "exact", "quick").result
        whole = sample(place(model, clip, "zorbo", ""))
        everywhere = sample(place(model, clip, "mimba", "", regions({"prompt": "zorbo"})))
        other = sample(place(model, clip, "mimba", ""))
        routed = sample(place(base.model, base.clip, "a street", "", regions({"prompt": "zorbo"}), uses[:1]))
        (alone,) = uses[:1]
        patched = training_run.bridge_model.apply_deltas(base.model, None, alone.concept.deltas)[0]
        own = sample(place(patched, text.register_concepts(base.clip, [alone]), "zorbo", ""))
    assert (whole - other).abs().max() > 1e-3
    torch.testing.assert_close(everywhere, whole, rtol=0, atol=1e-4 * float(whole.abs().max()))
    torch.testing.assert_close(routed, own, rtol=0, atol=1e-4 * float(own.abs().max()))


def test_words_alone_and_one_row_for_all_layers(base):
    for preset, rows in (("P+", LAYERS), ("Textual Inversion", 1)):
        result = run(base, preset=preset, steps=2)
        (embedding,) = result.concept.entries[0].embeddings
        assert embedding.rows[CONTEXT].shape == (rows, WIDTH) and not result.concept.deltas
        read = text.encode_layered(text.register_concepts(base.clip, [use_of(result)]), PROMPT, LAYERS)
        assert (read.layers is None) == (rows == 1)
        result.path.unlink()


def test_other_dialects_say_that_the_words_stay_behind(base, tmp_path):
    concept = run(base, steps=1).concept
    kept = export(concept, "concept", tmp_path / "own")
    assert kept.lost == () and read_concept(kept.main).content_hash == concept.content_hash
    for kind in ("kohya", "stock"):
        done = export(concept, kind, tmp_path / kind)
        assert len(done.paths) == 1 and any("<zorbo-1>, <zorbo-2>" in text for text in done.lost)
    with pytest.raises(MixOfShowError, match="rows of an encoded text.*no embedding to write"):
        export(concept, "embedding", tmp_path / "word")


def test_anima_refuses_words_of_cosmos(base, tiny_anima):
    use = use_of(run(base, steps=1))
    with pytest.raises(MixOfShowError, match="rows of an encoded text, and MODEL .*adapter"):
        check_fit(tiny_anima.model, tiny_anima.clip, [use])
    with pytest.raises(MixOfShowError, match="rows of one encoder's text.*Anima"):
        text.encode_layered(text.register_concepts(tiny_anima.clip, [use]), "zorbo", LAYERS)


def test_what_cannot_be_is_named(base, tmp_path):
    for preset, what in (("ED-LoRA (reference)", "attention_weight"), ("Custom Diffusion", "detach_bos")):
        with pytest.raises(MixOfShowError, match=f"sets {what}, which Train does on UNets alone"):
            ask(base, preset=preset)
    use = use_of(run(base, steps=1))
    with pytest.raises(MixOfShowError, match="no such words"):
        export(use.concept, "ed-lora", tmp_path / "tree")
    with pytest.raises(MixOfShowError, match="64 wide"):
        entry = use.concept.entries[0]
        wide = replace(entry.embeddings[0], rows={CONTEXT: torch.zeros(LAYERS, 32)})
        concept = Concept((replace(entry, embeddings=(wide, wide)),), {}, use.concept.base)
        text.encode_layered(text.register_concepts(base.clip, [ConceptUse(concept)]), "zorbo", LAYERS)
