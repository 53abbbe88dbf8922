"""One rule, several doors: Load Concept, Cast, Fuse, Place, Compare, Export, Train and cli.py refuse and accept alike.

And the advice of each refusal is taken.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mos_pack.mixofshow_core.concept import COMMUNITY, Concept, ConceptUse, Word
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.formats import read_any
from mos_pack.mixofshow_core.formats.native import write_concept
from mos_pack.mixofshow_core.training.settings import PRESETS
from mos_pack.nodes.bridge.evaluating.evaluation import Comparison
from mos_pack.nodes.bridge.formats import exporting
from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
from mos_pack.nodes.bridge.host.fitting import check_fit, check_pair
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_pack.nodes.bridge.training.run import prepare
from mos_pack.nodes.concepts import MixOfShowLoadConcept
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.builders import make_concept, tiny_plan
from mos_tests.host.tiny import tiny_model


@pytest.fixture(scope="module")
def v_sdxl(tiny_sdxl):
    """A v-predicting SDXL base."""
    return SimpleNamespace(model=tiny_model("sdxl", prediction="v"), clip=tiny_sdxl.clip, vae=tiny_sdxl.vae)


def load_from(file):
    def load(base, use):
        return MixOfShowLoadConcept.execute(file, model=base.model, clip=base.clip)

    return load


def doors(concept, tmp_path):
    """Every node that takes a concept and a base, as a function of both."""
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings
    from mos_pack.nodes.cast import MixOfShowCast

    write_concept(exporting.concept_folder() / "door.safetensors", concept)
    file, settings = "mixofshow/door.safetensors", FusionSettings()
    rows = f'{{"version": 1, "rows": [{{"file": "{file}"}}]}}'
    return {
        "Load Concept": load_from(file),
        "Cast": lambda base, use: MixOfShowCast.execute(rows, model=base.model, clip=base.clip),
        "Fuse": lambda base, use: fuse_uses(base.model, base.clip, (use,), "sum", tiny_plan(), settings, tmp_path),
        "Place": lambda base, use: MixOfShowPlace.one(base.model, base.clip, "mara", "", None, (use,)),
        "Compare": lambda base, use: Comparison(base.model, base.clip, base.vae, (use,)),
        "Export": lambda base, use: exporting.export_concept(use, "kohya", "exact", "door", base.model, base.clip),
    }


def everywhere(concept, base, tmp_path, message=None):
    for name, door in doors(concept, tmp_path).items():
        if message is None:
            door(base, ConceptUse(concept))
            continue
        with pytest.raises(MixOfShowError, match=message):
            door(base, ConceptUse(concept))
            pytest.fail(f"{name} takes it")


def test_a_lora_of_others_is_taken_on_a_v_predicting_base_by_every_node(tiny_sdxl, v_sdxl, tmp_path):
    concept = replace(make_concept(tiny_sdxl, "mara", 1), training={"source": COMMUNITY})
    everywhere(concept, v_sdxl, tmp_path)


def test_a_concept_of_ours_is_refused_there_by_every_node_and_the_advice_works(tiny_sdxl, v_sdxl, tmp_path):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    concept = make_concept(v_sdxl, "mara", 1)
    advice = r"predicts v, but MODEL predicts noise. .*put a ModelSamplingDiscrete node \(v_prediction\) before"
    everywhere(concept, tiny_sdxl, tmp_path, advice)
    (model,) = ModelSamplingDiscrete().patch(tiny_sdxl.model, "v_prediction", False)
    everywhere(concept, SimpleNamespace(model=model, clip=tiny_sdxl.clip, vae=tiny_sdxl.vae), tmp_path)
    everywhere(make_concept(tiny_sdxl, "mara", 1), v_sdxl, tmp_path, "predicts noise, but MODEL predicts v")


def test_another_family_is_refused_by_every_node(tiny_sd15, tiny_sdxl, tmp_path):
    concept = make_concept(tiny_sd15, "mara", 1)
    everywhere(concept, tiny_sdxl, tmp_path, "made for the sd-64 family, but MODEL is SDXL. Connect a checkpoint")
    everywhere(concept, tiny_sd15, tmp_path)


def test_layers_that_do_not_fit_are_refused_by_every_node(tiny_sd15, tmp_path):
    concept = make_concept(tiny_sd15, "mara", 1)
    name = next(name for name in concept.deltas if name.startswith("diffusion_model"))
    far = {**concept.deltas, name.replace("input_blocks.1", "input_blocks.7"): concept.deltas[name]}
    message = "does not fit MODEL and CLIP: Layer .* Connect the base it was made for"
    everywhere(replace(concept, deltas=far), tiny_sd15, tmp_path, message)


def test_model_and_clip_of_two_families_are_refused_by_every_node(tiny_sd15, tiny_sdxl, tmp_path):
    mixed = SimpleNamespace(model=tiny_sd15.model, clip=tiny_sdxl.clip, vae=tiny_sd15.vae)
    message = "reads texts 64 wide, but CLIP writes them 128 wide. Connect the CLIP that comes from the same loader"
    everywhere(make_concept(tiny_sd15, "mara", 1), mixed, tmp_path, message)
    with pytest.raises(MixOfShowError, match=message):
        MixOfShowPlace.one(mixed.model, mixed.clip, "a cat", "")  # without concepts, too
    with pytest.raises(MixOfShowError, match=message):
        prepare(mixed.model, mixed.clip, mixed.vae, None, None, "", 1, 0, "")
    check_pair(tiny_sd15.model, tiny_sd15.clip)
    check_pair(tiny_sdxl.model, tiny_sdxl.clip)


def test_training_on_an_inpainting_base_says_where_to_train_instead(tiny_sd15):
    """Nine channels: the latent, the mask and the masked picture."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    from mos_tests.host.tiny import unet_config

    config = comfy.supported_models.SD15({**unet_config("sd15"), "in_channels": 9})
    config.set_inference_dtype(torch.float32, None)
    net, cpu = comfy.model_base.BaseModel(config, device="cpu"), torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(net, load_device=cpu, offload_device=cpu)
    with pytest.raises(MixOfShowError, match="9 input channels where its latents have 4.*ordinary checkpoint"):
        prepare(model, tiny_sd15.clip, tiny_sd15.vae, None, PRESETS["ED-LoRA"], "", 1, 0, "")
    check_fit(model, tiny_sd15.clip, [ConceptUse(make_concept(tiny_sd15, "mara", 1))])  # "the concept fits both"


