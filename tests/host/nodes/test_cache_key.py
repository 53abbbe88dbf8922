"""The one key of all caches: each thing that a result rests on is changed once, and the key is another one."""

import functools

import pytest
import torch
from mos_pack.nodes.bridge.host.fingerprints import models_key, tokens_key, weights_digest
from mos_pack.nodes.bridge.host.model import named_linears, patch_key
from mos_pack.nodes.bridge.host.text import register_concepts
from mos_tests.host.builders import make_concept
from mos_tests.host.tiny import tiny_base


def last_layer(base):
    names = sorted(named_linears(base.model, None))
    return patch_key([name for name in names if "output_blocks" in name and "attn2.to_v" in name][-1])


def first_linear(patcher):
    return next(key for key, value in patcher.model.state_dict().items() if value.dim() == 2)


def lora(patcher, key, kind="LoRAAdapter", strength=1.0, value=1.0, **more):
    import comfy.weight_adapter

    out, width = patcher.model.state_dict()[key].shape
    parts = (torch.full((out, 1), value), torch.ones(1, width), 1.0, None, None, None)
    patch = getattr(comfy.weight_adapter, kind)(set(), parts)
    patcher.patches[key] = [(strength, patch, more.get("model", 1.0), more.get("offset"), more.get("function"))]


def diff(patcher, key, cell=-1):
    change = torch.zeros_like(patcher.model.state_dict()[key])
    change.view(-1)[cell] = 1e-3
    patcher.add_patches({key: ("diff", (change,))})


def nested(base, value):
    """What a merge of two models leaves: patches inside a patch."""
    key = last_layer(base)
    weight = base.model.model.state_dict()[key]
    base.model.add_patches({key: ([(weight, lambda w, **_: w), (value, ("diff", (weight,)), 1.0, None, None)],)})


class Inner(torch.nn.Module):
    """A module inside of a swapped one, with what no state dict tells."""

    def __init__(self, factor=1.0, sides=(1, 2), unsaved=0.0, hook=None):
        super().__init__()
        self.factor, self.sides, self.drop = factor, list(sides), torch.nn.Dropout(0.1)
        self.register_buffer("unsaved", torch.tensor(unsaved), persistent=False)
        if hook:
            self.register_forward_hook(hook)

    def forward(self, x):
        return x


def swapped(**settings):
    """A layer of MODEL that another node replaced."""

    def change(base):
        base.model.add_object_patch("diffusion_model.time_embed.1", torch.nn.Sequential(Inner(**settings)))

    return change


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def apply(self, *args):
        return self.factor


def replaced(base, **parts):
    from dataclasses import replace

    return replace(base, **parts)


def through(node, *args, **kwargs):
    """The MODEL that a stock node makes."""

    def change(base):
        made = (
            getattr(node(), node.FUNCTION)(base.model, *args, **kwargs)
            if hasattr(node, "FUNCTION")
            else (node.execute(base.model, *args, **kwargs))
        )
        return replaced(base, model=made[0])

    return change


def stock_nodes():
    from comfy_extras.nodes_freelunch import FreeU
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, RescaleCFG
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return {
        **{f"RescaleCFG {value}": through(RescaleCFG, value) for value in (0.7, 0.5)},
        **{f"FreeU {value}": through(FreeU, value, 1.2, 0.9, 0.2) for value in (1.1, 1.3)},
        **{f"PAG {value}": through(PerturbedAttentionGuidance, value) for value in (3.0, 2.0)},
        **{
            f"sampling {kind} {z}": through(ModelSamplingDiscrete, kind, z)
            for kind in ("eps", "v_prediction")
            for z in (False, True)
        },
    }


def hooked(base, strength):
    """CLIP behind Set CLIP Hooks, with a LoRA hook of that strength."""
    import comfy.hooks

    hook = comfy.hooks.WeightHook(strength, strength)
    hook.weights = {"a": torch.ones(2)}
    group = comfy.hooks.HookGroup()
    group.add(hook)
    clip = base.clip.clone()
    clip.patcher.forced_hooks = group
    return replaced(base, clip=clip)


def by_hand(base):
    key, text = last_layer(base), first_linear(base.clip.patcher)
    vae = first_linear_of_vae(base)
    on = {
        "a LoRA": lambda b: lora(b.model, key),
        "its values": lambda b: lora(b.model, key, value=2.0),
        "its strength": lambda b: lora(b.model, key, strength=0.5),
        "the model's strength": lambda b: lora(b.model, key, model=0),
        "its type": lambda b: lora(b.model, key, kind="LoHaAdapter"),
        "its offset": lambda b: lora(b.model, key, offset=(0, 0, 4)),
        "its function": lambda b: lora(b.model, key, function=lambda w: w * 2),
        "one value": lambda b: diff(b.model, key),
        "another value": lambda b: diff(b.model, key, 0),
        "a merge": lambda b: nested(b, 0.3),
        "its share": lambda b: nested(b, 0.4),
        "the text's LoRA": lambda b: lora(b.clip.patcher, text),
        "text value": lambda b: diff(b.clip.patcher, text),
        "the VAE's": lambda b: diff(b.vae.patcher, vae),
        "clip skip": lambda b: b.clip.clip_layer(-2),
        "a tokenizer option": lambda b: b.clip.set_tokenizer_option("min_padding", 5),
        "a wrapper": lambda b: b.model.add_wrapper("outer_sample", functools.partial(print, 1)),
        "its argument": lambda b: b.model.add_wrapper("outer_sample", functools.partial(print, 2)),
        "a callback": lambda b: b.model.add_callback("on_load", Scale(1).apply),
        "its object": lambda b: b.model.add_callback("on_load", Scale(2).apply),
        "a default": lambda b: b.model.set_model_attn2_patch(lambda n, c, v, o, by=1: (n, c, v)),
        "its value": lambda b: b.model.set_model_attn2_patch(lambda n, c, v, o, by=2: (n, c, v)),
        "a constant": lambda b: b.model.set_model_attn2_patch(lambda n, c, v, o: (n * 2, c, v)),
        "another one": lambda b: b.model.set_model_attn2_patch(lambda n, c, v, o: (n * 3, c, v)),
        "a weight wrapper": lambda b: b.model.add_weight_wrapper(key, Scale(1).apply),
        "a swapped layer": swapped(),
        "its factor": swapped(factor=2.0),
        "its list": swapped(sides=(1, 3)),
        "its unsaved buffer": swapped(unsaved=1.0),
        "its hook": swapped(hook=Scale(5).apply),
        "a slice": lambda b: b.model.set_additional_models("y", [slice(0, 4)]),
        "another slice": lambda b: b.model.set_additional_models("y", [slice(0, 5)]),
        "a compute type": lambda b: b.model.set_model_compute_dtype(torch.bfloat16),
        "an injection": lambda b: b.model.set_injections("x", [Scale(3)]),
        "a model beside it": lambda b: b.model.set_additional_models("x", [base.vae.patcher]),
        "hook patches": lambda b: b.model.hook_patches.update({Scale(4): {key: [(1.0, ("diff", (torch.ones(3),)))]}}),
    }
    return {name: functools.partial(_cloned, change) for name, change in on.items()}


