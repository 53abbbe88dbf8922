"""Inputs that people will bring: every one is used, or refused with a reason and a way out; never a raw exception."""

import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from mos_pack.mixofshow_core.concept import Concept, ConceptUse
from mos_pack.mixofshow_core.delta import Dense, LowRank
from mos_pack.mixofshow_core.errors import MixOfShowError
from mos_pack.mixofshow_core.fusion.settings import FusionSettings
from mos_pack.nodes.bridge.evaluating.evaluation import Comparison
from mos_pack.nodes.bridge.formats import exporting
from mos_pack.nodes.bridge.formats.foreign import read_with_host
from mos_pack.nodes.bridge.fusing.fusion import fuse_uses
from mos_pack.nodes.bridge.host.model import apply_deltas, describe_base
from mos_pack.nodes.bridge.host.text import encode_layered, register_concepts
from mos_pack.nodes.concepts import MixOfShowLoadConcept
from mos_pack.nodes.inspection import MixOfShowInspect
from mos_pack.nodes.place import MixOfShowPlace
from mos_tests.host.builders import make_concept, tiny_plan
from mos_tests.host.formats.test_load_concept import file_of
from mos_tests.host.placing.test_routing import gap, regions, sample
from mos_tests.host.runtime import ROOT, find_host
from safetensors.torch import save_file


@pytest.fixture(scope="module", autouse=True)
def folder():
    exporting.concept_folder().mkdir(parents=True, exist_ok=True)


@pytest.fixture(scope="module")
def eight_bits(tiny_sd15):
    """A concept whose factors are stored in 8 bits, as people shrink their LoRAs; torch can only store such numbers."""
    concept, eight = make_concept(tiny_sd15, "mara", 1), torch.float8_e4m3fn
    deltas = {
        name: LowRank(d.up.to(eight), d.down.to(eight), d.alpha) if n % 4 else Dense(d.dense().to(eight))
        for n, (name, d) in enumerate(concept.deltas.items())
    }
    return replace(concept, deltas=deltas)


def in_half(concept):
    deltas = {
        name: LowRank(d.up.half(), d.down.half(), d.alpha) if isinstance(d, LowRank) else Dense(d.diff.half())
        for name, d in concept.deltas.items()
    }
    return replace(concept, deltas=deltas)


def test_a_lora_of_8_bits_is_placed_at_any_strength(tiny_sd15, eight_bits):
    full = regions({"prompt": "mara"})
    pictures = [
        sample(
            MixOfShowPlace.one(
                tiny_sd15.model, tiny_sd15.clip, "a street", "", full, (ConceptUse(concept, 0.8, text_strength=0.5),)
            ).result
        )
        for concept in (eight_bits, in_half(eight_bits))
    ]
    assert gap(*pictures) < 1e-3


@pytest.mark.parametrize("method", ["sum", "average", "svd", "ties", "dare", "exact"])
def test_loras_of_8_bits_are_fused(method, tiny_sd15, eight_bits, tmp_path):
    uses = ConceptUse(eight_bits, 0.8), ConceptUse(make_concept(tiny_sd15, "tom", 2), 1.2)
    plan = tiny_plan(steps=1, prior_pictures=0)
    result = fuse_uses(tiny_sd15.model, tiny_sd15.clip, uses, method, plan, FusionSettings(), tmp_path)
    apply_deltas(tiny_sd15.model, tiny_sd15.clip, result.concept.deltas)


@pytest.mark.parametrize("kind", exporting.EXPORT_FORMATS)
def test_a_lora_of_8_bits_is_exported(kind, tiny_sd15, eight_bits):
    needs = kind in exporting.WHOLE_FORMATS or kind == "custom-diffusion"
    base = (tiny_sd15.model, tiny_sd15.clip, tiny_sd15.vae) if needs else ()
    exporting.export_concept(ConceptUse(eight_bits, 0.8), kind, "exact", f"eight {kind}", *base)


