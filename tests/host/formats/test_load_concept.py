"""Load Concept: native files and community LoRAs in several dialects, against the host's own loader; and mistakes."""

import json
from pathlib import Path

import pytest
import torch
from mos_tests.host.builders import make_concept
from safetensors.torch import save_file

RANK = 2


def community_names(base, family):
    """The host's own LoRA names for a tiny base: weight key -> (kohya name, diffusers name)."""
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(base.model.model, {})
    keys = comfy.lora.model_lora_keys_clip(base.clip.cond_stage_model, keys)
    names = {}
    for name, key in keys.items():
        kohya, diffusers = names.setdefault(key, ["", ""])
        text = "lora_te1_" if family == "sdxl" and "clip_l" in key else "lora_te2_" if "clip_g" in key else "lora_te_"
        if name.startswith(("lora_unet_down", "lora_unet_mid", "lora_unet_up", text)):
            names[key][0] = name
        if name.startswith(("unet.", "text_encoder.", "text_encoder_2.")):
            names[key][1] = name
    return {key: tuple(pair) for key, pair in names.items() if all(pair)}


def targets(names, *ends):
    return [key for key in names if key.removesuffix(".weight").endswith(ends)]


def weight_of(base, key):
    import comfy.utils

    root = base.model.model if key.startswith("diffusion_model.") else base.clip.cond_stage_model
    return comfy.utils.get_attr(root, key)