def _cloned(change, base):
    import copy

    vae = copy.copy(base.vae)
    vae.patcher = base.vae.patcher.clone()
    base = replaced(base, model=base.model.clone(), clip=base.clip.clone(), vae=vae)
    change(base)
    return base


def first_linear_of_vae(base):
    return next(key for key, value in base.vae.patcher.model.state_dict().items() if value.dim() == 4)


def others(base):
    import copy

    def scaled_latents(b):
        latents = copy.copy(b.model.model.latent_format)
        latents.scale_factor = 0.5
        b.model.add_object_patch("latent_format", latents)

    def other_range(b):
        b.vae.process_input = lambda image: image

    words = make_concept(base, "mara", 1)
    more = make_concept(base, "mara", 2)

    def knows(concept):
        from mos_pack.mixofshow_core.concept import ConceptUse

        return lambda b: replaced(b, clip=register_concepts(b.clip, [ConceptUse(concept)]))

    return {
        "latents": functools.partial(_cloned, scaled_latents),
        "pixels": functools.partial(_cloned, other_range),
        "a concept": knows(words),
        "its embedding": knows(more),
        "a hook": lambda b: hooked(b, 1.0),
        "hook strength": lambda b: hooked(b, 0.5),
    }


def key_of(base):
    return models_key(base.model, base.clip, base.vae)


def test_each_thing_changes_the_key(tiny_sd15):
    keys = {"nothing": key_of(tiny_sd15)}
    for name, change in {**by_hand(tiny_sd15), **stock_nodes(), **others(tiny_sd15)}.items():
        keys[name] = key_of(change(tiny_sd15))
        assert keys[name] == key_of(change(tiny_sd15)), f"{name}: the same twice gives two keys"
    found = {}
    for name, key in keys.items():
        assert found.setdefault(key, name) == name, f"{name} and {found[key]} have one key"
    assert key_of(tiny_sd15) == keys["nothing"]


@pytest.mark.parametrize("part", ["model", "clip", "vae"])
def test_one_value_of_the_checkpoint_changes_the_key(part):
    base = tiny_base("sd15")
    before = key_of(base)
    assert key_of(tiny_base("sd15")) == before, "the same weights, loaded twice"
    patcher = {"model": base.model, "clip": base.clip.patcher, "vae": base.vae.patcher}[part]
    weights = patcher.model.state_dict()
    name = [key for key in weights if "model_sampling" not in key][len(weights) // 2]
    with torch.inference_mode(weights[name].is_inference()):
        weights[name].view(-1)[-1] += 1e-3
    assert key_of(base) != before


def test_the_size_it_was_made_for_changes_the_key():
    base = tiny_base("sd15")
    before = key_of(base)
    base.model.model.native_size = 64
    assert key_of(base) != before


def test_what_is_loaded_does_not_change_the_key(tiny_sd15):
    import comfy.model_management as management

    model = tiny_sd15.model.clone()
    diff(model, last_layer(tiny_sd15))
    plain, patched = key_of(tiny_sd15), models_key(model, tiny_sd15.clip, tiny_sd15.vae)
    weights = weights_digest(model, "diffusion_model.")
    try:
        management.load_models_gpu([model], force_full_load=True)
        assert weights_digest(model, "diffusion_model.") == weights
        assert (key_of(tiny_sd15), models_key(model, tiny_sd15.clip, tiny_sd15.vae)) == (plain, patched)
    finally:
        management.unload_all_models()


def test_a_stock_embedding_in_a_caption_is_known_by_its_values(tiny_sd15, tmp_path):
    clip = tiny_sd15.clip.clone()
    import copy

    from safetensors.torch import save_file

    clip.tokenizer = copy.copy(clip.tokenizer)
    clip.tokenizer.clip_l = copy.copy(clip.tokenizer.clip_l)
    clip.tokenizer.clip_l.embedding_directory = [str(tmp_path)]
    keys = []
    for value in (0.1, 0.2):
        save_file({"emb_params": torch.full((1, 64), value)}, tmp_path / "word.safetensors")
        keys.append(tokens_key(clip, ["a photo", "a photo of embedding:word"]))
    assert len({*keys, tokens_key(clip, ["a photo"])}) == 3 and tokens_key(clip, ["a photo"]) == ""