def of_new1(base, name, seed):
    """A concept as Custom Diffusion makes it: one word, <new1>."""
    concept = make_concept(base, name, seed, layered=False)
    entry = concept.entries[0]
    return replace(concept, entries=(replace(entry, words=(Word("<new1>"),), embeddings=entry.embeddings[:1]),))


@pytest.fixture
def two(tiny_sd15):
    return tuple(ConceptUse(of_new1(tiny_sd15, name, seed)) for seed, name in enumerate(("cat", "dog"), 1))


def test_two_files_that_learned_new1_are_two_concepts(tiny_sd15, two):
    clip = register_concepts(tiny_sd15.clip, two)
    alone = [encode_layered(register_concepts(tiny_sd15.clip, [use]), use.concept.name, 16).context for use in two]
    for use, wanted in zip(two, alone, strict=True):
        assert torch.equal(encode_layered(clip, f"a {use.concept.name}"[2:], 16).context, wanted)
    assert not torch.equal(*alone)
    with pytest.raises(MixOfShowError, match="has the word <new1>, which cat and dog have learned; write"):
        encode_layered(clip, "a <new1>", 16)
    encode_layered(clip, "a cat", 16)  # the advice


def test_their_fusion_holds_two_words_in_every_format(tiny_sd15, two, tmp_path):
    from mos_pack.mixofshow_core.fusion.settings import FusionSettings

    fused = fuse_uses(tiny_sd15.model, tiny_sd15.clip, two, "sum", tiny_plan(), FusionSettings(size="exact"), tmp_path)
    words = {word.text for entry in fused.concept.entries for word in entry.words}
    assert len(words) == 2 and "<new1>" in words
    assert any("the word <new1> of" in note for note in fused.notes)
    by_name = {use.concept.name: use.concept.entries[0].embeddings[0].rows["clip_l"] for use in two}
    for entry in fused.concept.entries:
        assert torch.equal(entry.embeddings[0].rows["clip_l"], by_name[entry.name])
    for kind in ("ed-lora", "custom-diffusion-compressed"):
        done = exporting.export_concept(ConceptUse(fused.concept), kind, "exact", f"two {kind}")
        assert len(read_any(done.main).concept.entries) == 2, kind


def test_a_name_that_clip_knows_already_is_renamed_on_loading(tiny_sd15):
    """Place behind Fuse, with another mara at `concepts`."""
    first, second = (ConceptUse(make_concept(tiny_sd15, "mara", seed)) for seed in (1, 2))
    second = replace(second, concept=replace(second.concept, entries=(replace(second.concept.entries[0], id="b"),)))
    clip = register_concepts(tiny_sd15.clip, [first])
    with pytest.raises(MixOfShowError, match="CLIP knows a concept 'mara' already.*`name` field"):
        register_concepts(clip, [second])
    write_concept(exporting.concept_folder() / "second.safetensors", second.concept)
    uses, _ = MixOfShowLoadConcept.execute("mixofshow/second.safetensors", name="mara-b").result
    both = register_concepts(clip, uses)
    assert not torch.equal(*(encode_layered(both, name, 16).context for name in ("mara", "mara-b")))


def test_one_of_several_is_renamed_on_loading_and_both_act(tiny_sd15, tmp_path):
    """Two fused files that share a concept: the very same entry, under two names."""
    shared = make_concept(tiny_sd15, "mara", 1).entries[0]
    info = make_concept(tiny_sd15, "x", 1).base
    files = {}
    for seed, other in enumerate(("tom", "ann"), 2):
        concept = make_concept(tiny_sd15, other, seed)
        files[other] = Concept((shared, *concept.entries), concept.deltas, info)
        write_concept(exporting.concept_folder() / f"with-{other}.safetensors", files[other])
    uses, _ = MixOfShowLoadConcept.execute("mixofshow/with-tom.safetensors").result
    with pytest.raises(MixOfShowError, match="both use 'mara'.*one of several: old=new"):
        MixOfShowLoadConcept.execute("mixofshow/with-ann.safetensors", concepts=uses)
    both, _ = MixOfShowLoadConcept.execute("mixofshow/with-ann.safetensors", name="mara=mia", concepts=uses).result
    clip = register_concepts(tiny_sd15.clip, both)
    assert torch.equal(encode_layered(clip, "mia", 16).context, encode_layered(clip, "mara", 16).context)
    assert Path(both[1].path).name == "with-ann.safetensors"