def file_of(dialect, base, family):
    """A random LoRA on attention (and 1x1 or 3x3 convolutions where the dialect has them) of a tiny base."""
    generator = torch.Generator().manual_seed(7)

    def noise(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    names, tensors = community_names(base, family), {}
    ends = ["attn2.to_k", "attn1.to_q", "attn2.to_out.0", "self_attn.q_proj"]
    if dialect == "kohya":
        ends += ["proj_in", "in_layers.2", "ff.net.2"]
    for key in targets(names, *ends):
        weight, (kohya, diffusers) = weight_of(base, key), names[key]
        out, width, kernel = weight.shape[0], weight.shape[1], tuple(weight.shape[2:])
        if dialect == "kohya":
            tensors[f"{kohya}.lora_up.weight"] = noise(out, RANK, *(1 for _ in kernel))
            tensors[f"{kohya}.lora_down.weight"] = noise(RANK, width, *kernel)
            tensors[f"{kohya}.alpha"] = torch.tensor(1.0)
        elif dialect == "peft":
            tensors[f"{diffusers}.lora_B.weight"] = noise(out, RANK)
            tensors[f"{diffusers}.lora_A.weight"] = noise(RANK, width)
        elif dialect == "loha":
            for n in (1, 2):
                tensors[f"{kohya}.hada_w{n}_a"] = noise(out, RANK)
                tensors[f"{kohya}.hada_w{n}_b"] = noise(RANK, width)
            tensors[f"{kohya}.alpha"] = torch.tensor(1.0)
        elif dialect == "lokr":
            tensors[f"{kohya}.lokr_w1"] = noise(4, 4)
            tensors[f"{kohya}.lokr_w2"] = noise(out // 4, width // 4)
    assert len(tensors) > 20
    return tensors


def community_parts(dialect, out, width, noise):
    """One layer in LyCORIS' names: what depends on the base's weights, and Tucker forms of 3x3 layers."""
    if dialect == "oft":
        return {"oft_blocks": noise(out // 8, 8, 8), "alpha": torch.tensor(0.0)}
    if dialect == "boft":
        return {"oft_blocks": noise(2, out // 8, 8, 8), "alpha": torch.tensor(0.0)}
    if dialect == "glora":
        return {
            "a1.weight": noise(width, RANK),
            "a2.weight": noise(RANK, width),
            "b1.weight": noise(out, RANK),
            "b2.weight": noise(RANK, width),
        }
    core = noise(RANK, RANK, 3, 3)
    if dialect == "tucker-locon":
        return {
            "lora_up.weight": noise(out, RANK, 1, 1),
            "lora_down.weight": noise(RANK, width, 1, 1),
            "lora_mid.weight": core,
        }
    if dialect == "tucker-lokr":
        return {
            "lokr_w1": noise(4, 4),
            "lokr_w2_a": noise(RANK, out // 4),
            "lokr_w2_b": noise(RANK, width // 4),
            "lokr_t2": core,
        }
    return {
        "hada_w1_a": noise(RANK, out),
        "hada_w1_b": noise(RANK, width),
        "hada_t1": core,
        "hada_w2_a": noise(RANK, out),
        "hada_w2_b": noise(RANK, width),
        "hada_t2": core + 0.1,
    }


def community_file(dialect, base, family):
    """A LyCORIS file, or a kohya file with DoRA's magnitudes per output or per input."""
    generator = torch.Generator().manual_seed(8)

    def noise(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    names, tensors = community_names(base, family), {}
    if dialect.startswith("dora"):
        tensors = file_of("kohya", base, family)
        for key in [key for key in names if f"{names[key][0]}.lora_up.weight" in tensors]:
            weight = weight_of(base, key)
            out, width, *kernel = weight.shape
            shape = [1, width] if dialect == "dora-in" else [out, 1]
            tensors[f"{names[key][0]}.dora_scale"] = 1 + noise(*shape, *[1] * len(kernel)).abs()
        return tensors
    ends = ["in_layers.2"] if dialect.startswith("tucker") else ["attn2.to_k", "attn1.to_q", "self_attn.q_proj"]
    for key in targets(names, *ends):
        parts = community_parts(dialect, *weight_of(base, key).shape[:2], noise)
        tensors |= {f"{names[key][0]}.{name}": value for name, value in parts.items()}
    return tensors


SIMPLE = ("kohya", "peft", "loha", "lokr")
TUCKER = ("tucker-locon", "tucker-loha")
ON_BASE = ("dora", "dora-in", "oft", "boft", "glora")


def compare_with_the_stock_loader(path, base, found, strength):
    import comfy.sd
    import comfy.utils
    from mos_pack.nodes.bridge.host.model import apply_deltas, effective_weights, patch_key

    lora = comfy.utils.load_torch_file(str(path))
    stock = comfy.sd.load_lora_for_models(base.model, base.clip, lora, strength, strength)
    ours = apply_deltas(base.model, base.clip, found.concept.deltas, strength)
    stock_keys = {*stock[0].patches, *stock[1].patcher.patches}
    assert {patch_key(name) for name in found.concept.deltas} == stock_keys
    seen = 0
    for n, (a, b) in enumerate(zip(stock, ours, strict=True)):
        a, b = (a, b) if n == 0 else (a.patcher, b.patcher)
        names = [name for name in found.concept.deltas if patch_key(name) in a.patches]
        wanted, got = effective_weights(a, names), effective_weights(b, names)
        assert all(torch.allclose(wanted[k], got[k], atol=1e-5) for k in names)
        seen += len(names)
    assert seen == len(stock_keys) > 15


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("dialect", [*SIMPLE, *TUCKER])
def test_dialects_equal_the_stock_loader(dialect, family, request, tmp_path):
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    base = request.getfixturevalue(f"tiny_{family}")
    path = tmp_path / "lora.safetensors"
    save_file((file_of if dialect in SIMPLE else community_file)(dialect, base, family), path)
    found = read_with_host(path)
    assert not found.skipped and [entry.words for entry in found.concept.entries] == [()]
    compare_with_the_stock_loader(path, base, found, 0.7)


@pytest.mark.parametrize("dialect", ON_BASE)
def test_changes_that_depend_on_the_base_need_it_and_equal_the_stock_loader(dialect, tiny_sd15, tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.bridge.formats.exporting import LiveWeights
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    path = tmp_path / "lora.safetensors"
    save_file(community_file(dialect, tiny_sd15, "sd15"), path)
    with pytest.raises(MixOfShowError, match=r"lora.safetensors: 'lora_.* depends on the base's weight.*Connect"):
        read_with_host(path)
    found = read_with_host(path, base=LiveWeights(tiny_sd15.model, tiny_sd15.clip))
    assert not found.skipped
    # The host multiplies OFT's and BOFT's strength in twice, so only strength 1 means the same to everyone.
    compare_with_the_stock_loader(path, tiny_sd15, found, 1.0 if "oft" in dialect else 0.7)


@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("whole", [True, False])
def test_lokr_with_a_tucker_core_is_read_though_the_host_stops_at_it(alpha, whole, tiny_sd15, tmp_path):
    """The host logs an error and adds nothing; LyCORIS' formula is w1 (x) (t2 x1 w2_a x2 w2_b) alpha / rank."""
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    tensors = community_file("tucker-lokr", tiny_sd15, "sd15")
    if not whole:  # the first factor as a product as well
        for key in [key for key in tensors if key.endswith("lokr_w1")]:
            tensors |= {f"{key}_a": torch.randn(4, RANK), f"{key}_b": torch.randn(RANK, 4)}
            del tensors[key]
    names = {key.partition(".")[0] for key in tensors}
    tensors |= {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha) for name in names}
    save_file(tensors, tmp_path / "lora.safetensors")
    found = read_with_host(tmp_path / "lora.safetensors")
    assert len(found.concept.deltas) == len(names) and not found.skipped
    part = {key.rpartition(".")[2]: value for key, value in tensors.items() if "down_blocks_0_resnets_0" in key}
    w1 = part["lokr_w1"] if whole else part["lokr_w1_a"] @ part["lokr_w1_b"]
    core = torch.einsum("ijkl,ip,jr->prkl", part["lokr_t2"], part["lokr_w2_a"], part["lokr_w2_b"])
    diff = torch.einsum("ab,cdkl->acbdkl", w1, core).reshape(32, 32, 3, 3) * ((alpha or RANK) / RANK)
    read = found.concept.deltas["diffusion_model.input_blocks.1.0.in_layers.2"]
    assert torch.allclose(read.diff, diff, atol=1e-5)


def test_a_factor_pair_that_does_not_fit_its_layer_is_refused(tiny_sd15, tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.bridge.formats.exporting import LiveWeights
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    tensors = file_of("lokr", tiny_sd15, "sd15")
    key = next(key for key in tensors if key.endswith("lokr_w2"))
    zero = {**tensors, key: torch.zeros_like(tensors[key])}
    save_file(zero, tmp_path / "zero.safetensors")  # a layer that learned nothing is no error
    assert not read_with_host(tmp_path / "zero.safetensors", base=LiveWeights(tiny_sd15.model, tiny_sd15.clip)).skipped
    save_file({**tensors, key: tensors[key][:, :-1].clone()}, tmp_path / "odd.safetensors")
    with pytest.raises(MixOfShowError, match="odd.safetensors: 'lora_.*does not fit the layer"):
        read_with_host(tmp_path / "odd.safetensors", base=LiveWeights(tiny_sd15.model, tiny_sd15.clip))


def test_peft_dora_is_refused_because_the_host_would_drop_it(tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {
            f"{name}.lora_A.weight": torch.ones(2, 768),
            f"{name}.lora_B.weight": torch.ones(320, 2),
            f"{name}.lora_magnitude_vector": torch.ones(320),
        },
        tmp_path / "dora.safetensors",
    )
    with pytest.raises(MixOfShowError, match="lora_magnitude_vector.*PEFT"):
        read_with_host(tmp_path / "dora.safetensors")


def test_a_connected_base_of_another_shape_reads_its_own_names(tmp_path):
    """The lean small base has two levels, so kohya's down_blocks_1 is another layer there than in SD1.5."""
    from types import SimpleNamespace

    from comfy.model_patcher import ModelPatcher
    from mos_pack.mixofshow_core.families.unet import unet_layout
    from mos_pack.mixofshow_core.formats.export import export
    from mos_pack.nodes.bridge.demo import small_base
    from mos_pack.nodes.bridge.formats.exporting import LiveWeights
    from mos_pack.nodes.bridge.formats.foreign import read_with_host
    from mos_pack.nodes.bridge.host.model import net_of

    cpu, clip, model = torch.device("cpu"), small_base.build_clip(), small_base.build_unet()
    base = SimpleNamespace(model=ModelPatcher(model, load_device=cpu, offload_device=cpu), clip=clip)
    concept = make_concept(base, "mara", 3)
    done = export(concept, "kohya", tmp_path / "mara", layout=unet_layout(net_of(base.model)))
    found = read_with_host(done.main, base=LiveWeights(base.model, base.clip))
    assert found.concept.deltas.keys() == concept.deltas.keys() and not found.skipped
    found = read_with_host(done.main, base=LiveWeights(base.model))
    assert found.concept.deltas.keys() == concept.deltas.keys()


def test_family_comes_from_the_width_of_cross_attention(tmp_path):
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    for width, family in ((768, "sd15"), (2048, "sdxl"), (1024, "unknown")):
        name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
        path, parts = tmp_path / f"{width}.safetensors", {"up": torch.ones(640, 2), "down": torch.ones(2, width)}
        save_file({f"{name}.lora_{part}.weight": value for part, value in parts.items()}, path)
        assert read_with_host(path).concept.base.family == family


def bad_file(kind, base, path: Path):
    from mos_pack.mixofshow_core.formats.native import write_concept

    concept = make_concept(base, "mara", 1)
    if kind == "truncated":
        write_concept(path, concept)
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "non-finite":
        tensors = file_of("kohya", base, "sd15")
        next(iter(tensors.values())).fill_(float("inf"))
        save_file(tensors, path)
    elif kind == "no key":
        save_file({"some.unknown.key": torch.ones(2, 2), "other": torch.ones(1)}, path)
    elif kind == "half":
        tensors = file_of("kohya", base, "sd15")
        del tensors[next(key for key in tensors if key.endswith("lora_down.weight"))]
        save_file(tensors, path)
    elif kind == "dora":
        tensors = file_of("kohya", base, "sd15")
        tensors |= {k.replace(".alpha", ".dora_scale"): torch.ones(4) for k in tensors if k.endswith("alpha")}
        save_file(tensors, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "not a complete"),
        ("non-finite", "NaN or infinity"),
        ("no key", "some.unknown.key"),
        ("dora", "is a DoRA: its change depends on the base"),
        ("half", "parser stops at .*lora_down.weight"),
    ],
)
def test_bad_files_are_named(kind, message, tiny_sd15, tmp_path):
    from mos_pack.mixofshow_core.errors import MixOfShowError
    from mos_pack.nodes.bridge.formats.foreign import read_with_host

    path = tmp_path / "broken-file.safetensors"
    bad_file(kind, tiny_sd15, path)
    with pytest.raises(MixOfShowError, match=message) as caught:
        read_with_host(path)
    assert "broken-file" in str(caught.value)


@pytest.fixture
def loras(tiny_sd15):
    """Two native files and one community file in the real loras folder."""
    import folder_paths
    from mos_pack.mixofshow_core.formats.native import write_concept

    folder = Path(folder_paths.get_folder_paths("loras")[0])
    for name in ("mara", "finn"):
        write_concept(folder / "mixofshow" / f"{name}.safetensors", make_concept(tiny_sd15, name, len(name)))
    tags = {"ss_tag_frequency": json.dumps({"10_ohwx": {"ohwx man": 10, "smile": 3}})}
    save_file(file_of("kohya", tiny_sd15, "sd15"), folder / "community.safetensors", metadata=tags)
    return folder


def load(file, **facts):
    from mos_pack.nodes.concepts import MixOfShowLoadConcept

    defaults = {"trigger": "", "name": "", "strength": 1.0, "role": "auto"}
    return MixOfShowLoadConcept.execute(file, **(defaults | facts)).result


def test_chain_rename_roles_and_cards(loras):
    first, card = load("mixofshow/mara.safetensors", strength=0.8)
    assert "type `mara` in prompts" in card and "<mara-1> <mara-2>" in card
    both, _ = load("mixofshow/finn.safetensors", name="bob", concepts=first)
    assert [use.concept.name for use in both] == ["mara", "bob"] and both[0].strength == 0.8
    assert [word.text for word in both[1].concept.entries[0].words] == ["<finn-1>", "<finn-2>"]
    silent, card = load("community.safetensors")
    assert silent[0].resolved_role == "add-on" and "ohwx man, smile" in card
    spoken, card = load("community.safetensors", trigger="ohwx man")
    assert spoken[0].resolved_role == "concept" and spoken[0].label == "community"
    assert spoken[0].concept.entries[0].trigger == "ohwx man" and "stands for 'ohwx man' (trigger, from typed)" in card


def test_name_collisions_and_doubles_are_errors(loras):
    from mos_pack.mixofshow_core.errors import MixOfShowError

    first, _ = load("mixofshow/mara.safetensors")
    with pytest.raises(MixOfShowError, match="listed twice"):
        load("mixofshow/mara.safetensors", concepts=first)
    with pytest.raises(MixOfShowError, match=r"mara\.safetensors and mixofshow/finn\.safetensors .*`name` field"):
        load("mixofshow/finn.safetensors", name="mara", concepts=first)


def test_missing_file_names_the_folder(loras):
    from mos_pack.nodes.concepts import MixOfShowLoadConcept

    assert MixOfShowLoadConcept.validate_inputs("mixofshow/mara.safetensors") is True
    message = MixOfShowLoadConcept.validate_inputs("mixofshow/nobody.safetensors")
    assert "nobody" in message and str(loras / "mixofshow") in message


def test_nodes_run_in_a_real_server(server, tiny_sd15):
    """Load two concepts, fuse, save, sample with the stock nodes; then the fused file loads again."""
    from mos_pack.mixofshow_core.formats.native import read_concept, write_concept

    folder = server.base / "models" / "loras" / "mixofshow"
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(("anna", "ben")):
        write_concept(folder / f"{name}.safetensors", make_concept(tiny_sd15, name, n))
    graph = {
        "1": {"class_type": "MosTestTinyBase", "inputs": {"family": "sd15", "seed": 0}},
        "2": {
            "class_type": "MixOfShowLoadConcept",
            "inputs": {
                "file": "mixofshow/anna.safetensors",
                "trigger": "",
                "name": "",
                "strength": 1.0,
                "role": "auto",
            },
        },
        "3": {
            "class_type": "MixOfShowLoadConcept",
            "inputs": {
                "file": "mixofshow/ben.safetensors",
                "trigger": "",
                "name": "",
                "strength": 0.9,
                "role": "auto",
                "concepts": ["2", 0],
            },
        },
        "4": {
            "class_type": "MixOfShowFuse",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "concepts": ["3", 0],
                "method": "exact",
                "calibration": "quick",
                "save_as": "both",
            },
        },
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "anna and ben"}},
        "6": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "7": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["4", 0],
                "positive": ["5", 0],
                "negative": ["5", 0],
                "latent_image": ["6", 0],
                "seed": 1,
                "steps": 2,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["1", 2]}},
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
        "10": {"class_type": "PreviewImage", "inputs": {"images": ["4", 4]}},
    }
    outputs = server.run(graph)
    report = outputs["4"]["text"][0]
    assert "anna" in report and "kept" in report and "saved:" in report
    assert outputs["9"]["images"] and outputs["10"]["images"]
    fused = read_concept(folder / "both.safetensors")
    assert sorted(entry.name for entry in fused.entries) == ["anna", "ben"]
    assert fused.training["fusion"]["method"] == "exact"