def test_a_lora_of_8_bits_is_loaded_inspected_and_compared(tiny_sd15, eight_bits):
    done = exporting.export_concept(ConceptUse(eight_bits), "kohya", "exact", "eight")
    uses, _ = MixOfShowLoadConcept.execute(f"mixofshow/{done.main.name}").result
    MixOfShowInspect.execute(f"mixofshow/{done.main.name}")
    Comparison(tiny_sd15.model, tiny_sd15.clip, tiny_sd15.vae, uses)
    named = {
        f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_{side}.weight": torch.ones(2, 2).to(
            torch.float8_e4m3fn
        )
        for side in "AB"
    }
    save_file(named, exporting.concept_folder() / "names.safetensors")
    read_with_host(exporting.concept_folder() / "names.safetensors")


def test_export_folds_both_strengths_in(tiny_sd15):
    concept = make_concept(tiny_sd15, "mara", 1)
    done = exporting.export_concept(ConceptUse(concept, 0.5, text_strength=2.0), "concept", "exact", "strengths")
    found = read_with_host(done.main).concept.deltas
    for name, delta in concept.deltas.items():
        strength = 2.0 if name.startswith("text_encoders") else 0.5
        assert torch.allclose(found[name].dense(), delta.dense() * strength, atol=1e-6), name


def test_a_torch_archive_with_the_suffix_of_safetensors_is_read_by_its_content(tiny_sd15):
    import folder_paths
    from mos_pack.nodes.bridge.host.files import list_concept_files

    folder = exporting.concept_folder()
    torch.save(file_of("kohya", tiny_sd15, "sd15"), folder / "archive.safetensors")
    torch.save({"<mara>": torch.randn(2, 64)}, folder / "words.safetensors")
    folder_paths.filename_list_cache.pop("loras", None)
    assert "mixofshow/archive.safetensors" in list_concept_files()
    for name in ("archive", "words"):
        uses, _ = MixOfShowLoadConcept.execute(f"mixofshow/{name}.safetensors").result
        assert uses[0].concept.deltas or uses[0].concept.entries
        MixOfShowInspect.execute(f"mixofshow/{name}.safetensors")
    exporting.export_concept(ConceptUse(make_concept(tiny_sd15, "mara", 1)), "concept", "exact", "archive")
    with pytest.raises(MixOfShowError, match=r"archive.safetensors.*complete safetensors"):
        from mos_pack.mixofshow_core.formats.checkpoint import CheckpointWeights

        CheckpointWeights(folder / "archive.safetensors")


def changed_clip(base, change):
    """A CLIP whose encoding another node has changed; all else is the host's."""
    clip = base.clip.clone()
    encode = clip.encode_from_tokens

    def encode_otherwise(tokens, return_pooled=False, return_dict=False):
        return change(encode(tokens, return_pooled=return_pooled, return_dict=return_dict))

    clip.encode_from_tokens = encode_otherwise
    return clip


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found | {"cond": found["cond"][:, :-1]},
        lambda found: found | {"cond": found["cond"][0]},
        lambda found: found | {"cond": torch.cat([found["cond"]] * 2)},
        lambda found: found | {"cond": None},
    ],
)
def test_texts_of_an_unknown_shape_are_refused(change, tiny_sd15):
    entries = make_concept(tiny_sd15, "mara", 1).entries
    clip = changed_clip(tiny_sd15, change)
    knowing = register_concepts(tiny_sd15.clip, [ConceptUse(Concept(entries, {}, describe_base(tiny_sd15.model)))])
    clip.tokenizer = knowing.tokenizer
    with pytest.raises(MixOfShowError, match="CLIP encodes the prompt as .* is needed. A node between the loader"):
        encode_layered(clip, "mara", 16)
    encode_layered(knowing, "mara", 16)  # the CLIP from before it


@pytest.fixture(scope="module")
def couple():
    spec = importlib.util.spec_from_file_location("mos_peers_too", ROOT / "benchmarks" / "cost" / "peers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.attention_couple


@pytest.mark.parametrize(("regions_of_others", "layered"), [(2, True), (3, False)])
def test_an_attention_couple_before_fuse_is_named_and_works_behind_it(
    regions_of_others, layered, tiny_sd15, couple, tmp_path
):
    masks = torch.ones(regions_of_others, 64, 64)
    texts = [torch.randn(1, 77, 64) for _ in range(regions_of_others - 1)]
    uses = [ConceptUse(make_concept(tiny_sd15, name, n, layered=layered)) for n, name in enumerate(("mara", "tom"))]
    plan = tiny_plan(steps=1, prior_pictures=0)
    before = couple(tiny_sd15.model, masks, texts)
    with pytest.raises(MixOfShowError, match=r"rows of MODEL's cross-attention.*attn2_patch \(mos_peers_too\).*behind"):
        fuse_uses(before, tiny_sd15.clip, uses, "exact", plan, FusionSettings(), tmp_path)
    result = fuse_uses(tiny_sd15.model, tiny_sd15.clip, uses, "exact", plan, FusionSettings(), tmp_path)
    model, clip = apply_deltas(tiny_sd15.model, tiny_sd15.clip, result.concept.deltas)
    clip = register_concepts(clip, [ConceptUse(result.concept)])
    sample(MixOfShowPlace.one(couple(model, masks, texts), clip, "a street", "").result)


def test_a_patch_that_breaks_sampling_before_fuse_is_named(tiny_sd15, tmp_path):
    model = tiny_sd15.model.clone()

    def breaks(n, context, value, options):
        return n, context[..., :-1], value

    model.set_model_attn2_patch(breaks)
    uses = [ConceptUse(make_concept(tiny_sd15, name, n, layered=False)) for n, name in enumerate(("mara", "tom"))]
    plan = tiny_plan(steps=1, prior_pictures=0)
    with pytest.raises(MixOfShowError, match=r"cannot sample with what other nodes put .*: attn2_patch \(.*behind"):
        fuse_uses(model, tiny_sd15.clip, uses, "exact", plan, FusionSettings(), tmp_path)


def cli(*arguments):
    done = subprocess.run([sys.executable, str(ROOT / "cli.py"), *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_comfyui_that_cannot_be_imported_is_named(tiny_sd15, tmp_path, command_line):
    save_file(file_of("kohya", tiny_sd15, "sd15"), tmp_path / "lora.safetensors")
    broken = tmp_path / "ComfyUI"
    (broken / "comfy").mkdir(parents=True)
    (broken / "comfy" / "options.py").write_text("def enable_args_parsing():\n    pass\n")
    (broken / "comfy" / "cli_args.py").write_text("")
    for text in ("import a_package_that_nobody_has\n", "raise RuntimeError('no driver')\n"):
        (broken / "comfy" / "lora.py").write_text(text)
        (broken / "comfy" / "sd.py").write_text(text)
        code, _, error = cli("inspect", tmp_path / "lora.safetensors", "--comfyui", broken)
        assert code == 2 and "cannot be imported" in error and "Traceback" not in error, error
        assert str(broken / "requirements.txt") in error
    code, out, error = command_line("inspect", tmp_path / "lora.safetensors", "--comfyui", find_host())
    assert code == 0 and "rank 2" in out, error


def test_the_command_line_says_what_is_not_used(tiny_sd15, tmp_path, command_line):
    """In `inspect` and in `convert`, with the share of the norm."""
    tensors = file_of("kohya", tiny_sd15, "sd15")
    tensors |= {
        key.replace("down_blocks_0", "down_blocks_9"): value.clone()
        for key, value in tensors.items()
        if "down_blocks_0_attentions_0" in key and "alpha" not in key
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    made = "--to", "concept", "--out", tmp_path / "made"
    for words in (("inspect", tmp_path / "lora.safetensors"), ("convert", tmp_path / "lora.safetensors", *made)):
        code, out, error = command_line(*words, "--comfyui", find_host())
        assert code == 0, error
        assert "keys are not used" in out and "% of the file's norm, the first: lora_unet_down_blocks_9" in out


def test_long_conversions_show_progress_and_can_be_cancelled(tiny_sd15):
    """Load Concept per layer read, Export per layer written."""
    import comfy.utils

    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: seen.append((value, total)))
    try:
        save_file(file_of("loha", tiny_sd15, "sd15"), exporting.concept_folder() / "long.safetensors")
        uses, _ = MixOfShowLoadConcept.execute("mixofshow/long.safetensors").result
        layers = len(uses[0].concept.deltas)
        assert seen[-1] == (layers, layers)
        for kind, base in (("kohya", ()), ("diffusers-pipeline", (tiny_sd15.model, tiny_sd15.clip))):
            seen.clear()
            exporting.export_concept(uses[0], kind, "2", f"long {kind}", *base)
            assert seen[-1][0] == seen[-1][1] > 20, kind
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
